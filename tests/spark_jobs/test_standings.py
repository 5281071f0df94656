"""The merged list against baselines: pairs of users against scipy."""

import numpy as np
import pytest
from pyspark.sql import SparkSession
from scipy import stats

from spark_jobs.standings import standings

N = 10


def test_users_are_paired_and_p_is_that_of_scipy(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    merged = rng.random(60).round(3)
    recall = {"merged": merged, "als": merged - 0.02 + rng.normal(0, 0.02, 60).round(3), "most_pop": rng.random(60).round(3)}
    rows = [(user, name, n, float(value) + n - N) for name, of in recall.items() for user, value in enumerate(of) for n in (3, N)]
    als, most_pop = standings(spark.createDataFrame(rows, "user_idx int, channel string, n int, recall double"), ["als", "most_pop"], N)
    for line, name in ((als, "als"), (most_pop, "most_pop")):
        want = stats.ttest_rel(merged, recall[name])
        assert (line["channel"], line["users"]) == (name, 60)
        assert (line["diff"], line["p"]) == pytest.approx(((merged - recall[name]).mean(), want.pvalue), abs=1e-10)
        assert (line["lo"], line["hi"]) == pytest.approx(tuple(want.confidence_interval()), abs=1e-10)
    assert (als["p_corrected"], most_pop["p_corrected"]) == pytest.approx((2 * als["p"], most_pop["p"]))  # Holm, the smaller p first
    # intervals of the two means overlap: users differ far more among themselves than a user does from itself
    half = 2 * merged.std() / np.sqrt(60)
    assert als["diff"] < half
    assert als["p_corrected"] < 0.001


def test_lists_that_are_the_same_and_a_single_user(spark: SparkSession) -> None:
    rows = [(user, name, N, user / 4) for user in range(3) for name in ("merged", "als")]
    frame = spark.createDataFrame(rows, "user_idx int, channel string, n int, recall double")
    (same,) = standings(frame, ["als", "most_pop"], N)  # no row of most_pop
    assert [same[part] for part in ("diff", "lo", "hi", "p", "p_corrected")] == [0, 0, 0, 1, 1]
    (one,) = standings(frame.where("user_idx = 1"), ["als"], N)
    assert (one["users"], one["lo"], one["p_corrected"]) == (1, None, None)
