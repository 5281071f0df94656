"""events -> samples in Spark SQL: each train or valid click with what its user did before it. Masks: `with_masks`, beside this."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import TRAIN
from spark_jobs.sql.histories import in_total_order, with_position
from spark_jobs.sql.item_users import with_item_users


def cut_windows(
    events: DataFrame, *, split: int, history: int, first_target: int, user_columns: Sequence[str], item_users: int = 0
) -> DataFrame:
    """The rows of one split, in no order: the columns of table samples, without the masks.

    `events` (every split) carries the user columns. history: length of `hist`. first_target: position of a train user's first target,
    from 0; what stands before it is history only. item_users: length of that column, 0 = without it.
    """
    before = F.collect_list("item_idx").over(in_total_order().rowsBetween(-history, -1))
    placed = with_position(events).withColumn("before", before)
    if item_users:
        placed = with_item_users(placed, item_users)
    wanted = F.col("split") == split
    if split == TRAIN:
        wanted &= F.col("position") >= first_target
    padding = F.array_repeat(F.lit(0), history - F.size("before"))
    sample_id = F.shiftleft(F.col("user_idx").cast("bigint"), 32) + F.col("position")
    return placed.where(wanted).select(
        sample_id.alias("sample_id"),
        "user_idx",
        "item_idx",
        "ts",
        "split",
        F.concat("before", padding).alias("hist"),
        F.size("before").cast("smallint").alias("hist_len"),
        "weight",
        *user_columns,
        *["item_users"] * (item_users > 0),
    )
