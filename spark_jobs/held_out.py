"""Who is scored and on what: the clicks that the split held out, a sample of users that have any, and what of it could be found."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import TEST, TRAIN


def held_out(events: DataFrame, split: int = TEST) -> DataFrame:
    """user_idx, truth, clicked: of each user's clicks of one split the different items, and the item of each, ascending int32 both.

    Users without any have no row.
    """
    clicked = F.sort_array(F.collect_list("item_idx")).alias("clicked")
    found = events.where(F.col("split") == split).groupBy("user_idx").agg(clicked)
    return found.select("user_idx", F.array_distinct("clicked").alias("truth"), "clicked")


def sample_units(truth: DataFrame, *, max_users: int, seed: int) -> DataFrame:
    """At most `max_users` rows of `truth`, those of the smallest hash of (seed, user_idx): the same for every channel and partitioning."""
    order = F.xxhash64(F.lit(seed).cast("long"), F.col("user_idx").cast("long"))
    return truth.orderBy(order, "user_idx").limit(max_users)


def count_truth(units: DataFrame, events: DataFrame, eligible: DataFrame) -> dict[str, int]:
    """Held-out items of the units, how many of them nobody clicked in train, and how many may not be recommended."""
    items = units.select(F.explode("truth").alias("item_idx"))
    trained = events.where(F.col("split") == TRAIN).select("item_idx", F.lit(True).alias("trained")).distinct()
    allowed = eligible.select(F.col("idx").alias("item_idx"), F.lit(True).alias("allowed"))
    joined = items.join(trained, "item_idx", how="left").join(allowed, "item_idx", how="left")
    row = joined.agg(
        F.count(F.lit(1)).alias("truth_items"),
        F.count(F.when(F.col("trained").isNull(), 1)).alias("truth_items_never_trained"),
        F.count(F.when(F.col("allowed").isNull(), 1)).alias("truth_items_not_eligible"),
    ).first()
    assert row is not None
    return row.asDict()
