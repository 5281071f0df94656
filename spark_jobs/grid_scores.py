"""What a finished cell of a grid reached, read from the tables of its variant; and the gain of one over another, with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from conf.command import Request
from spark_jobs.grids.layout import Column
from spark_jobs.metrics.summary import RATIOS
from spark_jobs.published_rows import rows_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Numbers of one run of a cell. values: (channel, metric, n) -> share. num_users: that were scored."""

    own: Request
    values: Mapping[tuple[str, str, int], float]
    num_users: int

    def of(self, channel: str, column: Column) -> float:
        """The column's number in a channel."""
        return self.values[channel, column.metric, column.n]

    def by_user(self, channel: str, column: Column) -> Floats | None:
        """A value a user, by ascending user_idx, whose mean is `of`; None for a number that no user has (coverage)."""
        if column.metric == "coverage":
            return None
        return per_user(_rows(self.own, "metrics_user", pc.field("channel") == channel), column)


def scores_of(own: Request) -> Scores:
    """The scores of a finished run.

    Raises:
        NotReadyError: it has no metrics. BadDataError: a file is damaged.
    """
    rows = _rows(own, "metrics", pc.field("slice") == "all").to_pylist()
    values = {(row["channel"], row["metric"], row["n"]): float(row["value"]) for row in rows}
    scored = [row["n_users"] for row in rows if row["metric"] == "recall"]  # of alignment and uniformity it is vectors
    return Scores(own, values, max(scored, default=0))


def per_user(rows: pa.Table, column: Column) -> Floats:
    """A value a user, by ascending user_idx, of one channel's rows of metrics_user. Of a ratio: such that their mean is it."""
    mine = rows.filter(pc.equal(rows["n"], column.n)).sort_by("user_idx")
    if column.metric not in RATIOS:
        return np.asarray(mine[column.metric].to_numpy(), np.float64)
    top, bottom = (np.asarray(mine[name].to_numpy(), np.float64) for name in RATIOS[column.metric])
    return np.asarray(top / bottom.mean(), np.float64)


def _rows(own: Request, table: str, where: pc.Expression) -> pa.Table:
    return rows_of(own.store, own.store.manifest(table, own.ds, own.settings), where=where)


# ---- gains -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """Mean over seeds, and their sample standard deviation (None with one seed)."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Gain:
    """Relative gain over the base in percent, with its 95 % interval (None where there is none), over "seeds" or "users", and how many."""

    percent: float
    low: float | None
    high: float | None
    over: str
    count: int


def number(values: Sequence[float]) -> Number:
    """Mean and spread of one value a seed."""
    return Number(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))


def gain_over_seeds(base: Sequence[float], own: Sequence[float]) -> Gain | None:
    """Of means over seeds, two or more, by Welch's t; None where the base found nothing."""
    test = partial(stats.ttest_ind, own, base, equal_var=False)
    return _gain(np.asarray(base), np.asarray(own), test, "seeds")


def gain_over_users(base: Floats, own: Floats) -> Gain | None:
    """Of one seed, by the paired t over users; it knows nothing of the noise of training. None where the base found nothing."""
    if base.shape != own.shape:
        raise ValueError(f"{base.shape[0]} users of the base and {own.shape[0]} of the cell cannot be paired")
    return _gain(base, own, partial(stats.ttest_rel, own, base), "users")


def _gain(base: Floats, own: Floats, test: Callable[[], Any], over: str) -> Gain | None:
    """The interval is that of the difference, as a share of the base's mean, which is taken as known."""
    mean = float(base.mean()) if len(base) else 0.0
    if mean == 0:
        return None
    percent = 100 * (float(own.mean()) / mean - 1)
    low = high = float("nan")
    # values that never differ, rounding aside, are nothing to test: scipy would warn and give nan
    if len(base) > 1 and (np.ptp(own - base) if over == "users" else np.ptp(own) + np.ptp(base)) > 1e-12:
        interval = test().confidence_interval(0.95)
        low, high = (100 * float(end) / mean for end in (interval.low, interval.high))
    known = isfinite(low) and isfinite(high)
    return Gain(percent, low if known else None, high if known else None, over, len(base))


def gain_of_one(base: float, own: float) -> Gain | None:
    """Of one seed and a number that no user has: no interval."""
    return Gain(100 * (own / base - 1), None, None, "users", 0) if base else None
