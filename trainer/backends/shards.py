"""Tables that are divided over the workers: row r is with rank r % W, and rows travel all-to-all.

Ids are numbered by frequency, so each worker holds as many of the often used rows as any other. A worker asks for the rows that it looks
up, each once; their gradients stay with it until the gradients are synchronised, and go to their owners then, each row once a step.

Source: the model-parallel tables of Naumov et al. 2019, "Deep learning recommendation model for personalization and recommendation
systems", 4, by rows.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from trainer.backends.backend import Backend, SparseTable, is_sparse_table


class Shard(nn.Parameter):
    """Rows rank, rank + W, ... of a table. A type, not a mark: deep copies keep it.

    pending: (int64[n] rows of the whole table, float[n, D] their gradients) of this worker's lookups since the last `settle`.
    """

    pending: list[tuple[Tensor, Tensor]]

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Self:
        """As nn.Parameter."""
        made = super().__new__(cls, data, requires_grad)
        made.pending = []
        return made


class SparseShard(Shard, SparseTable):
    """One whose gradients are sparse over its rows."""


def fetch(shard: Shard, rows_n: Tensor, backend: Backend) -> Tensor:
    """float[n, D]: these rows of the whole table, int64[n], each once; collective, and n may be 0 on any rank."""
    vectors_nD: Tensor = _Fetch.apply(shard, rows_n, backend)  # type: ignore[no-untyped-call]
    return vectors_nD


def settle(parameters: Sequence[nn.Parameter], backend: Backend) -> list[nn.Parameter]:
    """Give each shard as .grad the mean over ranks of the gradients of its rows; returns the parameters that are no shards. Collective."""
    for parameter in parameters:
        if isinstance(parameter, Shard):
            parameter.grad = _mean(parameter, backend)
            parameter.pending.clear()
    return [parameter for parameter in parameters if not isinstance(parameter, Shard)]


def shards_of(module: nn.Module) -> dict[str, Tensor]:
    """This worker's rows of the module's divided tables, by name."""
    return {name: parameter.detach() for name, parameter in module.named_parameters() if isinstance(parameter, Shard)}


def replicated(module: nn.Module) -> dict[str, Tensor]:
    """The module's state but for its divided tables: what is the same on every rank."""
    divided = shards_of(module)
    return {name: value for name, value in module.state_dict().items() if name not in divided}


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Shard, rows_n: Tensor, backend: Backend) -> Tensor:
        ctx.shard, ctx.rows_n = shard, rows_n
        order_n, counts = _by_owner(rows_n, backend.size)
        asked, asked_counts = backend.exchange(rows_n[order_n], counts)
        answer_nD, _ = backend.exchange(shard.detach()[asked // backend.size], asked_counts, counts)
        return torch.empty_like(answer_nD).index_copy_(0, order_n, answer_nD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        ctx.shard.pending.append((ctx.rows_n, grads[0]))
        return None, None, None


def _mean(shard: Shard, backend: Backend) -> Tensor:
    rows = torch.cat([torch.empty(0, dtype=torch.int64, device=shard.device), *(rows for rows, _ in shard.pending)])
    values = torch.cat([shard.new_empty(0, *shard.shape[1:]), *(values for _, values in shard.pending)])
    rows_n, which = torch.unique(rows, return_inverse=True)
    sums_nD = values.new_zeros(len(rows_n), *values.shape[1:]).index_add_(0, which, values)
    order_n, counts = _by_owner(rows_n, backend.size)
    own, own_counts = backend.exchange(rows_n[order_n], counts)
    sums, _ = backend.exchange(sums_nD[order_n], counts, own_counts)
    gradient = torch.sparse_coo_tensor((own // backend.size)[None], sums / backend.size, shard.shape, check_invariants=False).coalesce()
    return gradient if is_sparse_table(shard) else gradient.to_dense()


def _by_owner(rows_n: Tensor, size: int) -> tuple[Tensor, list[int]]:
    """(int64[n]: places of the rows of rank 0, then of rank 1, ...; how many there are of each)."""
    owner_n = rows_n % size
    counts: list[int] = torch.bincount(owner_n, minlength=size).tolist()
    return owner_n.argsort(stable=True), counts
