"""Metrics against hand-worked rows and a slow numpy twin."""

from collections.abc import Mapping, Sequence
from math import log2, sqrt

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_jobs import offline_metrics as om

LISTS = "user_idx int, channel string, items array<int>"
UNITS = "user_idx int, truth array<int>"


def twin(items: Sequence[int], truth: Sequence[int], n: int) -> dict[str, float]:
    """Every metric of one list, written as the definitions read."""
    hits = [item in set(truth) for item in items[:n]]
    dcg = sum(1 / log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
    n_hit = sum(hits)
    ideal = [sum(1 / log2(rank + 1) for rank in range(1, k + 1)) for k in (n_hit, min(len(truth), n))]
    return {
        "recall": n_hit / len(truth),
        "ndcg_hit": dcg / ideal[0] if n_hit else 0.0,
        "ndcg_std": dcg / ideal[1],
        "hr": float(n_hit > 0),
        "n_truth": len(truth),
        "n_hit": n_hit,
    }


def scored(
    spark: SparkSession,
    lists: Mapping[tuple[int, str], Sequence[int]],
    truth: Mapping[int, Sequence[int]],
    channels: Sequence[str],
    at: Sequence[int],
) -> DataFrame:
    rows = spark.createDataFrame([(user, channel, list(items)) for (user, channel), items in lists.items()], LISTS)
    units = spark.createDataFrame([(user, list(items)) for user, items in truth.items()], UNITS)
    return om.score(rows, units, channels=channels, at=at)


def cells(df: DataFrame) -> dict[tuple[int, str, int], dict[str, float]]:
    rows = [row.asDict() for row in df.collect()]
    return {(row.pop("user_idx"), row.pop("channel"), row.pop("n")): row for row in rows}


def test_the_worked_example(spark: SparkSession) -> None:
    # P8.1: truth {a, b, c}; the list is x a y b
    found = cells(scored(spark, {(1, "u2i"): [9, 1, 8, 2]}, {1: [1, 2, 3]}, ["u2i"], [4]))[(1, "u2i", 4)]
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["ndcg_std"] == pytest.approx(0.4981893, abs=1e-7)
    assert found["ndcg_hit"] == pytest.approx(0.6509209, abs=1e-7)
    assert (found["hr"], found["n_truth"], found["n_hit"]) == (1.0, 3, 2)


def test_a_perfect_list_scores_one_and_a_missing_one_zero(spark: SparkSession) -> None:
    found = cells(scored(spark, {(1, "u2i"): [3, 1, 2]}, {1: [1, 2, 3], 2: [5]}, ["u2i"], [3]))
    assert {name: found[(1, "u2i", 3)][name] for name in om.MEANS} == dict.fromkeys(om.MEANS, 1.0)  # P8.2
    assert {name: found[(2, "u2i", 3)][name] for name in om.MEANS} == dict.fromkeys(om.MEANS, 0.0)  # no list: counted as empty


def test_spark_agrees_with_the_twin(spark: SparkSession) -> None:
    # P8.9, with P8.2's order and P8.3's single truth on the way
    rng = np.random.default_rng(0)
    at, channels = [1, 5, 20], ["a", "b"]
    truth = {user: rng.choice(60, rng.integers(1, 30), replace=False).tolist() for user in range(1, 41)}
    lists = {
        (user, c): rng.choice(60, rng.integers(0, 30), replace=False).tolist() for user in truth for c in channels if rng.random() < 0.9
    }
    found = cells(scored(spark, lists, truth, channels, at))
    assert set(found) == {(user, c, n) for user in truth for c in channels for n in at}
    for (user, c, n), row in found.items():
        assert row == pytest.approx(twin(lists.get((user, c), []), truth[user], n), abs=1e-9), (user, c, n)
        assert row["ndcg_std"] <= row["ndcg_hit"] + 1e-12
        if len(truth[user]) == 1:
            assert row["recall"] == row["hr"]
    for user, c in {(user, c) for user, c, _ in found}:
        for name in ("recall", "hr", "n_hit"):
            values = [found[(user, c, n)][name] for n in at]
            assert values == sorted(values)


def test_metrics_do_not_depend_on_labels_or_partitions(spark: SparkSession) -> None:
    lists, truth = {(1, "a"): [4, 2, 7], (2, "a"): [7, 1]}, {1: [2, 7], 2: [1]}
    moved = {user: [item + 100 for item in items] for user, items in truth.items()}
    one = cells(scored(spark, lists, truth, ["a"], [2]))
    other = scored(spark, {key: [item + 100 for item in items] for key, items in lists.items()}, moved, ["a"], [2])
    assert cells(other.repartition(7)) == one


def test_an_item_that_a_list_repeats_counts_once(spark: SparkSession) -> None:
    found = cells(scored(spark, {(1, "a"): [5, 5, 6]}, {1: [5, 6]}, ["a"], [2]))[(1, "a", 2)]
    assert (found["n_hit"], found["recall"]) == (2, 1.0)


def test_truth_is_distinct_and_the_sample_is_the_same_for_any_partitioning(spark: SparkSession) -> None:
    # user 1 clicked item 5 twice in test; item 6 was train
    rows = [(1, 5, 2), (1, 5, 2), (1, 4, 2), (1, 6, 0), *((user, 1, 2) for user in range(2, 30)), (99, 1, 1)]
    events = spark.createDataFrame(rows, "user_idx int, item_idx int, split tinyint")
    truth = om.held_out(events)
    assert {row["user_idx"]: row["truth"] for row in truth.collect()}[1] == [4, 5]
    assert 99 not in {row["user_idx"] for row in truth.collect()}  # nothing held out: not a unit
    few = {row["user_idx"] for row in om.sample_units(truth, max_users=7, seed=3).collect()}
    assert len(few) == 7
    assert few == {row["user_idx"] for row in om.sample_units(truth.repartition(13), max_users=7, seed=3).collect()}
    assert few != {row["user_idx"] for row in om.sample_units(truth, max_users=7, seed=4).collect()}
    assert few < {row["user_idx"] for row in om.sample_units(truth, max_users=9, seed=3).collect()}


def test_means_carry_normal_intervals(spark: SparkSession) -> None:
    per_user = scored(spark, {(1, "a"): [1], (2, "a"): [9], (3, "a"): [3]}, {1: [1], 2: [2], 3: [3]}, ["a"], [1])
    row = om.means(per_user).where("metric = 'recall'").collect()[0]
    half = 1.959963984540054 * np.std([1, 0, 1], ddof=1) / sqrt(3)
    assert (row["value"], row["n_users"]) == (pytest.approx(2 / 3), 3)
    assert (row["ci_lo"], row["ci_hi"]) == (pytest.approx(2 / 3 - half), pytest.approx(2 / 3 + half))
    alone = om.means(per_user.where("user_idx = 1")).collect()[0]
    assert (alone["ci_lo"], alone["ci_hi"]) == (None, None)  # one user has no spread


def test_coverage_is_the_union_of_the_first_n(spark: SparkSession) -> None:
    lists = spark.createDataFrame([(1, "a", [1, 2, 3]), (2, "a", [2, 1, 4]), (1, "b", [])], LISTS)
    eligible = spark.createDataFrame([(i,) for i in range(1, 9)], "idx int")
    found = om.coverage(lists, eligible, channels=["a", "b"], at=[1, 2, 3], n_users=2).collect()
    values = {(row["channel"], row["n"]): row["value"] for row in found}
    # first one: {1, 2}; first two: the same two items; first three: {1, 2, 3, 4}; of 8
    assert values == {("a", 1): 2 / 8, ("a", 2): 2 / 8, ("a", 3): 4 / 8, ("b", 1): 0.0, ("b", 2): 0.0, ("b", 3): 0.0}
    assert {row["ci_lo"] for row in found} == {None}


def test_published_keys_lead_back_to_row_numbers_in_both_layouts(spark: SparkSession) -> None:
    index = "idx int, key string"
    users = spark.createDataFrame([(1, "700"), (2, "800"), (3, "900")], index)
    items = spark.createDataFrame([(1, "x"), (2, "y"), (3, "z")], index)
    units = spark.createDataFrame([(1, [9]), (3, [9])], UNITS)
    # user 800 is not a unit; ranks come in any order; user keys were numbers at the source
    rows = spark.createDataFrame([(700, 2, "x"), (700, 1, "z"), (800, 1, "x"), (900, 1, "y")], "user_key long, rank int, item_key string")
    lists = spark.createDataFrame([(700, ["z", "x"]), (800, ["x"]), (900, ["y"])], "user_key long, item_keys array<string>")
    for published in (rows, lists):
        found = om.merged_lists(published, units, users, items).collect()
        assert {row["user_idx"]: row["items"] for row in found} == {1: [3, 1], 3: [2]}
