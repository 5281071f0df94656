"""The Poisson bootstrap: its draws against conf.draws, its intervals against drawing with replacement."""

import numpy as np
import pytest
from scipy import stats

from conf.draws import u01
from spark_jobs.bootstrap import gains, weighted_sums, weights
from spark_jobs.significance import percentile_interval


def test_weights_are_poisson_by_the_counter_based_draws():
    units = np.array([7, -3, 2**62, 0])
    found = weights(units, 500, seed=11)
    uniform = u01(11, units[:, None], np.arange(500)[None, :])
    assert np.array_equal(found, stats.poisson.ppf(uniform, 1.0))
    many = weights(np.arange(2_000), 50, seed=1)
    assert many.mean() == pytest.approx(1, abs=0.02)
    assert many.var() == pytest.approx(1, abs=0.03)


def test_replicates_do_not_depend_on_how_units_are_split():
    rng = np.random.default_rng(0)
    units, values = rng.permutation(1_300).astype(np.int64), rng.random((1_300, 2))
    whole = weighted_sums(units, values, num=40, seed=5)
    order = rng.permutation(1_300)
    parts = [weighted_sums(units[part], values[part], num=40, seed=5) for part in np.array_split(order, 7)]
    assert sum(parts) == pytest.approx(whole, rel=1e-12)
    assert whole[3] == pytest.approx(weights(units, 40, seed=5)[:, 3] @ values)
    assert not np.allclose(weighted_sums(units, values, num=40, seed=6), whole)


def interval(a: np.ndarray, b: np.ndarray, seed: int, num: int = 2_000) -> np.ndarray:
    """lo and hi of the relative gain of one cell."""
    sums = weighted_sums(np.arange(len(a)), np.column_stack([a, b]), num=num, seed=seed)
    found = percentile_interval(np.zeros(1), gains(sums[:, :1], sums[:, 1:]))
    return np.array([found.lo[0], found.hi[0]])


def test_the_interval_is_that_of_drawing_users_with_replacement():
    rng = np.random.default_rng(2)
    skill = rng.beta(2, 5, 800)
    a, b = rng.binomial(10, skill) / 10, rng.binomial(10, skill) / 10
    drawn = rng.integers(0, 800, (4_000, 800))  # the exact bootstrap
    exact = np.quantile(b[drawn].mean(axis=1) / a[drawn].mean(axis=1) - 1, [0.025, 0.975])
    found = interval(a, b, seed=3, num=4_000)
    assert found == pytest.approx(exact, abs=0.06 * (exact[1] - exact[0]))


def test_identical_systems_gain_exactly_nothing():  # P8.5
    a = np.random.default_rng(3).random(90)
    assert interval(a, a, seed=1).tolist() == [0.0, 0.0]


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # 300 repetitions of 150 users; the gain of B is 15 % in expectation
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(300):
        skill = rng.beta(2, 5, 150) * 0.8
        lo, hi = interval(rng.binomial(20, skill) / 20, rng.binomial(20, skill * 1.15) / 20, seed=seed, num=400)
        held += lo <= 0.15 <= hi
    assert held / 300 == pytest.approx(0.945, abs=0.04)


def test_a_baseline_that_finds_nothing_has_no_relative_gain():
    assert np.isnan(interval(np.zeros(5), np.ones(5), seed=1)).all()
