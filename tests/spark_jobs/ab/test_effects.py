"""Effects against scipy, closed forms and brute force; how often intervals hold the truth, and tests cry wolf."""

import numpy as np
import pytest
from scipy import stats

from conf.draws import seed_of, u01
from spark_jobs.ab.effects import Estimate, Ratio, cuped, effect, ratio, sample_ratio
from spark_jobs.ab.moments import Moments

PER_USER = Ratio(num=0, den=1, pre_num=2, pre_den=1)  # columns: value, 1, value before


def arm_of(*columns: np.ndarray) -> Moments:
    return Moments.of(np.column_stack(columns))


def per_user(values: np.ndarray, before: np.ndarray | None = None) -> Moments:
    return arm_of(values, np.ones(len(values)), np.zeros(len(values)) if before is None else before)


def test_moments_of_parts_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(1e6, 1, (1_000, 3))
    whole = Moments.of(values)
    parts = [Moments.of(part) for part in np.array_split(values, [1, 10, 700])]
    total = parts[0].plus(parts[1]).plus(parts[2].plus(parts[3]))
    assert total.num == 1_000
    assert total.mean == pytest.approx(values.mean(axis=0), rel=1e-12)
    assert total.ss == pytest.approx(whole.ss, rel=1e-8)
    assert whole.ss / 999 == pytest.approx(np.cov(values.T), rel=1e-8)


def test_a_metric_per_user_is_welchs_t_test_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.gamma(2, 3, 400), rng.gamma(2, 3.4, 300)
    found = effect(ratio(per_user(a), PER_USER), ratio(per_user(b), PER_USER))
    assert found.p == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue, abs=1e-10)
    assert found.diff == pytest.approx(b.mean() - a.mean())
    assert found.lift == pytest.approx(b.mean() / a.mean() - 1)
    assert ratio(per_user(a), PER_USER).var == pytest.approx(a.var(ddof=1) / len(a))  # P8.7


def test_a_metric_per_play_is_the_delta_method_by_hand():
    rng = np.random.default_rng(2)
    plays = rng.poisson(5, 500) + 1.0
    seconds = plays * rng.gamma(2, 10, 500)
    found = ratio(arm_of(seconds, plays, seconds * 0, plays * 0), Ratio(0, 1, 2, 3))
    r = seconds.sum() / plays.sum()
    assert found.value == pytest.approx(r)
    linear = (seconds - r * plays) / plays.mean()
    assert found.var == pytest.approx(linear.var(ddof=1) / 500)
    # and against the bootstrap by user, which knows no formula
    drawn = rng.integers(0, 500, (4_000, 500))
    replicates = seconds[drawn].sum(axis=1) / plays[drawn].sum(axis=1)
    assert found.var == pytest.approx(replicates.var(), rel=0.1)


def test_cuped_moves_no_mean_and_takes_the_squared_correlation_away():  # P8.8
    rng = np.random.default_rng(3)
    before = rng.gamma(2, 2, 20_000)
    values = before + rng.normal(0, 2, 20_000)
    plain = per_user(values, before)
    (adjusted,), took = cuped([plain], PER_USER)
    assert adjusted.value == pytest.approx(values.mean())
    assert took == pytest.approx(np.corrcoef(values, before)[0, 1] ** 2, abs=1e-9)
    # by ordinary least squares on centred columns: the same residuals
    slope = np.cov(values, before)[0, 1] / before.var(ddof=1)
    residual = values - slope * (before - before.mean())
    assert adjusted.var == pytest.approx(residual.var(ddof=1) / 20_000)


def test_cuped_of_what_is_foretold_exactly_leaves_no_variance():  # P8.8
    values = np.random.default_rng(4).random(50)
    (same,), took = cuped([per_user(values, values)], PER_USER)
    assert same.value == pytest.approx(values.mean())
    assert same.var == pytest.approx(0, abs=1e-15)
    assert took == pytest.approx(1)


def test_cuped_without_anything_before_is_the_plain_estimate():
    values = np.random.default_rng(5).random(50)
    for before in (np.zeros(50), np.ones(50)):  # nobody had a number; everybody the same one
        made, took = cuped([per_user(values, before)], PER_USER)
        assert made == [ratio(per_user(values), PER_USER)]
        assert took == 0


def test_cuped_puts_users_who_were_not_there_before_at_the_mean():
    rng = np.random.default_rng(6)
    known, before = (rng.random(300) < 0.6).astype(float), rng.gamma(2, 2, 300)
    values = before * known + rng.normal(5, 1, 300)
    metric = Ratio(0, 1, 2, 3)
    (found,), _ = cuped([arm_of(values, np.ones(300), before * known, known)], metric)
    filled = np.where(known > 0, before, before[known > 0].mean())
    slope = np.cov(values, filled)[0, 1] / filled.var(ddof=1)
    residual = values - slope * (filled - filled.mean())
    assert found.value == pytest.approx(values.mean())
    assert found.var == pytest.approx(residual.var(ddof=1) / 300)


def test_what_cannot_be_known_is_nan_and_nothing_against_nothing_is_no_difference():
    empty = arm_of(np.zeros(5), np.zeros(5), np.zeros(5))
    assert np.isnan(ratio(empty, Ratio(0, 1, 2, 2)).value)
    assert np.isnan(ratio(per_user(np.array([1.0])), PER_USER).var)
    none, some = Estimate(10, 0.0, 0.0), Estimate(10, 1.0, 0.1)
    assert (effect(none, none).p, effect(some, Estimate(10, 1.0, 0.0)).diff) == (1.0, 0.0)
    assert np.isnan(effect(none, some).lift)
    assert effect(some, none).lift == -1
    assert np.isnan(effect(some, none).lo)
    assert effect(Estimate(10, 1.0, 0.0), Estimate(10, 2.0, 0.0)).p == 0
    assert np.isnan(effect(some, Estimate(1, 1.0, float("nan"))).p)


def test_a_split_of_5100_to_4900_is_no_rarity_yet():  # P8.6
    chi2, p = sample_ratio([5_100, 4_900], [1, 1])
    assert chi2 == pytest.approx(4)
    assert p == pytest.approx(0.0455, abs=1e-4)
    assert sample_ratio([900, 100], [0.9, 0.1]) == (0, 1)


# ---- many experiments ------------------------------------------------------------------------------------------------


def experiment(seed: int, lift: float, users: int = 2_000) -> list[Moments]:
    """Two arms whose users differ much in activity, before and during the test; plays as denominators. Columns as CURVED says."""
    rng = np.random.default_rng(seed)
    activity = rng.gamma(1.5, 4, users)
    treated = rng.random(users) < 0.5
    before, plays = rng.poisson(activity), rng.poisson(activity) + 1.0
    clicks = rng.poisson(activity * np.where(treated, 1 + lift, 1))
    seconds = plays * rng.gamma(4, 5 * np.where(treated, 1 + lift, 1))
    values = np.column_stack([clicks, np.ones(users), before, seconds, plays, np.zeros(users)])
    return [Moments.of(values[~treated]), Moments.of(values[treated])]


CLICKS, SECONDS = Ratio(0, 1, 2, 1), Ratio(3, 4, 5, 5)  # per user; per play


@pytest.mark.parametrize("metric", [CLICKS, SECONDS], ids=["per user, with CUPED", "per play"])
def test_intervals_hold_a_planted_lift_as_often_as_they_say(metric):
    held, widths = 0, []
    for seed in range(600):
        (control, treatment), _ = cuped(experiment(seed, 0.03), metric)
        found = effect(control, treatment)
        held += found.lo <= 0.03 <= found.hi
        widths.append(found.hi - found.lo)
    assert held / 600 == pytest.approx(0.95, abs=0.025)
    assert np.mean(widths) < 0.2  # an interval that holds everything would pass, too


def test_a_thousand_random_splits_of_the_same_users_differ_in_five_percent():
    rng = np.random.default_rng(7)
    users = 1_500
    activity = rng.gamma(1.5, 4, users)
    values = np.column_stack(
        [rng.poisson(activity), np.ones(users), rng.poisson(activity), activity * 30, rng.poisson(activity) + 1, activity]
    )
    wolf = {CLICKS: 0, SECONDS: 0}
    for salt in range(1_000):
        treated = u01(seed_of(f"salt {salt}"), np.arange(users)) < 0.5
        arms = [Moments.of(values[~treated]), Moments.of(values[treated])]
        for metric in wolf:
            (control, treatment), _ = cuped(arms, metric)
            wolf[metric] += effect(control, treatment).p < 0.05
    for count in wolf.values():
        assert count / 1_000 == pytest.approx(0.05, abs=0.02)
