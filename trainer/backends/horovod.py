"""Workers started by horovodrun, over gloo on CPUs (NCCL where Horovod was built with it).

Never hvd.DistributedOptimizer: it hangs when one rank lacks a sparse gradient, and cannot set gradients to None. Never hvd.join: it
lets ranks step with different gradients. Never hvd.allgather's own gradient: it averages where the sum over ranks is right.
"""

import time
from collections.abc import Sequence
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from conf.errors import Fault, TrainingError
from trainer.backends.backend import Backend, is_sparse_table, sparse_gradient


class HorovodBackend(Backend):
    """One rank of hvd.size(). Starts Horovod; raises whatever it raises when the process was not started by horovodrun."""

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self._calls = 0

    def _name(self) -> str:
        """The same name for the same call of every step, or Horovod negotiates each call anew instead of finding it in its cache."""
        self._calls += 1
        return f"call.{self._calls}"

    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See Backend: forward all-gather; backward all-reduce by sum, then the own rows."""
        if counts is None:
            counts = self.gather_ids(torch.tensor([len(x)])).tolist()
        gathered: Tensor = _Gather.apply(x, sum(counts[: self.rank]), self._name())  # type: ignore[no-untyped-call]
        return gathered

    def gather_ids(self, x: Tensor) -> Tensor:
        """See Backend."""
        gathered: Tensor = _wait(hvd.allgather_async(x.detach().contiguous(), name=self._name()))
        return gathered

    def sum(self, x: Tensor) -> Tensor:
        """See Backend."""
        total: Tensor = _wait(hvd.allreduce_async(x.detach(), op=hvd.Sum, name=self._name()))
        return total

    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See Backend: dense gradients as one grouped all-reduce, sparse ones as gathered rows."""
        sparse = [parameter for parameter in parameters if is_sparse_table(parameter)]
        dense = [parameter for parameter in parameters if not is_sparse_table(parameter)]
        for parameter in dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if dense:
            _wait(hvd.grouped_allreduce_async_([parameter.grad for parameter in dense], op=hvd.Average, name=self._name()))
        # all started before the first is waited for: Horovod works on them together
        started = [self._start_rows(sparse_gradient(parameter)) for parameter in sparse]
        for parameter, (indices, values) in zip(sparse, started, strict=True):
            rows, sums = _wait(indices), _wait(values) / self.size
            gathered = torch.sparse_coo_tensor(rows[None], sums, parameter.shape, check_invariants=False)
            parameter.grad = gathered.coalesce()
        self._calls = 0  # a step ends here

    def _start_rows(self, gradient: Tensor) -> tuple[Any, Any]:
        indices = hvd.allgather_async(gradient.indices()[0].contiguous(), name=self._name())
        return indices, hvd.allgather_async(gradient.values().contiguous(), name=self._name())

    def agree_min(self, value: int) -> int:
        """See Backend."""
        return int(_wait(hvd.allreduce_async(torch.tensor([value]), op=hvd.Min, name=self._name())))

    def agree_any(self, value: bool) -> bool:
        """See Backend."""
        return int(_wait(hvd.allreduce_async(torch.tensor([int(value)]), op=hvd.Max, name=self._name()))) > 0

    def broadcast_(self, module: nn.Module) -> None:
        """See Backend."""
        hvd.broadcast_parameters(module.state_dict(), root_rank=0)

    def barrier(self, timeout_s: float) -> None:
        """See Backend."""
        handle = hvd.allreduce_async(torch.zeros(1), op=hvd.Sum, name=self._name())
        if not _arrived(handle, timeout_s):
            fault = Fault(f"not all {self.size} workers came within {timeout_s:g} s", fix="see the other workers' logs")
            raise TrainingError("barrier", [fault])
        hvd.synchronize(handle)


def _arrived(handle: Any, timeout_s: float) -> bool:
    """Whether the answer came in time. Horovod's own waiting spins, and takes the core from the workers it waits for."""
    deadline = time.monotonic() + timeout_s
    while not hvd.poll(handle):
        if time.monotonic() > deadline:
            return False
        time.sleep(1e-4)
    return True


def _wait(handle: Any) -> Any:
    _arrived(handle, float("inf"))
    return hvd.synchronize(handle)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int, name: str) -> Tensor:
        ctx.start, ctx.num, ctx.name = start, len(x), name
        gathered: Tensor = _wait(hvd.allgather_async(x.contiguous(), name=name))
        return gathered

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = _wait(hvd.allreduce_async(grads[0].contiguous(), op=hvd.Sum, name=f"{ctx.name}.backward"))
        return total[ctx.start : ctx.start + ctx.num], None, None
