"""What users clicked after a published day, in the row numbers of that day: truth that no split had to hold out."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def later_clicks(clicks: DataFrame, user_index: DataFrame, item_index: DataFrame, *, after: str, until: str) -> DataFrame:
    """user_key, user_idx, item_key, item_idx, times: the different items each user clicked on the days in (after, until], how often.

    clicks: of the later day. user_index, item_index: of the published one; an idx is null where the day did not know the key.
    """
    users = user_index.select(F.col("key").alias("user_key"), F.col("idx").alias("user_idx"))
    items = item_index.select(F.col("key").alias("item_key"), F.col("idx").alias("item_idx"))
    new = clicks.where((F.col("day") > after) & (F.col("day") <= until)).groupBy("user_key", "item_key").agg(F.count("*").alias("times"))
    return new.join(users, "user_key", how="left").join(items, "item_key", how="left")


def truth_of(later: DataFrame) -> DataFrame:
    """user_idx, truth, clicked (as `held_out` gives them) of the users whom the day knew; users it did not know have no row.

    Items that the day did not know stand as -1, -2, ...: no list holds them, and every denominator counts them.
    """
    mine = Window.partitionBy("user_idx").orderBy("item_idx", "item_key")  # null, not known, comes first
    known = later.where(F.col("user_idx").isNotNull()).withColumn("item", F.coalesce("item_idx", -F.row_number().over(mine)))
    clicked = F.sort_array(F.flatten(F.collect_list(F.array_repeat("item", F.col("times").cast("int"))))).alias("clicked")
    return known.groupBy("user_idx").agg(clicked).select("user_idx", F.array_distinct("clicked").alias("truth"), "clicked")


def count_unknown(units: DataFrame) -> int:
    """How many items of the units' truth the day did not know."""
    row = units.agg(F.sum(F.size(F.filter("truth", lambda item: item < 0)))).first()
    return int((row and row[0]) or 0)
