"""Means and intervals over users and slices."""

from math import sqrt

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_jobs.metrics.clicks import as_of_click
from spark_jobs.metrics.summary import Z95, Number, summarise
from tests.spark_jobs.metrics.blocks import known
from tests.spark_jobs.metrics.test_scoring import scored

SLICES = "user_idx int, slices array<string>"


def summary(spark: SparkSession, df: DataFrame, slices: dict[int, list[str]]) -> dict[tuple[str, str], Number]:
    found = summarise(df, spark.createDataFrame(list(slices.items()), SLICES))
    assert {(x.channel, x.n) for x in found} == {("a", 1)}
    return {(x.metric, x.slice): x for x in found}


def test_means_carry_normal_intervals_and_slices_their_own(spark: SparkSession) -> None:
    # item 1 is the head (9 clicks), all others are between head and tail; users 1 and 3 find theirs
    df = scored(spark, {(1, "a"): [1], (2, "a"): [9], (3, "a"): [3]}, {1: [1], 2: [2], 3: [3]}, [1], known([9, 1, 1, 1, 1, 1, 1, 1, 1]))
    found = summary(spark, df, {1: ["x", "y"], 2: ["x"], 3: []})
    half = Z95 * np.std([1, 0, 1], ddof=1) / sqrt(3)
    row = found["recall", "all"]
    assert (row.value, row.num_units) == (pytest.approx(2 / 3), 3)
    assert (row.lo, row.hi) == (pytest.approx(2 / 3 - half), pytest.approx(2 / 3 + half))
    assert (found["recall", "x"].value, found["recall", "x"].num_units) == (0.5, 2)
    assert (found["recall", "y"].value, found["recall", "y"].lo) == (1.0, None)  # one user has no spread
    assert (found["recall", "item popularity=head"].value, found["recall", "item popularity=middle"].value) == (1.0, 0.5)
    assert found["pop_share", "x"].value == 0.5
    assert ("pop_share", "item popularity=middle") not in found
    assert ("diversity", "all") not in found  # items have no categories here


def test_a_mean_is_over_those_that_have_the_number(spark: SparkSession) -> None:
    df = scored(spark, {(1, "a"): [1]}, {1: [1], 2: [2]}, [1], known([9, 1]))
    found = summary(spark, df, {1: [], 2: []})
    assert (found["recall", "all"].value, found["recall", "all"].num_units) == (0.5, 2)
    assert (found["pop_share", "all"].value, found["pop_share", "all"].num_units) == (1.0, 1)  # user 2 has no list


def test_hit_as_of_the_cut_is_by_click_and_its_interval_by_user(spark: SparkSession) -> None:
    lists, clicked = {(1, "a"): [1], (2, "a"): [9], (3, "a"): [3]}, {1: [1, 1, 1, 2], 2: [2], 3: [3, 4]}
    row = summary(spark, scored(spark, lists, clicked, [1], known([1] * 9)), {1: [], 2: [], 3: []})["hit_cut", "all"]
    hits, clicks = np.array([3, 0, 1]), np.array([4, 1, 2])
    ratio = hits.sum() / clicks.sum()
    assert (row.value, row.num_units) == (pytest.approx(ratio), 3)
    # the delta method is the spread of hits - ratio * clicks, by the mean of clicks
    half = Z95 * np.std(hits - ratio * clicks, ddof=1) / clicks.mean() / sqrt(3)
    assert (row.lo, row.hi) == (pytest.approx(ratio - half), pytest.approx(ratio + half))


def test_hit_as_of_the_click_counts_those_that_were_asked_of_u2i_alone(spark: SparkSession) -> None:
    lists, clicked = {(user, c): [user] for user in (1, 2, 3) for c in ("u2i", "i2i")}, {1: [1, 1, 4], 2: [2], 3: [3, 4]}
    df = scored(spark, lists, clicked, [1, 3], known([9, 1, 1, 1]), ("u2i", "i2i"))
    ranks = spark.createDataFrame([(1, 1), (1, 2), (1, 0), (3, 4), (3, 3)], "user_idx int, rank int")  # user 2 was not asked
    made = as_of_click(df, ranks, at=[1, 3])
    assert made.columns == [*df.columns, "n_asof", "n_asof_hit"]
    assert made.count() == df.count()
    rows = {(r["user_idx"], r["n"]): (r["n_asof"], r["n_asof_hit"]) for r in made.where("n_asof is not null").collect()}
    assert rows == {(1, 1): (3, 1), (1, 3): (3, 2), (3, 1): (2, 0), (3, 3): (2, 1)}
    found = summarise(made, spark.createDataFrame([(1, ["x"]), (2, ["x"]), (3, [])], SLICES))
    hits = {(x.channel, x.n, x.slice): (x.value, x.num_units) for x in found if x.metric == "hit_click"}
    assert hits == {
        **{("u2i", 1, "all"): (pytest.approx(1 / 5), 2), ("u2i", 3, "all"): (pytest.approx(3 / 5), 2)},
        **{("u2i", 1, "x"): (pytest.approx(1 / 3), 1), ("u2i", 3, "x"): (pytest.approx(2 / 3), 1)},
    }


def test_with_a_click_each_all_ways_to_count_hits_are_one(spark: SparkSession) -> None:
    # P8.3, and HIT = recall = hit rate for one click a user
    found = summary(spark, scored(spark, {(1, "a"): [1], (2, "a"): [9]}, {1: [1], 2: [2]}, [1], known([1] * 9)), {1: [], 2: []})
    same = {(found[name, "all"].value, found[name, "all"].lo, found[name, "all"].hi) for name in ("recall", "hr")}
    assert len(same) == 1
    (value, lo, hi), row = same.pop(), found["hit_cut", "all"]
    assert (row.value, row.lo, row.hi) == (value, pytest.approx(lo), pytest.approx(hi))
