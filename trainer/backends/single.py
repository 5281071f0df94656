"""One process: nothing to talk about."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.backends.backend import Backend, is_sparse_table, sparse_gradient
from trainer.backends.shards import settle


class SingleBackend(Backend):
    """Rank 0 of 1."""

    rank = 0
    size = 1

    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """The rows themselves."""
        return x

    def gather_ids(self, x: Tensor) -> Tensor:
        """The rows themselves."""
        return x

    def exchange(self, x: Tensor, counts: Sequence[int], expected: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
        """The rows themselves."""
        return x, list(counts)

    def sum(self, x: Tensor) -> Tensor:
        """The value itself, detached."""
        return x.detach()

    def sync_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Fills in missing gradients and coalesces sparse ones."""
        for parameter in settle(parameters, self):
            if is_sparse_table(parameter):
                parameter.grad = sparse_gradient(parameter)
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def agree_min(self, value: int) -> int:
        """The value itself."""
        return value

    def agree_any(self, value: bool) -> bool:
        """The value itself."""
        return value

    def broadcast_(self, module: nn.Module) -> None:
        """Nothing to do."""

    def barrier(self, timeout_s: float) -> None:
        """Nothing to wait for."""
