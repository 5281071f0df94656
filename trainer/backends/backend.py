"""The interface of a backend. Every method except `abort` is collective: all ranks call it, in the same order."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from conf.errors import TRAINING, Fault, TrainingError


class Backend(ABC):
    """rank: this worker, 0..size-1. size: workers.

    A collective whose partner is gone raises TrainingError, whatever the library below it raises.
    """

    rank: int
    size: int

    @abstractmethod
    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """[B_r, ...] of every rank -> [sum B_r, ...] in rank order, with the exact gradient.

        Backward sums over ranks the gradients that the gathered rows got there (no average), and hands each rank its own rows: with
        losses whose mean over ranks is the global loss, and gradients averaged by `sync_gradients`, that is the global gradient.
        counts: the B_r, where known (saves a round of talk); they may differ, and be 0. The result must enter the loss on every
        rank, times 0 if need be, or the other ranks wait for its backward.
        """

    @abstractmethod
    def gather_ids(self, x: Tensor) -> Tensor:
        """[B_r, ...] of every rank -> [sum B_r, ...] in rank order, without gradient."""

    @abstractmethod
    def exchange(self, x: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
        """Send rows of x [sum counts, ...] to the ranks, the first counts[0] of them to rank 0 and so on; without gradient.

        expected: how many rows come from each rank, where known (saves a round of talk).

        Returns:
            The rows that came, in rank order, and how many came from each rank.
        """

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, detached."""

    @abstractmethod
    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each .grad by its mean over ranks. Same parameters, same order on every rank.

        A missing .grad counts as zero, and is filled in. A SparseTable travels as coalesced (row, values)
        pairs and ends with a coalesced sparse .grad. A Shard gets that of its own rows from all ranks, see trainer.backends.shards.
        """

    @abstractmethod
    def agree_min(self, value: int) -> int:
        """The smallest value over ranks."""

    @abstractmethod
    def agree_any(self, value: bool) -> bool:
        """Whether any rank says True."""

    @abstractmethod
    def broadcast_(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers, in place; a Shard stays each rank's own."""

    @abstractmethod
    def barrier(self, timeout_s: float) -> None:
        """Wait for every rank; raises TrainingError when they are not all there in time."""

    def abort(self) -> NoReturn:
        """End this process at once with the exit code of a failed training; not collective.

        For a rank that hangs in a collective: no clean-up runs. horovodrun or torchrun then ends the other ranks.
        """
        os._exit(TRAINING)

    def another_ended(self, error: Exception) -> TrainingError:
        """What to raise for an error of a collective: a known end, and not the cause, which the worker that failed has told."""
        fault = Fault("another worker ended", " ".join(str(error).split())[:200], "see its own message; --resume goes on")
        return TrainingError(f"worker {self.rank}", [fault])

    def not_all_came(self, timeout_s: float) -> TrainingError:
        """What a barrier raises that was waited for too long."""
        fault = Fault(f"not all {self.size} workers came within {timeout_s:g} s", fix="see the other workers' logs")
        return TrainingError("barrier", [fault])


class SparseTable(nn.Parameter):
    """A parameter whose gradients are sparse over rows. A type, not a mark: deep copies keep it."""


def is_sparse_table(parameter: nn.Parameter) -> bool:
    """Whether the parameter's gradients are sparse over rows."""
    return isinstance(parameter, SparseTable)


def dense_by_kind(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters that are no sparse tables, those of one dtype and device together, in order; missing gradients filled in by zeros."""
    groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        if is_sparse_table(parameter):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values())


def sparse_gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient as coalesced sparse rows; an empty one where it has none."""
    if parameter.grad is not None:
        return parameter.grad.coalesce()
    indices = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
    values = torch.empty(0, *parameter.shape[1:], dtype=parameter.dtype, device=parameter.device)
    return torch.sparse_coo_tensor(indices, values, parameter.shape, check_invariants=False).coalesce()
