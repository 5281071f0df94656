"""Published candidates read back: business keys to row numbers, either layout to one list a user."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def lists_by_key(candidates: DataFrame) -> DataFrame:
    """user_key, item_keys, scores (best first) of published candidates of either layout; users without any have no row."""
    if "item_keys" in candidates.columns:
        return candidates.where(F.size("item_keys") > 0).select("user_key", "item_keys", "scores")
    ranked = F.sort_array(F.collect_list(F.struct("rank", "item_key", "score"))).alias("ranked")
    lists = candidates.groupBy("user_key").agg(ranked)
    return lists.select("user_key", F.col("ranked.item_key").alias("item_keys"), F.col("ranked.score").alias("scores"))


def merged_lists(candidates: DataFrame, units: DataFrame, user_index: DataFrame, item_index: DataFrame) -> DataFrame:
    """Published candidates of the units, of either layout, back to user_idx, items array<int32> (best first).

    Published keys have the type they came with; the indexes hold them as strings.
    """
    users = user_index.join(F.broadcast(units), user_index.idx == units.user_idx, how="left_semi")
    users = F.broadcast(users.select(F.col("key").alias("user"), F.col("idx").alias("user_idx")))
    mine = candidates.withColumn("user", F.col("user_key").cast("string")).join(users, "user", how="inner")
    if "item_keys" in candidates.columns:
        rows = mine.select("user_idx", F.posexplode("item_keys").alias("rank", "item"))
    else:
        rows = mine.select("user_idx", "rank", F.col("item_key").alias("item"))
    items = item_index.select(F.col("key").alias("item"), F.col("idx").alias("item_idx"))
    found = rows.withColumn("item", F.col("item").cast("string")).join(items, "item", how="inner")
    ranked = found.groupBy("user_idx").agg(F.sort_array(F.collect_list(F.struct("rank", "item_idx"))).alias("ranked"))
    return ranked.select("user_idx", F.col("ranked.item_idx").alias("items"))
