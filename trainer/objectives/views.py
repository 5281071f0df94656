"""The views of users and items that MIC compares, of this rank's rows."""

# ruff: noqa: N802  (names of properties carry shapes, too)

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trainer.objectives.step import Step


@dataclass
class Views:
    """Each made once a step, whatever parts ask for it.

    every_row: perturbed views are made of every row, not only of those that stand for their user or item (the others are zero then).
    users_masked: perturbed users have fields and clicks hidden; False: dropout alone makes the difference.
    """

    step: Step
    every_row: bool = False
    users_masked: bool = True

    @property
    def user_BKD(self) -> Tensor:
        """As they are."""
        return self.step.user_BKD

    @property
    def item_BD(self) -> Tensor:
        """As they are."""
        return self.step.item_BD

    @property
    def user_a_BKD(self) -> Tensor:
        """As they are; where both views are masked (see Step), perturbed, of the rows that stand for their user."""
        return self.step.user_a_BKD if self.users_masked else self.step.user_BKD

    @property
    def item_a_BD(self) -> Tensor:
        """As they are; where both views are masked, perturbed, of the rows that stand for their item."""
        return self.step.item_a_BD

    @cached_property
    def user_b_BKD(self) -> Tensor:
        """Perturbed."""
        if self.users_masked and not self.every_row:
            return self.step.user_b_BKD
        chosen_B = self._all_B if self.every_row else self.step.first_users[0]
        return self.step.user_view("b", chosen_B, masked=self.users_masked)

    @cached_property
    def item_b_BD(self) -> Tensor:
        """Perturbed."""
        return self.step.item_view("b", self._all_B) if self.every_row else self.step.item_b_BD

    @property
    def _all_B(self) -> Tensor:
        return torch.ones_like(self.step.batch["row"], dtype=torch.bool)
