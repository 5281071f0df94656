"""Published keys lead back to row numbers."""

from pyspark.sql import SparkSession

from spark_jobs.published_lists import merged_lists

UNITS = "user_idx int, truth array<int>"


def test_both_layouts(spark: SparkSession) -> None:
    index = "idx int, key string"
    users = spark.createDataFrame([(1, "700"), (2, "800"), (3, "900")], index)
    items = spark.createDataFrame([(1, "x"), (2, "y"), (3, "z")], index)
    units = spark.createDataFrame([(1, [9]), (3, [9])], UNITS)
    # user 800 is not a unit; ranks come in any order; user keys were numbers at the source
    rows = spark.createDataFrame([(700, 2, "x"), (700, 1, "z"), (800, 1, "x"), (900, 1, "y")], "user_key long, rank int, item_key string")
    lists = spark.createDataFrame([(700, ["z", "x"]), (800, ["x"]), (900, ["y"])], "user_key long, item_keys array<string>")
    for published in (rows, lists):
        found = merged_lists(published, units, users, items).collect()
        assert {row["user_idx"]: row["items"] for row in found} == {1: [3, 1], 3: [2]}
