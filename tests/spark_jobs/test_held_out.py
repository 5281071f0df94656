"""Who is scored and on what: held-out items once and click by click, the sample, and what nobody could find."""

from pyspark.sql import SparkSession

from spark_jobs.held_out import count_truth, held_out, sample_units

UNITS = "user_idx int, truth array<int>"


def test_truth_is_distinct_and_the_sample_is_the_same_for_any_partitioning(spark: SparkSession) -> None:
    # user 1 clicked item 5 twice in test; item 6 was train
    rows = [(1, 5, 2), (1, 5, 2), (1, 4, 2), (1, 6, 0), *((user, 1, 2) for user in range(2, 30)), (99, 1, 1)]
    events = spark.createDataFrame(rows, "user_idx int, item_idx int, split tinyint")
    truth = held_out(events)
    assert {row["user_idx"]: (row["truth"], row["clicked"]) for row in truth.collect()}[1] == ([4, 5], [4, 5, 5])
    assert 99 not in {row["user_idx"] for row in truth.collect()}  # nothing held out: not a unit
    few = {row["user_idx"] for row in sample_units(truth, max_users=7, seed=3).collect()}
    assert len(few) == 7
    assert few == {row["user_idx"] for row in sample_units(truth.repartition(13), max_users=7, seed=3).collect()}
    assert few != {row["user_idx"] for row in sample_units(truth, max_users=7, seed=4).collect()}
    assert few < {row["user_idx"] for row in sample_units(truth, max_users=9, seed=3).collect()}


def test_truth_that_nothing_could_find_is_counted(spark: SparkSession) -> None:
    units = spark.createDataFrame([(1, [4, 5]), (2, [5, 6, 7])], UNITS)
    # 4 and 5 were clicked in train (5 twice), 6 in valid only, 7 never; 6 and 4 are not eligible
    log = spark.createDataFrame([(1, 4, 0), (1, 5, 0), (2, 5, 0), (2, 6, 1)], "user_idx int, item_idx int, split tinyint")
    eligible = spark.createDataFrame([(5,), (7,)], "idx int")
    assert count_truth(units, log, eligible) == {"truth_items": 5, "truth_items_never_trained": 2, "truth_items_not_eligible": 2}
