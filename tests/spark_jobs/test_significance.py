"""Differences and their intervals: against scipy, against numbers worked by hand, against simulations with a known truth."""

import numpy as np
import pytest
from scipy import stats

from spark_jobs.significance import (
    Moments,
    benjamini_hochberg,
    detectable,
    gain_interval,
    holm,
    linearised,
    percentile_interval,
    t_test,
    welch,
)


def random_units(num: int, cells: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Paired shares in [0, 1], as recalls of the same users under two systems are."""
    rng = np.random.default_rng(seed)
    a = rng.binomial(10, 0.3, (num, cells)) / 10
    return a, np.clip(a + rng.choice([-0.1, 0.0, 0.1, 0.2], (num, cells)), 0, 1)


def test_a_case_worked_by_hand():
    # d = 1, 0, 1, 2: mean 1, variance 2/3, se sqrt(1/6); A's mean 2, B's 3: +50 %
    moments = Moments.of(np.array([[1.0], [2], [3], [2]]), np.array([[2.0], [2], [4], [4]]))
    found = t_test(moments)
    assert (moments.diff[0], moments.gain[0], moments.se[0]) == (1.0, 0.5, pytest.approx(1 / np.sqrt(6)))
    half = 3.182446305284263 / np.sqrt(6)  # the 97.5 % point of t with three degrees of freedom
    assert (found.diff.lo[0], found.diff.hi[0]) == (pytest.approx(1 - half), pytest.approx(1 + half))
    # var ln(B/A): v_a = 2/3, v_b = 4/3, cov = 2/3: (4/3/9 + 2/3/4 - 2 * 2/3/6) / 4
    half = 1.959963984540054 * np.sqrt((4 / 27 + 1 / 6 - 2 / 9) / 4)
    gain = gain_interval(moments)
    assert gain.value[0] == pytest.approx(0.5)
    assert (gain.lo[0], gain.hi[0]) == (pytest.approx(1.5 * np.exp(-half) - 1), pytest.approx(1.5 * np.exp(half) - 1))


@pytest.mark.parametrize("num", [2, 3, 17, 400])
def test_the_paired_test_is_scipys(num):  # P8.5
    a, b = random_units(num, seed=num)
    b[0] += 0.05  # somebody differs in each cell
    found, want = t_test(Moments.of(a, b)), stats.ttest_rel(b, a)
    interval = want.confidence_interval(0.95)
    assert found.p == pytest.approx(want.pvalue, abs=1e-10)
    assert found.diff.lo == pytest.approx(interval.low, abs=1e-10)
    assert found.diff.hi == pytest.approx(interval.high, abs=1e-10)


def test_identical_systems_do_not_differ():  # P8.5
    a, _ = random_units(50)
    moments = Moments.of(a, a)
    found, gain = t_test(moments), gain_interval(moments)
    assert (found.p == 1).all()
    for values in (found.diff.lo, found.diff.hi, gain.value, gain.lo, gain.hi, detectable(moments)):
        assert (values == 0).all()


def test_the_same_step_for_everybody_is_beyond_chance():
    a = np.array([[0.0], [1], [2], [5]])
    found = t_test(Moments.of(a, a + 0.25))
    assert (found.p[0], found.diff.lo[0], found.diff.hi[0]) == (0.0, 0.25, 0.25)


def test_moments_of_parts_are_those_of_the_whole():
    a, b = random_units(101)
    whole, parts = Moments.of(a, b), Moments.of(a[:1], b[:1])
    for lo, hi in ((1, 40), (40, 101)):
        parts = parts.plus(Moments.of(a[lo:hi], b[lo:hi]))
    assert parts.num == 101
    for name in ("mean_a", "mean_b", "ss_a", "ss_b", "ss_d"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-12), name


def test_what_cannot_be_known_is_nan():
    alone = Moments.of(np.array([[0.5, 0.0]]), np.array([[0.6, 0.1]]))
    assert np.isnan(t_test(alone).p).all()
    assert np.isnan(detectable(alone)).all()
    assert np.isnan(alone.gain[1])  # nothing to divide by
    assert np.isnan(gain_interval(Moments.of(np.zeros((3, 1)), np.ones((3, 1)))).hi[0])
    assert np.isnan(gain_interval(Moments.of(np.ones((3, 1)), np.zeros((3, 1)))).hi[0])
    assert np.isnan(percentile_interval(np.array([0.1]), np.array([[0.1], [np.nan]])).hi[0])


def test_shapes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="same shape, found"):
        Moments.of(np.zeros((3, 1)), np.zeros((4, 1)))


def test_the_smallest_gain_shown_is_that_of_the_tables():
    # Cohen: 34 pairs have 80 % power against half a standard deviation, to the whole pair
    rng = np.random.default_rng(0)
    d = rng.standard_normal((34, 1))
    moments = Moments.of(np.zeros((34, 1)), d)
    assert detectable(moments)[0] / d.std(ddof=1) == pytest.approx(0.495, abs=0.001)
    # and a test of units with just that effect is significant in 80 % of the experiments
    effect = detectable(Moments.of(np.zeros((30, 1)), stats.norm.ppf((np.arange(30)[:, None] + 0.5) / 30)))[0]
    scale = stats.norm.ppf((np.arange(30) + 0.5) / 30).std(ddof=1)
    many = rng.standard_normal((30, 4_000)) * scale + effect
    assert (t_test(Moments.of(np.zeros_like(many), many)).p < 0.05).mean() == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("num", [2, 3, 4, 10, 1_000, 1_000_000])
def test_what_could_be_shown_is_known_for_any_number_of_units(num):
    ones = np.ones(1)
    shown = detectable(Moments(num, 0 * ones, 0 * ones, ones, ones, (num - 1) * ones))[0] * np.sqrt(num)  # in standard errors
    low = 1.959963984540054 + 0.841621233572914  # of the normal distribution
    assert shown > low
    if num >= 1_000:
        assert shown == pytest.approx(low, rel=2e-3)


def test_intervals_hold_the_truth_as_often_as_they_say():
    # 600 repetitions of 200 users; B finds 10 % more than A by construction, user by user dependent
    rng = np.random.default_rng(1)
    skill = rng.beta(2, 5, (200, 600))
    a = rng.binomial(20, skill) / 20
    b = rng.binomial(20, np.minimum(skill * 1.1, 1)) / 20
    moments = Moments.of(a, b)
    truth = np.minimum(skill * 1.1, 1).mean() - skill.mean()
    test, gain = t_test(moments), gain_interval(moments)
    # the standard error of a share of 600 at 95 % is 0.9 %
    assert ((test.diff.lo <= truth) & (truth <= test.diff.hi)).mean() == pytest.approx(0.95, abs=0.03)
    ratio = truth / skill.mean()
    assert ((gain.lo <= ratio) & (ratio <= gain.hi)).mean() == pytest.approx(0.95, abs=0.03)
    # A against a second measurement of A: false positives at their rate
    again = rng.binomial(20, skill) / 20
    assert (t_test(Moments.of(a, again)).p < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_a_ratio_of_sums_is_tested_as_a_mean_is():
    # 600 repetitions of 200 users with 1 to 40 clicks each, of which the more clicks they have, the less they find
    rng = np.random.default_rng(2)
    clicks = rng.integers(1, 41, (200, 600)).astype(float)
    share_a, share_b = 0.5 - clicks / 160, 0.6 - clicks / 160
    a, b = (linearised(rng.binomial(clicks.astype(int), share) * 1.0, clicks) for share in (share_a, share_b))
    # E[clicks] = 20.5, E[clicks^2] = 553.5
    truth = (0.6 - 553.5 / 20.5 / 160) / (0.5 - 553.5 / 20.5 / 160) - 1
    gain = gain_interval(Moments.of(a, b))
    assert ((gain.lo <= truth) & (truth <= gain.hi)).mean() == pytest.approx(0.95, abs=0.03)
    one = linearised(np.array([3.0, 0, 1]), np.array([4.0, 1, 2]))
    ratio, spread = 4 / 7, np.array([3, 0, 1]) - 4 / 7 * np.array([4, 1, 2])
    assert one.mean() == pytest.approx(ratio)
    assert one.std(ddof=1) == pytest.approx(spread.std(ddof=1) / (7 / 3))
    assert np.isnan(linearised(np.zeros(3), np.zeros(3))).all()


def test_trainings_are_compared_as_scipy_does():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.1, 0.01, (5, 2)), rng.normal(0.12, 0.02, (4, 2))
    found, want = welch(a, b), stats.ttest_ind(b, a, equal_var=False)
    assert found.p == pytest.approx(want.pvalue, abs=1e-12)
    assert found.diff.lo == pytest.approx(want.confidence_interval(0.95).low, abs=1e-12)
    assert found.diff.value == pytest.approx(b.mean(axis=0) - a.mean(axis=0))
    assert np.isnan(welch(a[:1], b).p).all()  # one training has no spread
    same = welch(np.array([[0.1, 0.1]] * 2), np.array([[0.1, 0.2]] * 2))
    assert same.p.tolist() == [1.0, 0.0]


def test_corrections_for_many_metrics():
    # by hand: sorted .01 .02 .03 .04, Holm takes times 4, 3, 2, 1 and never falls; BH takes times 4/1, 4/2, 4/3, 4/4
    p = np.array([0.04, 0.01, np.nan, 0.03, 0.02])
    assert holm(p) == pytest.approx([0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True)
    assert benjamini_hochberg(p) == pytest.approx([0.04, 0.04, np.nan, 0.04, 0.04], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]  # a chance is at most 1
    for correct in (holm, benjamini_hochberg):
        assert np.isnan(correct(np.array([np.nan]))).all()
    rng = np.random.default_rng(4)
    p = rng.random(30) ** 3
    assert (p <= benjamini_hochberg(p)).all()
    assert (benjamini_hochberg(p) <= holm(p) + 1e-12).all()


def test_holm_keeps_the_chance_of_any_false_gain():
    # 500 experiments with eight metrics, none of which differs
    p = np.random.default_rng(5).random((500, 8))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.03)
    assert np.mean([(row < 0.05).any() for row in p]) > 0.2  # what it corrects
