"""events -> samples in layout sequences, in Spark SQL: each user's train or valid clicks in blocks, with what stands before them."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.tables import TRAIN
from spark_jobs.sql.histories import in_total_order, with_position


def cut_blocks(events: DataFrame, *, split: int, history: int, size: int, first_target: int, user_columns: Sequence[str]) -> DataFrame:
    """The blocks of one split, in no order: the columns of table samples_sequences.

    `events` (every split) carries the user columns. history: L, events of context at most. size: B, targets at most. first_target:
    position of a train user's first target, from 0; what stands before it is context only.
    """
    before = F.collect_list("item_idx").over(in_total_order().rowsBetween(-history, -1))
    placed = with_position(events).withColumn("before", before)
    wanted = F.col("split") == split
    if split == TRAIN:
        wanted &= F.col("position") >= first_target
    # Targets of one run have positions that follow one by one: position minus number is the same for all of them.
    nth = F.row_number().over(Window.partitionBy("user_idx").orderBy("position"))
    in_run = Window.partitionBy("user_idx", "run").orderBy("position")
    numbered = placed.where(wanted).withColumn("run", F.col("position") - nth)
    targets = numbered.withColumn("block", F.floor((F.row_number().over(in_run) - 1) / size))
    click = F.struct("position", "item_idx", "ts", "weight", "before", "split", *user_columns)
    blocks = targets.groupBy("user_idx", "run", "block").agg(F.sort_array(F.collect_list(click)).alias("clicks"))
    first, context = F.col("clicks")[0], F.col("clicks")[0]["before"]
    return blocks.select(
        (F.shiftleft(F.col("user_idx").cast("bigint"), 32) + first["position"]).alias("sample_id"),
        "user_idx",
        first["split"].alias("split"),
        F.size(context).cast("smallint").alias("num_context"),
        F.size("clicks").cast("smallint").alias("num_targets"),
        _padded(F.concat(context, _each("item_idx")), history + size, "int").alias("items"),
        _padded(_each("ts"), size, "bigint").alias("ts"),
        _padded(_each("weight"), size, "float").alias("weight"),
        *(first[name].alias(name) for name in user_columns),
    )


def _each(name: str) -> Column:
    return F.transform("clicks", lambda click: click[name])


def _padded(values: Column, length: int, kind: str) -> Column:
    return F.concat(values, F.array_repeat(F.lit(0).cast(kind), length - F.size(values)))
