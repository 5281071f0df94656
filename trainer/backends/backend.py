"""The interface of a backend. Every method except `abort` is collective: all ranks call it, in the same order."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from conf.errors import TRAINING


class Backend(ABC):
    """rank: this worker, 0..size-1. size: workers."""

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
    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, detached."""

    @abstractmethod
    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each .grad by its mean over ranks. Same parameters, same order on every rank.

        A missing .grad counts as zero, and is filled in. A SparseTable travels as coalesced (row, values)
        pairs and ends with a coalesced sparse .grad.
        """

    @abstractmethod
    def agree_min(self, value: int) -> int:
        """The smallest value over ranks."""

    @abstractmethod
    def agree_any(self, value: bool) -> bool:
        """Whether any rank says True."""

    @abstractmethod
    def broadcast_(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers, in place."""

    @abstractmethod
    def barrier(self, timeout_s: float) -> None:
        """Wait for every rank; raises TrainingError when they are not all there in time."""

    def abort(self) -> NoReturn:
        """End this process at once with the exit code of a failed training; not collective.

        For a rank that hangs in a collective: no clean-up runs. horovodrun then ends the other ranks.
        """
        os._exit(TRAINING)


class SparseTable(nn.Parameter):
    """A parameter whose gradients are sparse over rows. A type, not a mark: deep copies keep it."""


def is_sparse_table(parameter: nn.Parameter) -> bool:
    """Whether the parameter's gradients are sparse over rows."""
    return isinstance(parameter, SparseTable)


def sparse_gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient as coalesced sparse rows; an empty one where it has none."""
    if parameter.grad is not None:
        return parameter.grad.coalesce()
    indices = torch.empty(1, 0, dtype=torch.int64, device=parameter.device)
    values = torch.empty(0, *parameter.shape[1:], dtype=parameter.dtype, device=parameter.device)
    return torch.sparse_coo_tensor(indices, values, parameter.shape, check_invariants=False).coalesce()
