"""What encoders over feature fields share: the embedding tables, and the fields and histories looked up in them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from conf.fields import EMPTY, MASK, PAD, Field, Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch, Encoder
from trainer.encoders.layers import Table, dropout, history_ids, kept_clicks, masked_ids, tower

LARGE, FEW = 100_000, 10  # decision


def new_table(settings: Settings, field: Field, num_rows: int, width: int) -> Table:
    """The table of a field; of whole gradients and Adam, or of gradients by rows and an optimiser of rows (trainer.optimizer.tables).

    auto takes rows where a table is large and a step uses few of them: 100,000 rows or more, of which a batch looks up a tenth at
    most, were all its ids different.
    """
    sparse = settings.trainer.optimizer.tables in ("rowwise_adagrad", "sparse_adam")
    if settings.trainer.optimizer.tables == "auto":
        values = field.max_len if field.role == "multi" else 1
        ids_a_row = values * (settings.model.history + 1 if field.side == "item" else 1)
        sparse = num_rows >= max(LARGE, FEW * settings.trainer.batch * ids_a_row)
    return Table(num_rows, width, init=settings.model.embedding.init, sparse=sparse)


class FieldEncoder(Encoder):
    """An encoder with one embedding table a field; history and items share that of item_id.

    width: W, of an embedding. item_fields: those of the registry that the item side uses: the id alone where model.item_tower is id.
    activation: of the hidden layers. Unless an encoder has a way of its own, a tower is one module over the concatenated embeddings of
    its fields, on which dropout falls; the user's end with the mean of the history's item_id embeddings. hidden: id that a hidden field
    shows. tokens: whether a dropped click shows MASK, instead of being left out.
    """

    activation: type[nn.Module] = nn.ReLU
    user_tower: nn.Module
    item_tower: nn.Module

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__()
        model = settings.model
        self.width = model.embedding.dim or model.dim
        self.dim, self.drop, self.interests = model.dim, model.dropout, 1
        self.hidden = MASK if model.embedding.mask == "learned" else PAD
        self.tokens = model.history_mask == "token"
        self.registry, self.catalogue = registry, catalogue  # features are looked up, not learned: no part of the weights
        self.item_fields = tuple(field for field in registry.item if field.name == "item_id" or model.item_tower == "mlp")
        self.features_dim = self.width * len(self.item_fields)
        fields = (*registry.user, *self.item_fields)
        self.embed = nn.ModuleDict({field.name: new_table(settings, field, vocab_sizes[field.name], self.width) for field in fields})

    def dense(self, num_in: int, hidden: Sequence[int], num_out: int) -> nn.Sequential:
        """Hidden layers of this encoder's kind, then a linear one."""
        return tower(num_in, hidden, num_out, self.activation)

    def dense_items(self, settings: Settings) -> nn.Module:
        """The item side: dense layers over all its fields, or the id's embedding as it is (model.item_tower)."""
        if settings.model.item_tower == "id":
            return nn.Identity()
        return self.dense(self.width * len(self.item_fields), settings.model.hidden, self.dim)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, K, D]; here K = 1."""
        history_BW = self.table("item_id").mean(self.clicked_ids(batch, uh))
        input_BE = torch.cat([*self.embedded(self.user_ids(batch, um)), history_BW], dim=1)
        vectors_BD: Tensor = self.user_tower(self.dropped(input_BE, noise))
        return vectors_BD[:, None, :]

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
        input_nE = self.features(idx, vm=vm, multi=multi)
        as_it_is = isinstance(self.item_tower, nn.Identity) and drop is None
        vectors_nD: Tensor = self.item_tower(input_nE if as_it_is else self.dropped(input_nE, noise, drop))
        return vectors_nD

    def features(self, idx: Tensor, *, vm: Tensor | None = None, multi: Mapping[str, Tensor] | None = None) -> Tensor:
        """float[n, E]."""
        return torch.cat(self.embedded(self.item_ids(idx, vm, multi)), dim=1)

    def tables(self) -> list[nn.Parameter]:
        """One a field."""
        return [self.table(name).weight for name in self.embed]

    def table(self, name: str) -> Table:
        """The table of a field."""
        table = self.embed[name]
        assert isinstance(table, Table)
        return table

    def user_ids(self, batch: Batch, um: Tensor | None) -> dict[str, Tensor]:
        """Vocabulary ids of each user field: int64[B], or [B, M] of a multi-valued one."""
        return masked_ids(self.registry.user, {f.name: batch[f"user.{f.name}"] for f in self.registry.user}, um, self.hidden)

    def item_ids(self, idx: Tensor, vm: Tensor | None, multi: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Vocabulary ids of each item field in use."""
        single, given = self.catalogue.single, multi or {name: ids[idx] for name, ids in self.catalogue.multi.items()}
        ids = {f.name: given[f.name] if f.role == "multi" else single[f.name][idx] for f in self.registry.item}
        masked = masked_ids(self.registry.item, ids, vm, self.hidden)
        return {field.name: masked[field.name] for field in self.item_fields}

    def embedded(self, ids: Mapping[str, Tensor]) -> list[Tensor]:
        """float[B, W] of each field: its embedding, or the mean of those of its values."""
        return [self.table(name).mean(values) if values.dim() == 2 else self.table(name)(values) for name, values in ids.items()]

    def clicked_ids(self, batch: Batch, uh: Tensor | None) -> Tensor:
        """int64[B, L]: item_id of each click of the history, PAD where none is; see `history_ids`."""
        item_ids_BL, dropped_B = self.shown_ids(batch["hist"], batch["hist_len"], uh)
        return history_ids(item_ids_BL, batch["hist_len"], dropped_B)

    def shown_ids(self, hist_BL: Tensor, length_B: Tensor, uh: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(item_id int64[B, L] of the clicks, the bits of those that are still to be dropped): MASK, and none, with tokens."""
        item_ids_BL = self.catalogue.single["item_id"][hist_BL]
        if uh is None or not self.tokens:
            return item_ids_BL, uh
        return item_ids_BL.masked_fill(~kept_clicks(length_B, hist_BL.shape[1], uh), MASK), None

    def clicked_fields(self, batch: Batch, uh: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """(float[B, L, W] of each item field, bool[B, L] which clicks count). Without any click, the first is EMPTY in every field."""
        hist_BL, length_B = batch["hist"], batch["hist_len"]
        never_BL = (length_B == 0)[:, None] & (torch.arange(hist_BL.shape[1], device=hist_BL.device) == 0)
        masked_n = None  # clicks that are shown as MASK in every field
        if uh is not None and self.tokens:
            masked_n, uh = -(~kept_clicks(length_B, hist_BL.shape[1], uh)).long().flatten(), None
        known_BL = kept_clicks(length_B, hist_BL.shape[1], uh)
        never_n, known_n = never_BL.flatten(), known_BL.flatten()
        clicked = []
        for name, values in self.item_ids(hist_BL.flatten(), masked_n, None).items():
            if values.dim() == 2:
                known = values.masked_fill(~known_n[:, None], PAD)
                first_M = torch.arange(values.shape[1], device=values.device) == 0
                vectors = self.table(name).mean(known.masked_fill(never_n[:, None] & first_M, EMPTY))
            else:
                vectors = self.table(name)(values.masked_fill(~known_n, PAD).masked_fill(never_n, EMPTY))
            clicked.append(vectors.view(*hist_BL.shape, self.width))
        return clicked, known_BL | never_BL

    def dropped(self, x_BE: Tensor, noise_B: Tensor | None, drop: float | None = None) -> Tensor:
        """x after dropout, in train mode; drop: in place of model.dropout."""
        return dropout(x_BE, self.drop if drop is None else drop, noise_B) if self.training else x_BE
