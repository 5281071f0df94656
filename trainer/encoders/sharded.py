"""Embedding tables larger than a worker's memory: each worker holds its rows."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.fields import MASK, PAD
from trainer.backends.backend import Backend
from trainer.backends.shards import Shard, SparseShard, fetch
from trainer.encoders.layers import Table
from trainer.randomness import fill_uniform_


class ShardedTable(Table):
    """The same table, of which this worker holds rows rank, rank + W, ... and looks up any. Every lookup is collective.

    whole: without storage, see `shard_tables`.
    """

    weight: Shard

    def __init__(self, whole: Table, backend: Backend) -> None:
        nn.Module.__init__(self)
        self.init, self.sparse, self.backend = whole.init, whole.sparse, backend
        num, dim = whole.weight.shape
        own = len(range(backend.rank, num, backend.size))
        self.weight = (SparseShard if whole.sparse else Shard)(torch.empty(own, dim, device=whole.weight.device))

    def reset(self, seed: int, name: str) -> None:
        """Fill the rows as those of the whole table."""
        rank, size = self.backend.rank, self.backend.size
        fill_uniform_(self.weight, self.init, seed, f"{name}.weight", first_row=rank, row_step=size)
        for row in (PAD, MASK):
            if row % size == rank:
                self.weight[row // size] = 0

    def forward(self, ids: Tensor) -> Tensor:
        """int[...] -> float[..., dim]."""
        rows_n, which = torch.unique(ids, return_inverse=True)  # ascending: PAD comes first
        vectors_nD = fetch(self.weight, rows_n, self.backend)
        padding = 0 if len(rows_n) and int(rows_n[0]) == PAD else None
        return F.embedding(which, vectors_nD, padding_idx=padding)

    def total(self, ids_BM: Tensor) -> Tensor:
        """float[B, dim]."""
        looked_up_BMD: Tensor = self(ids_BM)
        return looked_up_BMD.sum(dim=1)


def shard_tables(encoder: nn.Module, fields: Collection[str], backend: Backend) -> None:
    """Divide the tables of these fields, in place; of a module without storage (trainer.deferred), so that the whole never has any."""
    for tables in [module for module in encoder.modules() if isinstance(module, nn.ModuleDict)]:
        for name, table in tables.items():
            if name in fields and isinstance(table, Table):
                tables[name] = ShardedTable(table, backend)


def own_rows(encoder: nn.Module, name: str, whole: Tensor) -> Tensor:
    """What this worker holds of a whole parameter of the encoder, by its name."""
    table = encoder.get_submodule(name.rpartition(".")[0])
    return whole[table.backend.rank :: table.backend.size] if isinstance(table, ShardedTable) else whole
