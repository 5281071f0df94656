"""Workers started by horovodrun, over gloo on CPUs (NCCL where Horovod was built with it).

Never hvd.DistributedOptimizer: it hangs when one rank lacks a sparse gradient, and cannot set gradients to None. Never hvd.join: it
lets ranks step with different gradients. Never hvd.allgather's own gradient: it averages where the sum over ranks is right.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from trainer.backends.backend import Backend, dense_by_kind, is_sparse_table, sparse_gradient
from trainer.backends.shards import replicated, settle


class HorovodBackend(Backend):
    """One rank of hvd.size(). Starts Horovod; raises whatever it raises when the process was not started by horovodrun."""

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self._calls = 0

    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See Backend: forward all-gather; backward all-reduce by sum, then the own rows."""
        if counts is None:
            counts = self.gather_ids(torch.tensor([len(x)])).tolist()
        gathered: Tensor = _Gather.apply(x, sum(counts[: self.rank]), self)  # type: ignore[no-untyped-call]
        return gathered

    def gather_ids(self, x: Tensor) -> Tensor:
        """See Backend."""
        gathered: Tensor = self.wait(self.start(hvd.allgather_async, x.detach().contiguous()))
        return gathered

    def exchange(self, x: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
        """See Backend; Horovod asks for the numbers in any case."""
        splits = torch.tensor(counts, dtype=torch.int32)
        came, numbers = self.wait(self.start(hvd.alltoall_async, x.detach().contiguous(), splits=splits))
        return came, numbers.tolist()

    def sum(self, x: Tensor) -> Tensor:
        """See Backend."""
        total: Tensor = self.wait(self.start(hvd.allreduce_async, x.detach(), op=hvd.Sum))
        return total

    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See Backend: dense gradients as one grouped all-reduce a dtype, sparse ones as gathered rows."""
        parameters = settle(parameters, self)
        sparse = [parameter for parameter in parameters if is_sparse_table(parameter)]
        for group in dense_by_kind(parameters):
            self.wait(self.start(hvd.grouped_allreduce_async_, [parameter.grad for parameter in group], op=hvd.Average))
        # all started before the first is waited for: Horovod works on them together
        started = [self._start_rows(sparse_gradient(parameter)) for parameter in sparse]
        for parameter, (indices, values) in zip(sparse, started, strict=True):
            rows, sums = self.wait(indices), self.wait(values) / self.size
            gathered = torch.sparse_coo_tensor(rows[None], sums, parameter.shape, check_invariants=False)
            parameter.grad = gathered.coalesce()
        self._calls = 0  # a step ends here

    def _start_rows(self, gradient: Tensor) -> tuple[Any, Any]:
        indices = self.start(hvd.allgather_async, gradient.indices()[0].contiguous())
        return indices, self.start(hvd.allgather_async, gradient.values().contiguous())

    def agree_min(self, value: int) -> int:
        """See Backend."""
        return int(self.wait(self.start(hvd.allreduce_async, torch.tensor([value]), op=hvd.Min)))

    def agree_any(self, value: bool) -> bool:
        """See Backend."""
        return int(self.wait(self.start(hvd.allreduce_async, torch.tensor([int(value)]), op=hvd.Max))) > 0

    def broadcast_(self, module: nn.Module) -> None:
        """See Backend."""
        with self._others_there():
            hvd.broadcast_parameters(replicated(module), root_rank=0)

    def barrier(self, timeout_s: float) -> None:
        """See Backend."""
        handle = self.start(hvd.allreduce_async, torch.zeros(1), op=hvd.Sum)
        if not _arrived(handle, timeout_s):
            raise self.not_all_came(timeout_s)
        self.wait(handle)

    # ---- one call ---------------------------------------------------------------------------------------------------

    def start(self, operation: Callable[..., Any], given: Any, *, name: str | None = None, **options: Any) -> Any:
        """Begin a collective; returns its handle."""
        with self._others_there():
            return operation(given, name=name or self.next_name(), **options)

    def wait(self, handle: Any) -> Any:
        """The result of a collective that was begun."""
        _arrived(handle, float("inf"))
        with self._others_there():
            return hvd.synchronize(handle)

    def next_name(self) -> str:
        """The same name for the same call of every step, or Horovod negotiates each call anew instead of finding it in its cache."""
        self._calls += 1
        return f"call.{self._calls}"

    @contextmanager
    def _others_there(self) -> Iterator[None]:
        try:
            yield
        except HorovodInternalError as error:
            raise self.another_ended(error) from error


def _arrived(handle: Any, timeout_s: float) -> bool:
    """Whether the answer came in time. Horovod's own waiting spins, and takes the core from the workers it waits for."""
    deadline = time.monotonic() + timeout_s
    while not hvd.poll(handle):
        if time.monotonic() > deadline:
            return False
        time.sleep(1e-4)
    return True


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int, backend: HorovodBackend) -> Tensor:
        ctx.start, ctx.num, ctx.backend, ctx.name = start, len(x), backend, backend.next_name()
        gathered: Tensor = backend.wait(backend.start(hvd.allgather_async, x.contiguous(), name=ctx.name))
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        sent = ctx.backend.start(hvd.allreduce_async, grads[0].contiguous(), op=hvd.Sum, name=f"{ctx.name}.backward")
        return ctx.backend.wait(sent)[ctx.start : ctx.start + ctx.num], None, None
