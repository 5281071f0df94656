"""How sure a difference is: paired t-test, relative gain and its interval, power, several trainings, several metrics at once.

Everything is over cells (a metric at a cut-off) side by side: float64[C]. A is the baseline, differences and gains are those of B over A.
Numbers that the data cannot give (one unit, a mean of 0 to divide by) are NaN. All tests are two-sided.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

F64 = npt.NDArray[np.float64]

ALPHA: Final = 0.05
POWER: Final = 0.8


@dataclass(frozen=True)
class Moments:
    """What `num` units say of A and B.

    mean_a, mean_b: float64[C]. ss_a, ss_b, ss_d: sums of squared deviations of a, b and d = b - a from their means. ss_d is kept
    although the sum of products would give it: where A and B are nearly the same, that would lose its digits.
    """

    num: int
    mean_a: F64
    mean_b: F64
    ss_a: F64
    ss_b: F64
    ss_d: F64

    @classmethod
    def of(cls, a_NC: F64, b_NC: F64) -> Self:
        """The moments of units by cells; at least one unit. Raises ValueError where the shapes differ."""
        if a_NC.shape != b_NC.shape or a_NC.ndim != 2 or not len(a_NC):
            raise ValueError(f"want two arrays of units x cells of the same shape, found {a_NC.shape} and {b_NC.shape}")
        ss_a, ss_b, ss_d = (np.square(x - x.mean(axis=0)).sum(axis=0) for x in (a_NC, b_NC, b_NC - a_NC))
        return cls(len(a_NC), a_NC.mean(axis=0), b_NC.mean(axis=0), ss_a, ss_b, ss_d)

    def plus(self, other: Self) -> Self:
        """The moments of the units of both. Source: Chan, Golub and LeVeque 1983, eq. 2.1."""
        num = self.num + other.num
        share, both = other.num / num, self.num * other.num / num
        step_a, step_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        return type(self)(
            num,
            self.mean_a + share * step_a,
            self.mean_b + share * step_b,
            self.ss_a + other.ss_a + both * step_a**2,
            self.ss_b + other.ss_b + both * step_b**2,
            self.ss_d + other.ss_d + both * (step_b - step_a) ** 2,
        )

    @property
    def diff(self) -> F64:
        """Mean of d."""
        return self.mean_b - self.mean_a

    @property
    def gain(self) -> F64:
        """mean_b / mean_a - 1; NaN where mean_a is 0."""
        return gain_of(self.mean_a, self.mean_b)

    @property
    def se(self) -> F64:
        """Standard error of the mean of d; NaN for one unit."""
        return self.error_of(self.ss_d)

    def error_of(self, ss: F64) -> F64:
        """Standard error of a mean, by the sum of squared deviations of its units; NaN for one unit."""
        if self.num < 2:
            return np.full_like(ss, np.nan)
        return np.asarray(np.sqrt(ss / (self.num - 1) / self.num))


@dataclass(frozen=True)
class Interval:
    """float64[C] each; lo <= value <= hi."""

    value: F64
    lo: F64
    hi: F64


@dataclass(frozen=True)
class Difference:
    """A difference with its interval and how likely one as large is by chance: p, float64[C] in [0, 1]."""

    diff: Interval
    p: F64


# ---- one pair of systems, unit by unit -------------------------------------------------------------------------------


def t_test(moments: Moments, *, alpha: float = ALPHA) -> Difference:
    """The paired t-test of mean d = 0, num - 1 degrees of freedom, with its 1 - alpha interval.

    Where no unit differs, p is 1 and the interval [0, 0]; where all differ by just the same, p is 0.
    """
    diff, se, df = moments.diff, moments.se, max(moments.num - 1, 1)
    half = stats.t.ppf(1 - alpha / 2, df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(moments.ss_d == 0, np.where(diff == 0, 0.0, np.inf), np.abs(diff) / se)
    p = 2 * stats.t.sf(t, df) if moments.num > 1 else np.full_like(diff, np.nan)
    return Difference(Interval(diff, diff - half, diff + half), p)


def gain_of(mean_a: F64, mean_b: F64) -> F64:
    """mean_b / mean_a - 1, elementwise; NaN where mean_a is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(mean_a == 0, np.nan, mean_b / mean_a - 1))


def gain_interval(moments: Moments, *, alpha: float = ALPHA) -> Interval:
    """The relative gain with its interval by the delta method, on the logarithm of the ratio: never below -100 %.

    var ln(B/A) = (v_b/B^2 + v_a/A^2 - 2 cov/(A B)) / num for paired units. NaN where a mean is not above 0.
    """
    a, b = moments.mean_a, moments.mean_b
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: F64 = np.where((a > 0) & (b > 0), b / a, np.nan)
        # b - a r, of the units, has mean 0; its sum of squares is written so that it is exactly 0 where b = a for all units
        ss = (1 - ratio) * (moments.ss_b - ratio * moments.ss_a) + ratio * moments.ss_d
        half = stats.norm.ppf(1 - alpha / 2) * moments.error_of(np.maximum(ss, 0)) / b
    return Interval(ratio - 1, ratio * np.exp(-half) - 1, ratio * np.exp(half) - 1)


def linearised(top: F64, bottom: F64, means: tuple[F64, F64] | None = None) -> F64:
    """float64[N, ...]: a value a unit, whose mean is R = sum(top) / sum(bottom) and whose spread that of R by the delta method.

    R + (top - R bottom) / mean(bottom): so a ratio of sums over units is tested as a mean is. NaN where the bottom sums to 0.
    means: of top and bottom over all units, where these are some of them.
    Source: Deng, Knoblich and Lu 2018, "Applying the delta method in metric analytics"; Budylin et al. 2018 (linearisation).
    """
    mean_top, mean_bottom = means or (top.mean(axis=0), bottom.mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean_top / mean_bottom
        return np.asarray(ratio + (top - ratio * bottom) / mean_bottom, np.float64)


def percentile_interval(value: F64, replicates_BC: F64, *, alpha: float = ALPHA) -> Interval:
    """`value` with the middle 1 - alpha of its bootstrap replicates; NaN where one of them is."""
    lo, hi = np.quantile(replicates_BC, [alpha / 2, 1 - alpha / 2], axis=0)
    return Interval(value, lo, hi)


def detectable(moments: Moments, *, alpha: float = ALPHA, power: float = POWER) -> F64:
    """float64[C]: the smallest true difference that the t-test of these units would have shown with that power.

    Source: the noncentral t distribution; Cohen 1988, section 2.4 (paired means).
    """
    if moments.num < 2:
        return np.full_like(moments.diff, np.nan)
    df, critical = moments.num - 1, stats.t.ppf(1 - alpha / 2, moments.num - 1)

    def lacking(shift: float) -> float:
        """Power wanted less the power against a true difference of `shift` standard errors."""
        # Of the right sign only: showing the opposite is no success, and scipy's lower tail is NaN far out.
        return float(power - stats.nct.sf(critical, df, shift))

    return float(optimize.brentq(lacking, 0.0, 4 * critical)) * moments.se


# ---- several trainings, several metrics ------------------------------------------------------------------------------


def welch(means_a_SC: F64, means_b_TC: F64, *, alpha: float = ALPHA) -> Difference:
    """Welch's t-test over the means of S trainings of A and T of B: what the chance of training adds. NaN with fewer than two of either."""
    diff = means_b_TC.mean(axis=0) - means_a_SC.mean(axis=0)
    if min(len(means_a_SC), len(means_b_TC)) < 2:
        unknown = np.full_like(diff, np.nan)
        return Difference(Interval(diff, unknown, unknown), unknown)
    # Trainings that agree to the last bit leave no spread to test by: scipy would say NaN, and warn.
    spread = (np.ptp(means_a_SC, axis=0) > 0) | (np.ptp(means_b_TC, axis=0) > 0)
    p, lo, hi = np.where(diff == 0, 1.0, 0.0), diff.copy(), diff.copy()
    found = stats.ttest_ind(means_b_TC[:, spread], means_a_SC[:, spread], equal_var=False)
    interval = found.confidence_interval(1 - alpha)
    p[spread], lo[spread], hi[spread] = found.pvalue, interval.low, interval.high
    return Difference(Interval(diff, lo, hi), p)


def holm(p: F64) -> F64:
    """p-values after Holm's correction, in the given order: rejecting those below alpha keeps the chance of any false one below alpha.

    NaN stands for no test: it stays, and is not counted. Source: Holm 1979.
    """
    adjusted = np.full_like(p, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p: F64) -> F64:
    """p-values after Benjamini and Hochberg's correction: rejecting those below alpha keeps the share of false ones below it. NaN stays."""
    adjusted = np.full_like(p, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested], method="bh")
    return adjusted
