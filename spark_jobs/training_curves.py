"""What the trainer wrote while it trained (metrics.jsonl), as curves for the report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

MAX_POINTS: Final = 300  # of a curve; longer ones are thinned
MAX_DOTS: Final = 60  # of a picture of dots
SIDES: Final = ("uu_uniform", "ii_uniform")
NOT_LOSSES: Final = ("kind", "epoch", "step", "steps", "samples_per_s")
OTHERS: Final = ("grad_norm", "recall@", "watch.")  # how the names of what is no loss either begin

Curve = dict[str, Any]
T = TypeVar("T")


def training(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves of a training.

    Returns:
        losses: curves {label, points [[step, value]], best None}: the weighted total first, then the unweighted parts.
        valid: one curve [[epoch from 1, recall]] with the best epoch in `best`; [] where nothing was held out.
        balance: {"uu_uniform", "ii_uniform": [[UI-align, uniformity, recall on valid after the step's epoch or None]]} (MIC, Fig. 4).
        metric: name of the validation metric, "" if none. epochs, best_epoch (from 1), best, samples_per_s (of the last epoch).
    """
    epochs = [line for line in lines if line["kind"] == "epoch"]
    steps = [line for line in lines if line["kind"] == "step"] or epochs
    metric = next((name for line in epochs for name in line if name.startswith("recall@")), "")
    points = [[line["epoch"] + 1, line[metric]] for line in epochs if line.get(metric) is not None] if metric else []
    best = max(points, key=lambda point: (point[1], -point[0])) if points else None
    return {
        "losses": [_curve(name, [[line["step"], line[name]] for line in steps if name in line]) for name in _losses(steps)],
        "valid": [_curve(metric, points, best=best[0] if best else None)] if points else [],
        "balance": {side: _balance(steps, side, {line["epoch"]: line.get(metric) for line in epochs}) for side in SIDES},
        "metric": metric,
        "epochs": len(epochs),
        "best_epoch": best[0] if best else None,
        "best": best[1] if best else None,
        "samples_per_s": epochs[-1].get("samples_per_s") if epochs else None,
    }


def _losses(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for line in steps for name in line if name not in NOT_LOSSES and not name.startswith(OTHERS))
    return sorted(names, key=lambda name: name != "loss")


def _balance(steps: Sequence[Mapping[str, Any]], side: str, recalls: Mapping[int, float | None]) -> list[list[float | None]]:
    seen = [line for line in steps if "watch.ui_align" in line and f"watch.{side}" in line]
    return _thinned([[line["watch.ui_align"], line[f"watch.{side}"], recalls.get(line["epoch"])] for line in seen], MAX_DOTS)


def _curve(label: str, points: list[list[float]], *, best: float | None = None) -> Curve:
    return {"label": label, "points": _thinned(points, MAX_POINTS), "best": best}


def _thinned(points: list[T], most: int) -> list[T]:
    """Every nth of them, the last one always."""
    every = max(-(-len(points) // most), 1)
    kept = points[::every]
    return kept if not points or (len(points) - 1) % every == 0 else [*kept, points[-1]]
