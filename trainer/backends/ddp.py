"""Workers started by torchrun, through torch.distributed: gloo for tensors on CPUs, NCCL for those on GPUs.

Not the wrapper DistributedDataParallel: it follows one forward() a step, where losses encode as often as they need, and a rank on which
a parameter went unused is an error to it.
"""

import atexit
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.backends.backend import Backend, dense_by_kind, is_sparse_table, sparse_gradient
from trainer.backends.shards import replicated, settle

_FOREVER = timedelta(days=7)  # how long the others may take is for the watchdog to judge, which shows where they hang


class DdpBackend(Backend):
    """One rank of dist.get_world_size(). Raises whatever torch.distributed raises when the process was not started by torchrun."""

    def __init__(self, device: torch.device) -> None:
        _end_with_torchrun()
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_FOREVER)
        atexit.register(dist.destroy_process_group)
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()

    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """See Backend: forward all-gather; backward all-reduce by sum, then the own rows."""
        gathered: Tensor = _Gather.apply(x, self._counts(x) if counts is None else counts, self)  # type: ignore[no-untyped-call]
        return gathered

    def gather_ids(self, x: Tensor) -> Tensor:
        """See Backend; one more talk, in which ranks tell how many rows they have."""
        return self.rows(self.start_rows(x.detach(), self._counts(x)))

    def exchange(self, x: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
        """See Backend."""
        if expected is None:
            expected = self._exchanged(torch.tensor(counts), [1] * self.size, [1] * self.size).tolist()
        return self._exchanged(x.detach(), counts, expected), list(expected)

    def _exchanged(self, x: Tensor, counts: Sequence[int], expected: Sequence[int]) -> Tensor:
        came = x.new_empty(sum(expected), *x.shape[1:])
        self._wait(dist.all_to_all_single(came, x.contiguous(), list(expected), list(counts), async_op=True), came)
        return came

    def sum(self, x: Tensor) -> Tensor:
        """See Backend."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        self._wait(dist.all_reduce(total, async_op=True), total)
        return total

    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """See Backend: dense gradients as one all-reduce a dtype, sparse ones as gathered rows."""
        parameters = settle(parameters, self)
        tables = [parameter for parameter in parameters if is_sparse_table(parameter)]
        groups = dense_by_kind(parameters)
        flats = [torch.cat([_gradient(parameter).reshape(-1) for parameter in group]) for group in groups]
        sums = [dist.all_reduce(flat, async_op=True) for flat in flats]
        gradients = [sparse_gradient(table) for table in tables]
        own = torch.tensor([[gradient._nnz() for gradient in gradients]], dtype=torch.int64)
        counts_WT = self.rows(self.start_rows(own, [1] * self.size)).tolist() if tables else []
        # all started before the first is waited for
        sent = []
        for gradient, counts in zip(gradients, zip(*counts_WT, strict=True), strict=True):
            sent.append((self.start_rows(gradient.indices()[0], counts), self.start_rows(gradient.values(), counts)))
        for group, flat, work in zip(groups, flats, sums, strict=True):
            self._wait(work, flat)
            flat /= self.size
            for parameter, part in zip(group, torch.split(flat, [parameter.numel() for parameter in group]), strict=True):
                parameter.grad = part.view_as(parameter)
        for table, (indices, values) in zip(tables, sent, strict=True):
            rows, means = self.rows(indices), self.rows(values) / self.size
            table.grad = torch.sparse_coo_tensor(rows[None], means, table.shape, check_invariants=False).coalesce()

    def agree_min(self, value: int) -> int:
        """See Backend."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def agree_any(self, value: bool) -> bool:
        """See Backend."""
        return self._reduced(int(value), dist.ReduceOp.MAX) > 0

    def _reduced(self, value: int, operation: Any) -> int:
        values = torch.tensor([value])
        self._wait(dist.all_reduce(values, op=operation, async_op=True), values)
        return int(values)

    def broadcast_(self, module: nn.Module) -> None:
        """See Backend."""
        tensors = [tensor for tensor in replicated(module).values() if isinstance(tensor, Tensor)]
        for tensor, work in [(tensor, dist.broadcast(tensor, src=0, async_op=True)) for tensor in tensors]:
            self._wait(work, tensor)

    def barrier(self, timeout_s: float) -> None:
        """See Backend."""
        zero = torch.zeros(1)
        work = dist.all_reduce(zero, async_op=True)
        if not _arrived(work, timeout_s):
            raise self.not_all_came(timeout_s)
        self._wait(work, zero)

    # ---- one call ---------------------------------------------------------------------------------------------------

    def start_rows(self, x: Tensor, counts: Sequence[int]) -> "_Sent":
        """Begin to gather rows: x has counts[rank] of them."""
        most = max(counts)
        if len(x) < most:  # gloo gathers blocks of one size: shorter ones travel filled up
            x = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
        blocks = x.new_empty(self.size * most, *x.shape[1:])
        work = dist.all_gather_single(blocks, x.contiguous(), async_op=True) if blocks.numel() else None
        return _Sent(blocks, counts, work)

    def rows(self, sent: "_Sent") -> Tensor:
        """[sum counts, ...]: the rows of all ranks in rank order."""
        if sent.work is not None:
            self._wait(sent.work, sent.blocks)
        most = max(sent.counts)
        if min(sent.counts) == most:
            return sent.blocks
        return torch.cat([sent.blocks[rank * most : rank * most + count] for rank, count in enumerate(sent.counts)])

    def _counts(self, x: Tensor) -> list[int]:
        counts: list[int] = self.rows(self.start_rows(torch.tensor([len(x)]), [1] * self.size)).tolist()
        return counts

    def _wait(self, work: Any, result: Tensor) -> None:
        if not result.is_cuda:  # on a GPU nothing is waited for here: what reads the result comes later on its stream
            _arrived(work, float("inf"))
        try:
            work.wait()
        except RuntimeError as error:
            raise self.another_ended(error) from error


@dataclass(frozen=True)
class _Sent:
    """A gathering under way. blocks: [W * most, ...], each rank's rows and then filling. work: None where there is nothing to send."""

    blocks: Tensor
    counts: Sequence[int]
    work: Any


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], backend: DdpBackend) -> Tensor:
        ctx.start, ctx.num, ctx.backend = sum(counts[: backend.rank]), len(x), backend
        return backend.rows(backend.start_rows(x, counts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backend.sum(grads[0])[ctx.start : ctx.start + ctx.num], None, None


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None  # dense_by_kind has seen to it
    return parameter.grad


def _arrived(work: Any, timeout_s: float) -> bool:
    """Whether the answer came in time. Waiting inside torch, a process would not hear a signal that tells it to end."""
    deadline = time.monotonic() + timeout_s
    while not work.is_completed():
        if time.monotonic() > deadline:
            return False
        time.sleep(1e-4)
    return True


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with_torchrun() -> None:
    """Have Linux tell this process to end when torchrun was killed, which then can tell it nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
