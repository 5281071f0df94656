"""The interface of a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from trainer.objectives.step import Step


class Objective(nn.Module, ABC):
    """weights: of each part that forward returns, in the total."""

    weights: Mapping[str, float]

    def weight_of(self, part: str) -> float | Tensor:
        """Of a part, in the total; a tensor where it is learned."""
        return self.weights[part]

    def keep_in_range(self) -> None:
        """Bring parameters that have left their range back to its end; called after each step of the optimiser, without gradient."""

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Scalars by part, unweighted, each scaled so that its *mean over ranks* is the global loss (see Step.share_of_mean).

        Every rank returns the same parts and makes the same collective calls, also where it has no anchor of its own.
        """
