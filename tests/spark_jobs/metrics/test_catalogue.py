"""Coverage and the Gini index: by hand, at their bounds, and against all pairs of items."""

import numpy as np
import pytest
from pyspark.sql import SparkSession

from spark_jobs.metrics.catalogue import catalogue_use, gini
from tests.spark_jobs.metrics.slow import gini_twin

LISTS = "user_idx int, channel string, items array<int>"


def of_times(times: list[int]) -> float:
    shown, items = np.unique([t for t in times if t], return_counts=True)
    return gini(shown.astype(np.int64), items.astype(np.int64), total=len(times))


def test_gini_at_its_bounds() -> None:
    assert of_times([3, 3, 3, 3]) == 0
    assert of_times([0, 0, 0, 7]) == pytest.approx(3 / 4)  # one of four items has all
    assert of_times([0, 0, 5, 5]) == pytest.approx(1 / 2)


def test_gini_is_that_of_all_pairs() -> None:
    # P8.9
    rng = np.random.default_rng(6)
    for _ in range(30):
        times = rng.integers(0, 6, rng.integers(2, 30)).tolist()
        if sum(times):
            assert of_times(times) == pytest.approx(gini_twin(times), abs=1e-9)


def test_both_by_hand(spark: SparkSession) -> None:
    rows = [(1, "a", [1, 2, 3]), (2, "a", [2, 1, 4]), (1, "b", []), (3, "a", [99])]  # 99 may not be recommended
    eligible = spark.createDataFrame([(i,) for i in range(1, 9)], "idx int")
    lists = spark.createDataFrame(rows, LISTS)
    found = {(x.channel, x.metric, x.n): x for x in catalogue_use(lists, eligible, channels=["a", "b"], at=[1, 2, 3], num_users=3)}
    coverage = {(c, n): x.value for (c, metric, n), x in found.items() if metric == "coverage"}
    # first one: {1, 2}; first two: the same two items; first three: {1, 2, 3, 4}; of 8
    assert coverage == {("a", 1): 2 / 8, ("a", 2): 2 / 8, ("a", 3): 4 / 8, ("b", 1): 0.0, ("b", 2): 0.0, ("b", 3): 0.0}
    assert found["a", "gini", 1].value == pytest.approx(gini_twin([1, 1, 0, 0, 0, 0, 0, 0]))
    assert found["a", "gini", 3].value == pytest.approx(gini_twin([2, 2, 1, 1, 0, 0, 0, 0]))
    assert ("b", "gini", 1) not in found  # nothing is shown: no share to be uneven
    assert {(x.num_units, x.lo, x.hi) for x in found.values()} == {(3, None, None)}


def test_coverage_grows_with_the_list(spark: SparkSession) -> None:
    # P8.2
    rng = np.random.default_rng(7)
    rows = [(user, "a", rng.permutation(np.arange(1, 41))[:12].tolist()) for user in range(1, 6)]
    eligible = spark.createDataFrame([(i,) for i in range(1, 41)], "idx int")
    found = catalogue_use(spark.createDataFrame(rows, LISTS), eligible, channels=["a"], at=[1, 3, 6, 12], num_users=5)
    values = [x.value for x in found if x.metric == "coverage"]
    assert values == sorted(values)
    assert len(set(values)) > 1
