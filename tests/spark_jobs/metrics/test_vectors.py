"""Alignment and uniformity: at their bounds, against all pairs one by one, and the samples they are taken of."""

from math import exp, log

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_jobs.metrics import vectors
from spark_jobs.metrics.vectors import alignment, uniformity, vector_use

VECTORS = "idx int, interest tinyint, vector array<float>"
UNITS = "user_idx int, truth array<int>"


def test_the_bounds() -> None:
    # P8.4
    assert alignment(np.ones(3)) == 0
    assert alignment(-np.ones(3)) == 4
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert uniformity(np.eye(3)) == pytest.approx(-4)
    assert uniformity(np.ones((5, 1))) == pytest.approx(0)


def test_uniformity_is_over_all_pairs_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    found = rng.normal(size=(37, 8))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    pairs = [exp(-2 * float(((a - b) ** 2).sum())) for i, a in enumerate(found) for b in found[:i]]
    want = log(sum(pairs) / len(pairs))
    for size in (1, 10, 36, 37, 100):
        monkeypatch.setattr(vectors, "_BLOCK", size)
        assert uniformity(found) == pytest.approx(want, abs=1e-9)


def test_many_random_directions_are_near_minus_four() -> None:
    found = np.random.default_rng(4).normal(size=(3000, 128))
    assert uniformity(found / np.linalg.norm(found, axis=1, keepdims=True)) == pytest.approx(-4, abs=0.1)


def numbers(spark: SparkSession, users: list, items: list, units: list, num: int = 100, seed: int = 1) -> dict[str, tuple[float, int]]:
    made = (spark.createDataFrame(users, VECTORS), spark.createDataFrame(items, VECTORS), spark.createDataFrame(units, UNITS))
    found = vector_use(*made, num=num, seed=seed)
    assert {(x.channel, x.n, x.slice, x.lo) for x in found} <= {("vectors", 0, "all", None)}
    return {x.metric: (x.value, x.num_units) for x in found}


def test_clicked_pairs_by_the_nearest_interest_and_lengths_do_not_matter(spark: SparkSession) -> None:
    # user 1 has two interests; item 7 points with the second one; item 8 against user 2; -1 is an item that the day did not know
    users = [(1, 0, [1.0, 0.0]), (1, 1, [0.0, 3.0]), (2, 0, [5.0, 0.0])]
    items = [(7, 0, [0.0, 0.5]), (8, 0, [-2.0, 0.0]), (9, 0, [0.0, 1.0])]
    found = numbers(spark, users, items, [(1, [7]), (2, [8, -1])])
    assert found["ui_align"] == (pytest.approx((0 + 4) / 2), 2)
    # users: distances^2 2, 0, 2; items: 2, 0, 2
    want = log((2 * exp(-4) + 1) / 3)
    assert found["uu_uniform"] == found["ii_uniform"] == (pytest.approx(want), 3)


def test_samples_are_of_a_hash_and_what_has_no_pair_is_left_out(spark: SparkSession) -> None:
    rng = np.random.default_rng(5)
    users = [(n, 0, rng.normal(size=4).tolist()) for n in range(1, 41)]
    items = [(n, 0, rng.normal(size=4).tolist()) for n in range(1, 31)]
    units = [(n, sorted({n % 30 + 1, 5})) for n in range(1, 41)]
    few = numbers(spark, users, items, units, num=10)
    assert [size for _, size in few.values()] == [10, 10, 10]
    assert few == numbers(spark, users[::-1], items[::-1], units[::-1], num=10)
    assert few != numbers(spark, users, items, units, num=10, seed=2)
    assert numbers(spark, users[:1], items[:1], [(1, [9])]) == {}
