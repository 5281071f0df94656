"""Two systems compared unit by unit: sums of units that Spark makes in parts, and one line of results a cell from them. No Spark.

A system is one training or several; a unit's number is the mean over its trainings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from spark_jobs.bootstrap import REPLICATES, gains, weighted_sums
from spark_jobs.significance import (
    Moments,
    benjamini_hochberg,
    detectable,
    gain_interval,
    gain_of,
    holm,
    percentile_interval,
    t_test,
    welch,
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Line = dict[str, Any]


@dataclass(frozen=True)
class Sums:
    """What the results need of the units: those of disjoint sets of units make, by `plus`, those of all.

    moments: over units. trainings: float64[S, C], the sum over units of each training's numbers, A's first. a, b: float64[B, C], the same
    of A and B in each bootstrap replicate.
    """

    moments: Moments
    trainings: F64
    a: F64
    b: F64

    @classmethod
    def of(cls, units: I64, values_NSC: F64, num_a: int, *, seed: int, replicates: int = REPLICATES) -> Self:
        """Of units by trainings (the first num_a are A's) by cells. units: int64[N], by which a unit is drawn, whatever the others are."""
        a_NC, b_NC = values_NSC[:, :num_a].mean(axis=1), values_NSC[:, num_a:].mean(axis=1)
        cells = a_NC.shape[1]
        sums = weighted_sums(units, np.concatenate([a_NC, b_NC], axis=1), num=replicates, seed=seed)
        return cls(Moments.of(a_NC, b_NC), values_NSC.sum(axis=0), sums[:, :cells], sums[:, cells:])

    def plus(self, other: Self) -> Self:
        """Of the units of both."""
        return type(self)(self.moments.plus(other.moments), self.trainings + other.trainings, self.a + other.a, self.b + other.b)


def compare(sums: Sums, cells: Sequence[tuple[str, int]], num_a: int) -> list[Line]:
    """One line a cell (metric, n): means, difference and relative gain with 95 % intervals, p-values, what could have been shown.

    gain_lo, gain_hi: percentiles of the bootstrap by unit; delta_lo, delta_hi: the same interval by the delta method. p_holm, p_bh: p
    corrected for all cells. smallest_diff, smallest_gain: what the test would have shown with 80 % power. trainings: the means of each,
    and Welch's test over them where both have two or more. A number that the data cannot give is None.
    """
    moments = sums.moments
    test, delta = t_test(moments), gain_interval(moments)
    gain = percentile_interval(moments.gain, gains(sums.a, sums.b))
    smallest = detectable(moments)
    means = sums.trainings / moments.num
    between = welch(means[:num_a], means[num_a:])
    columns = {
        "mean_a": moments.mean_a, "mean_b": moments.mean_b,
        "diff": test.diff.value, "diff_lo": test.diff.lo, "diff_hi": test.diff.hi,
        "gain": gain.value, "gain_lo": gain.lo, "gain_hi": gain.hi, "delta_lo": delta.lo, "delta_hi": delta.hi,
        "p": test.p, "p_holm": holm(test.p), "p_bh": benjamini_hochberg(test.p),
        "smallest_diff": smallest, "smallest_gain": gain_of(moments.mean_a, moments.mean_a + smallest),
    }  # fmt: skip
    over = {
        "diff_lo": between.diff.lo, "diff_hi": between.diff.hi,
        "p": between.p, "p_holm": holm(between.p), "p_bh": benjamini_hochberg(between.p),
    }  # fmt: skip
    lines: list[Line] = []
    for c, (metric, n) in enumerate(cells):
        each: Line = {"means_a": [number(v) for v in means[:num_a, c]], "means_b": [number(v) for v in means[num_a:, c]]}
        each |= {name: number(values[c]) for name, values in over.items()}
        lines.append({"metric": metric, "n": n, **{name: number(values[c]) for name, values in columns.items()}, "trainings": each})
    return lines


def number(value: float) -> float | None:
    """Rounded to 12 digits, so that the order of summing is not seen; None where it is not a number."""
    return float(f"{value:.12g}") if math.isfinite(value) else None
