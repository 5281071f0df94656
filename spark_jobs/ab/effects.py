"""What a treatment changed, and how sure that is: one metric of two arms from the moments of their users.

Every metric is a sum over users divided by another one: clicks by users, seconds watched by plays. Units are users, so plays of one
user are never taken for independent. All tests are two-sided.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from spark_jobs.ab.moments import Moments

F64 = npt.NDArray[np.float64]

ALPHA: Final = 0.05
POWER: Final = 0.8
SRM_P: Final = 0.001  # below it a split is broken; Fabijan et al. 2019, "Diagnosing sample ratio mismatch"


@dataclass(frozen=True)
class Ratio:
    """Which variables a metric is made of: sum of `num` over sum of `den`, and the same two before the experiment."""

    num: int
    den: int
    pre_num: int
    pre_den: int


@dataclass(frozen=True)
class Estimate:
    """A metric of one arm. var: of the value, not of a user."""

    users: int
    value: float
    var: float


@dataclass(frozen=True)
class Effect:
    """A treatment against its control. lift: treatment / control - 1 with its 95 % interval. smallest: lift that 80 % of such tests find.

    NaN where the control's value is not above 0.
    """

    diff: float
    p: float
    lift: float
    lo: float
    hi: float
    smallest: float


def ratio(arm: Moments, metric: Ratio) -> Estimate:
    """The metric with its variance by the delta method; NaN where nothing stands below the line.

    var = (s_x^2 + r^2 s_z^2 - 2 r s_xz) / (n zbar^2), which for z = 1 is s^2 / n. Source: Deng, Knoblich and Lu 2018, eq. 3.
    """
    below = arm.mean[metric.den]
    if not below or arm.num < 2:
        return Estimate(arm.num, float("nan"), float("nan"))
    weights = _weights(arm, metric)
    return Estimate(arm.num, float(arm.mean[metric.num] / below), arm.product(weights, weights) / (arm.num - 1) / arm.num)


def _weights(arm: Moments, metric: Ratio) -> F64:
    """float64[V]: the weighted sum of a user's variables whose mean over users varies as the ratio does."""
    below, weights = arm.mean[metric.den], np.zeros(len(arm.mean))
    weights[metric.num] = 1 / below
    weights[metric.den] -= arm.mean[metric.num] / below**2
    return weights


def cuped(arms: Sequence[Moments], metric: Ratio) -> tuple[list[Estimate], float]:
    """The metric of each arm less what users' own numbers before the experiment foretold, and the share of variance that this took away.

    theta is pooled over arms; it is 0 where those numbers do not vary. A user without any before it stands at their mean.
    Source: Deng et al. 2013, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data".
    """
    plain = [ratio(arm, metric) for arm in arms]
    before = sum(arm.num * arm.mean[metric.pre_den] for arm in arms)
    if not before or any(np.isnan(estimate.value) for estimate in plain):
        return plain, 0.0
    covariate = np.zeros(len(arms[0].mean))
    covariate[metric.pre_num] = 1.0
    covariate[metric.pre_den] -= sum(arm.num * arm.mean[metric.pre_num] for arm in arms) / before
    varies = sum(arm.product(covariate, covariate) for arm in arms)
    if varies <= 0:
        return plain, 0.0
    theta = sum(arm.product(_weights(arm, metric), covariate) for arm in arms) / varies
    made = []
    for arm, estimate in zip(arms, plain, strict=True):
        weights = _weights(arm, metric) - theta * covariate
        var = max(arm.product(weights, weights), 0.0) / (arm.num - 1) / arm.num
        made.append(Estimate(arm.num, estimate.value - theta * float(covariate @ arm.mean), var))
    old = sum(estimate.var for estimate in plain)
    return made, 1 - sum(estimate.var for estimate in made) / old if old else 0.0


def effect(control: Estimate, treatment: Estimate) -> Effect:
    """Welch's t-test of the difference; the lift with an interval on the logarithm of the ratio, which never goes below -100 %."""
    a, b = control, treatment
    diff, var = b.value - a.value, a.var + b.var
    nothing = float("nan")
    if np.isnan(var):
        return Effect(nothing, nothing, nothing, nothing, nothing, nothing)
    p = _welch(a, b) if var > 0 else float(diff == 0)
    if a.value <= 0:
        return Effect(diff, p, nothing, nothing, nothing, nothing)
    smallest = (stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)) * sqrt(var) / a.value
    if b.value <= 0:
        return Effect(diff, p, diff / a.value, nothing, nothing, smallest)
    half = stats.norm.ppf(1 - ALPHA / 2) * sqrt(b.var / b.value**2 + a.var / a.value**2)
    quotient = b.value / a.value
    return Effect(diff, p, quotient - 1, quotient * np.exp(-half) - 1, quotient * np.exp(half) - 1, smallest)


def _welch(a: Estimate, b: Estimate) -> float:
    spread_a, spread_b = sqrt(a.var * a.users), sqrt(b.var * b.users)
    return float(stats.ttest_ind_from_stats(b.value, spread_b, b.users, a.value, spread_a, a.users, equal_var=False).pvalue)


def sample_ratio(users: Sequence[int], shares: Sequence[float]) -> tuple[float, float]:
    """(chi-square, p) of the users of the arms against the shares they should have; shares need not add up to 1."""
    expected = np.asarray(shares) / sum(shares) * sum(users)
    found = stats.chisquare(users, expected)
    return float(found.statistic), float(found.pvalue)
