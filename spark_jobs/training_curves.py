"""What the trainer wrote while it trained (metrics.jsonl), as curves for the report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_POINTS: Final = 300  # of a curve; longer ones are thinned
NOT_LOSSES: Final = ("kind", "epoch", "step", "steps", "samples_per_s")
OTHERS: Final = ("grad_norm", "recall@", "watch.")  # how the names of what is no loss either begin

Curve = dict[str, Any]


def training(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves of a training.

    Returns:
        losses: curves {label, points [[step, value]], best None}: the weighted total first, then the unweighted parts.
        valid: one curve [[epoch from 1, recall]] with the best epoch in `best`; [] where nothing was held out.
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
        "metric": metric,
        "epochs": len(epochs),
        "best_epoch": best[0] if best else None,
        "best": best[1] if best else None,
        "samples_per_s": epochs[-1].get("samples_per_s") if epochs else None,
    }


def _losses(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for line in steps for name in line if name not in NOT_LOSSES and not name.startswith(OTHERS))
    return sorted(names, key=lambda name: name != "loss")


def _curve(label: str, points: list[list[float]], *, best: float | None = None) -> Curve:
    every = -(-len(points) // MAX_POINTS)
    kept = points[::every] if every > 1 else points
    if points and kept[-1] != points[-1]:
        kept = [*kept, points[-1]]
    return {"label": label, "points": kept, "best": best}
