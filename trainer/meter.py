"""Averages over steps, and the lines of metrics.jsonl."""

import json
import time
from collections.abc import Mapping
from typing import Any, Self

import torch

from trainer.backends import Backend


class Meter:
    """Sums over steps of named numbers, in float64. On each rank the numbers are such that their mean over ranks is the global value."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._since = time.monotonic()

    def add(self, values: Mapping[str, float]) -> None:
        """One step; the same names in the same order at every step and rank."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1

    def state(self, backend: Backend) -> dict[str, Any]:
        """What a checkpoint keeps: sums over all ranks; collective."""
        totals = backend.sum(torch.tensor(list(self._sums.values()), dtype=torch.float64)).tolist() if self._sums else []
        return {"sums": dict(zip(self._sums, totals, strict=True)), "steps": self._steps}

    @classmethod
    def restore(cls, state: Mapping[str, Any], backend: Backend) -> Self:
        """The meter of a checkpoint: rank 0 holds what all ranks held."""
        meter = cls()
        meter._sums = {name: value if backend.rank == 0 else 0.0 for name, value in state["sums"].items()}
        meter._steps = int(state["steps"])
        return meter

    def averages(self, backend: Backend) -> dict[str, float]:
        """Mean over steps of the global values; collective."""
        sums = self.state(backend)["sums"]
        return {name: total / (self._steps * backend.size) for name, total in sums.items()}

    @property
    def steps(self) -> int:
        """Steps added."""
        return self._steps

    @property
    def seconds(self) -> float:
        """Since the meter was made."""
        return time.monotonic() - self._since


def line(kind: str, epoch: int, step: int, values: Mapping[str, float | int | None]) -> str:
    """One line of metrics.jsonl.

    kind: "step" (averages over the last steps) or "epoch" (over the epoch; with validation recall where there is any). epoch: from 0.
    step: global steps done. loss and its parts "<loss>.<part>" are unweighted means over rows of the global batch, loss is their
    weighted total.
    """
    return json.dumps({"kind": kind, "epoch": epoch, "step": step, **rounded(values)})


def rounded(values: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """Floats to 7 significant digits: what float32 holds."""
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in values.items()}
