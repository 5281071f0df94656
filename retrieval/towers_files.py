"""The trained towers as the executors open them, and how many rows they encode together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from conf.storage import Manifest
from retrieval import worker

if TYPE_CHECKING:
    from trainer.export import Towers

# Rows encoded together. Always this many (a short block is filled up): a matrix product may add up in another order for another
# number of rows, and a vector must not depend on which rows it came with.
BLOCK: Final = 256


@dataclass(frozen=True)
class TowersFiles:
    """The model artefact and the item features it needs. Small: it travels to the executors."""

    model_file: str
    sha256: str
    item_feat: tuple[str, ...]

    @classmethod
    def of(cls, model: Manifest, model_files: list[str], item_feat: list[str]) -> "TowersFiles":
        """From the inputs of the job; `model_files` in the order of the manifest."""
        position = [entry.name for entry in model.files].index("model.pt")
        return cls(model_files[position], model.files[position].sha256, tuple(item_feat))

    def open(self) -> "Towers":
        """Load the towers, the sha256 of their file checked first."""
        # imported here: torch costs a driver that only plans seconds, and every process its memory
        from trainer.export import load

        return load(worker.local_file(self.model_file, self.sha256), worker.read_columns(self.item_feat))

    def held(self) -> "Towers":
        """The towers, loaded once in this process, computing with as many threads as the task has cores."""
        import torch

        torch.set_num_threads(worker.task_cpus())
        return worker.once("towers", self, self.open)


def filling(num: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64[BLOCK]: places 0..num-1, the last one repeated."""
    return np.minimum(np.arange(BLOCK, dtype=np.int64), num - 1)
