"""FM as a matching model: the interactions between user and item fields are one inner product."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch
from trainer.encoders.fields import FieldEncoder, new_table
from trainer.encoders.layers import Table


class FM(FieldEncoder):
    """user = [sum_f v_f ; 1], item = [sum_g v_g ; w], w = sum of linear terms + 1/2 (|sum_g v_g|^2 - sum_g |v_g|^2); D = W + 1.

    For one user, <user, item> differs from the full FM score by the same number for every item: the ranking is the same. The history
    is one user field, the mean of its item_id embeddings. model.fm.sum_only: the plain sums, compared by cosine.

    Source: Rendle 2010, "Factorization machines", eq. 1 and lemma 3.1; sum_only as in DeepMatch's code.
    """

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        fields = () if settings.model.fm.sum_only else registry.item
        self.linear = nn.ModuleDict({field.name: new_table(settings, field, vocab_sizes[field.name], 1) for field in fields})
        self.dim = self.width + (len(fields) > 0)
        self.similarity = "cosine" if settings.model.fm.sum_only else "inner_product"

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, 1, D]."""
        fields = [self.table("item_id").mean(self.clicked_ids(batch, uh)), *self.embedded(self.user_ids(batch, um))]
        sum_BW = self._fields(fields, noise).sum(dim=1)
        return (F.pad(sum_BW, (0, 1), value=1.0) if self.linear else sum_BW)[:, None, :]

    def item(
        self,
        idx: Tensor,
        *,
        vm: Tensor | None = None,
        multi: Mapping[str, Tensor] | None = None,
        noise: Tensor | None = None,
        drop: float | None = None,
    ) -> Tensor:
        """float[n, D]."""
        ids = self.item_ids(idx, vm, multi)
        fields_nFW = self._fields(self.embedded(ids), noise, drop)
        sum_nW = fields_nFW.sum(dim=1)
        if not self.linear:
            return sum_nW
        pairs_n = (sum_nW.square().sum(dim=1) - fields_nFW.square().sum(dim=(1, 2))) / 2
        terms = [self._terms(name).mean(values) if values.dim() == 2 else self._terms(name)(values) for name, values in ids.items()]
        return torch.cat([sum_nW, pairs_n[:, None] + torch.stack(terms).sum(dim=0)], dim=1)

    def tables(self) -> list[nn.Parameter]:
        """One a field, and the linear terms of each item field."""
        return [*super().tables(), *(self._terms(name).weight for name in self.linear)]

    def _terms(self, name: str) -> Table:
        terms = self.linear[name]
        assert isinstance(terms, Table)
        return terms

    def _fields(self, fields: list[Tensor], noise: Tensor | None, drop: float | None = None) -> Tensor:
        """float[n, F, W], after dropout."""
        return self.dropped(torch.cat(fields, dim=1), noise, drop).view(-1, len(fields), self.width)
