"""What users clicked after a published day, in the row numbers of that day: truth that no split had to hold out."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def later_clicks(clicks: DataFrame, user_index: DataFrame, item_index: DataFrame, *, after: str, until: str) -> DataFrame:
    """user_key, user_idx, item_key, item_idx: the distinct items each user clicked on the days in (after, until].

    clicks: of the later day. user_index, item_index: of the published one; an idx is null where the day did not know the key.
    """
    users = user_index.select(F.col("key").alias("user_key"), F.col("idx").alias("user_idx"))
    items = item_index.select(F.col("key").alias("item_key"), F.col("idx").alias("item_idx"))
    new = clicks.where((F.col("day") > after) & (F.col("day") <= until)).select("user_key", "item_key").distinct()
    return new.join(users, "user_key", how="left").join(items, "item_key", how="left")


def truth_of(later: DataFrame) -> DataFrame:
    """user_idx, truth array<int32> of the users whom the day knew; users it did not know have no row.

    Items that the day did not know stand as -1, -2, ...: no list holds them, and every denominator counts them.
    """
    known = later.where(F.col("user_idx").isNotNull()).groupBy("user_idx")
    sets = known.agg(
        F.sort_array(F.collect_set("item_idx")).alias("found"), F.count(F.when(F.col("item_idx").isNull(), 1)).alias("unknown")
    )
    # sequence(1, 0) counts down to 0, so it is cut
    unknown = F.slice(F.transform(F.sequence(F.lit(1), F.greatest("unknown", F.lit(1))), lambda n: -n), 1, F.col("unknown").cast("int"))
    return sets.select("user_idx", F.concat("found", unknown.cast("array<int>")).alias("truth"))


def count_unknown(units: DataFrame) -> int:
    """How many items of the units' truth the day did not know."""
    row = units.agg(F.sum(F.size(F.filter("truth", lambda item: item < 0)))).first()
    return int((row and row[0]) or 0)
