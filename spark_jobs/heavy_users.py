"""Users with more clicks than one task should sort: most of what will be cut off is left out before their clicks are moved together."""

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_jobs.splits import CLICK_ORDER


def heavy_users(clicks: DataFrame, *, limit: int) -> dict[str, int]:
    """user_key -> clicks, of the users with more than `limit`. One in so many clicks can be such a user: they fit on the driver."""
    counted = clicks.groupBy("user_key").count().where(F.col("count") > limit)
    return {row["user_key"]: row["count"] for row in counted.collect()}


def thinned(clicks: DataFrame, heavy: Mapping[str, int], *, keep: int, limit: int) -> DataFrame:
    """The clicks without older ones of these users, of whom the `keep` most recent clicks stay, and some more.

    A user's clicks are dealt out to parts of about `limit`, and of each part the `keep` most recent stay: so no task sorts more than a
    part, and nobody has more than keep * clicks / limit of them afterwards, rounded up. What goes has `keep` younger ones in its part.
    """
    parts = -(-max(heavy.values()) // limit)
    part = F.pmod(F.xxhash64("ts", "seq", "item_key"), F.lit(parts))
    latest_first = Window.partitionBy("user_key", "_part").orderBy(*[F.col(name).desc() for name in CLICK_ORDER])
    is_heavy = F.col("user_key").isin(*heavy)
    placed = clicks.where(is_heavy).withColumn("_part", part).withColumn("_place", F.row_number().over(latest_first))
    return clicks.where(~is_heavy).unionByName(placed.where(F.col("_place") <= keep).drop("_part", "_place"))
