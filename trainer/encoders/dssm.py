"""DSSM: two towers over concatenated field embeddings, compared by cosine; the encoder MIC (Lu et al. 2022) starts from."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch, Encoder
from trainer.encoders.layers import Table, dropout, history_ids, masked_ids, tower


class DSSM(Encoder):
    """user = MLP(user fields, mean of the history's item_id embeddings); item = MLP(item fields). tanh hidden layers, linear output.

    History and items share the item_id table. Dropout falls on the concatenated embeddings.

    Source: Huang et al. 2013, "Learning deep structured semantic models for web search using clickthrough data", with
    embeddings in place of letter trigrams; MIC 4.3 for the dropout.
    """

    similarity = "cosine"
    interests = 1

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__()
        model = settings.model
        width = model.embedding.dim or model.dim
        sparse = settings.trainer.optimizer.tables == "rowwise_adagrad"
        self.dim, self.drop = model.dim, model.dropout
        self.registry, self.catalogue = registry, catalogue  # features are looked up, not learned: no part of the weights
        self.embed = nn.ModuleDict(
            {f.name: Table(vocab_sizes[f.name], width, init=model.embedding.init, sparse=sparse) for f in registry.embedded}
        )
        self.user_tower = tower(width * (len(registry.user) + 1), model.hidden, model.dim)
        self.item_tower = tower(width * len(registry.item), model.hidden, model.dim)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, 1, D]."""
        ids = masked_ids(self.registry.user, {f.name: batch[f"user.{f.name}"] for f in self.registry.user}, um)
        hist_BL = history_ids(self.catalogue.single["item_id"][batch["hist"]], batch["hist_len"], uh)
        input_BE = torch.cat([*self._embedded(ids), self._table("item_id").mean(hist_BL)], dim=1)
        vectors_BD: Tensor = self.user_tower(self._dropped(input_BE, noise))
        return vectors_BD[:, None, :]

    def item(
        self, idx: Tensor, *, vm: Tensor | None = None, multi: Mapping[str, Tensor] | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """float[n, D]."""
        single, given = self.catalogue.single, multi or {name: ids[idx] for name, ids in self.catalogue.multi.items()}
        ids = {f.name: given[f.name] if f.role == "multi" else single[f.name][idx] for f in self.registry.item}
        input_nE = torch.cat(self._embedded(masked_ids(self.registry.item, ids, vm)), dim=1)
        vectors_nD: Tensor = self.item_tower(self._dropped(input_nE, noise))
        return vectors_nD

    def tables(self) -> list[nn.Parameter]:
        """One a field."""
        return [self._table(field.name).weight for field in self.registry.embedded]

    def _table(self, name: str) -> Table:
        table = self.embed[name]
        assert isinstance(table, Table)
        return table

    def _embedded(self, ids: Mapping[str, Tensor]) -> list[Tensor]:
        return [self._table(name).mean(values) if values.dim() == 2 else self._table(name)(values) for name, values in ids.items()]

    def _dropped(self, x_BE: Tensor, noise_B: Tensor | None) -> Tensor:
        return dropout(x_BE, self.drop, noise_B) if self.training else x_BE
