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
        self._counts: dict[str, int] = {}  # steps that told each of them
        self._steps = 0
        self._since = time.monotonic()

    def add(self, values: Mapping[str, float]) -> None:
        """One step. Not every step need tell every number; all ranks tell the same ones in the same order."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._steps += 1

    def state(self, backend: Backend) -> dict[str, Any]:
        """What a checkpoint keeps: sums of the global values, which do not depend on how many ranks there were; collective."""
        totals = backend.sum(torch.tensor(list(self._sums.values()), dtype=torch.float64)).tolist() if self._sums else []
        sums = {name: total / backend.size for name, total in zip(self._sums, totals, strict=True)}
        return {"sums": sums, "counts": dict(self._counts), "steps": self._steps}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Self:
        """The meter of a checkpoint: every rank holds the global values."""
        meter = cls()
        meter._sums, meter._counts, meter._steps = dict(state["sums"]), dict(state["counts"]), int(state["steps"])
        return meter

    def averages(self, backend: Backend) -> dict[str, float]:
        """Mean of each global value over the steps that told it; collective."""
        return {name: total / self._counts[name] for name, total in self.state(backend)["sums"].items()}

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
    weighted total. grad_norm: of all gradients, the dense ones, the tables; unclipped. "watch.<name>": see trainer.diagnostics; of the
    last step of a "step" line, and the mean of these in an "epoch" line.
    """
    return json.dumps({"kind": kind, "epoch": epoch, "step": step, **rounded(values)})


def rounded(values: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """Floats to 7 significant digits: what float32 holds."""
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in values.items()}
