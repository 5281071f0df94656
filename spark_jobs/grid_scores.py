"""What a finished cell of a grid reached, read from the tables of its variant; and the gain of one over another, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.command import Request
from spark_jobs.grids.layout import Column
from spark_jobs.metrics.scoring import ALL
from spark_jobs.metrics.summary import RATIOS
from spark_jobs.published_rows import rows_of
from spark_jobs.significance import Moments, gain_interval, holm, linearised, t_test, welch

Floats = npt.NDArray[np.float64]

ROUNDING: Final = 1e-12  # values that differ by less do not differ: their spread is that of floating point


@dataclass(frozen=True)
class Scores:
    """Numbers of one run of a cell. values: (channel, metric, n, slice) -> share. num_users: that were scored."""

    own: Request
    values: Mapping[tuple[str, str, int, str], float]
    num_users: int

    def of(self, channel: str, column: Column) -> float | None:
        """The column's number in a channel; None where its slice is empty or the channel has no such number."""
        return self.values.get((channel, *column.key))

    def by_user(self, channel: str, column: Column) -> Floats | None:
        """A value a user, by ascending user_idx, whose mean is `of`; None for a number that no user has (coverage, those of a slice)."""
        if column.metric == "coverage" or column.slice != ALL:
            return None
        return per_user(_rows(self.own, "metrics_user", pc.field("channel") == channel), column)


def scores_of(own: Request) -> Scores:
    """The scores of a finished run.

    Raises:
        NotReadyError: it has no metrics. BadDataError: a file is damaged.
    """
    rows = _rows(own, "metrics").to_pylist()
    values = {(row["channel"], row["metric"], row["n"], row["slice"]): float(row["value"]) for row in rows}
    scored = [row["n_users"] for row in rows if row["metric"] == "recall" and row["slice"] == ALL]  # of uniformity it is vectors
    return Scores(own, values, max(scored, default=0))


def per_user(rows: pa.Table, column: Column) -> Floats:
    """A value a user, by ascending user_idx, of one channel's rows of metrics_user. Of a ratio of sums: linearised, their mean is it.

    Users who have nothing to count, such as no click that was asked for as of itself, are left out.
    """
    mine = rows.filter(pc.equal(rows["n"], column.n)).sort_by("user_idx")
    if column.metric not in RATIOS:
        return np.asarray(mine[column.metric].to_numpy(), np.float64)
    counted = mine.filter(pc.is_valid(mine[RATIOS[column.metric][1]]))
    top, bottom = (np.asarray(counted[name].to_numpy(), np.float64) for name in RATIOS[column.metric])
    return linearised(top, bottom)


def _rows(own: Request, table: str, where: pc.Expression | None = None) -> pa.Table:
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
    """Relative gain over the base in percent, with its 95 % interval (None where there is none), over "seeds" or "users", and how many.

    p: of no gain, two-sided; p_holm: corrected for all gains of the table. Both None where there is no interval.
    """

    percent: float
    low: float | None
    high: float | None
    over: str
    count: int
    p: float | None = None
    p_holm: float | None = None


def number(values: Sequence[float | None]) -> Number | None:
    """Mean and spread of one value a seed; None where there is none, or a seed lacks it."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Number(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))


def gain_over_seeds(base: Sequence[float], own: Sequence[float]) -> Gain | None:
    """Of means over seeds, two or more, by Welch's t on their logarithms, exponentiated; None where the base found nothing.

    A difference of logarithms carries the noise of both sides: as a share of the base's mean, it would take that mean as known.
    """
    a, b = np.asarray(base, np.float64), np.asarray(own, np.float64)
    if not a.mean() > 0:
        return None
    gain = Gain(100 * (float(b.mean() / a.mean()) - 1), None, None, "seeds", len(a))
    if min(a.min(), b.min()) <= 0 or np.ptp(a) + np.ptp(b) <= ROUNDING:
        return gain
    test = welch(np.log(a)[:, None], np.log(b)[:, None])
    return _known(gain, np.expm1(test.diff.lo[0]), np.expm1(test.diff.hi[0]), test.p[0])


def gain_over_users(base: Floats, own: Floats) -> Gain | None:
    """Of one seed, users paired; it knows nothing of the noise of training. None where the base found nothing.

    The interval is by the delta method on the logarithm of the ratio, p by the paired t-test.

    Raises:
        ValueError: not as many users on both sides.
    """
    if base.shape != own.shape:
        raise ValueError(f"{base.shape[0]} users of the base and {own.shape[0]} of the cell cannot be paired")
    if not len(base) or not base.mean() > 0:
        return None
    moments = Moments.of(base[:, None], own[:, None])
    gain = Gain(100 * float(moments.gain[0]), None, None, "users", len(base))
    if np.ptp(own - base) <= ROUNDING:
        return gain
    interval = gain_interval(moments)
    return _known(gain, interval.lo[0], interval.hi[0], t_test(moments).p[0])


def _known(gain: Gain, low: float, high: float, p: float) -> Gain:
    """The gain with its interval, given as shares, and its p; as it was where one of them is no number."""
    if not all(map(isfinite, (low, high, p))):
        return gain
    return replace(gain, low=100 * float(low), high=100 * float(high), p=float(p))


def corrected(gains: Sequence[Gain | None]) -> list[Gain | None]:
    """The gains of a whole table with their p after Holm's correction."""
    p = holm(np.array([np.nan if gain is None or gain.p is None else gain.p for gain in gains], np.float64))
    return [gain if gain is None or gain.p is None else replace(gain, p_holm=float(own)) for gain, own in zip(gains, p, strict=True)]


def gain_of_one(base: float, own: float) -> Gain | None:
    """Of one seed and a number that no user has: no interval."""
    return Gain(100 * (own / base - 1), None, None, "users", 0) if base else None
