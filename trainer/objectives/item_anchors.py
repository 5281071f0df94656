"""Which items a contrast among items is about: those of the batch, each once, or as many drawn uniformly."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from conf.sections.training import ItemSource
from trainer.objectives.step import Step
from trainer.randomness import Purpose, below


@dataclass
class ItemAnchors:
    """This rank's B rows of the N of all ranks, in the order of the step.

    items_B: item_idx. counted_B: bool, which rows are an anchor (an item that stands for its batch only once is one only once).
    """

    step: Step
    source: ItemSource

    @cached_property
    def items_B(self) -> Tensor:  # noqa: N802  (names of properties carry shapes, too)
        """int64[B]."""
        return self.all_items_N[self._own] if self.source == "uniform" else self.step.batch["item_idx"]

    @cached_property
    def all_items_N(self) -> Tensor:  # noqa: N802
        """int64[N]: of all ranks. Drawn ones are drawn by global row, so every rank knows them without asking."""
        if self.source != "uniform":
            return self.step.all_ids("item_idx")
        step = self.step
        return 1 + below(step.catalogue.num_items, step.seed, step.step, int(Purpose.ANCHORS), step.all_ids("row"))

    @cached_property
    def counted_B(self) -> Tensor:  # noqa: N802
        """bool[B]."""
        return self.counted_N[self._own]

    @cached_property
    def counted_N(self) -> Tensor:  # noqa: N802
        """bool[N]."""
        if self.source == "unique":
            return self.step.first_items[1]
        return torch.ones_like(self.all_items_N, dtype=torch.bool)

    @property
    def _own(self) -> slice:
        counts, rank = self.step.counts, self.step.backend.rank
        return slice(sum(counts[:rank]), sum(counts[: rank + 1]))
