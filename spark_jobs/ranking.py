"""Numbering rows in a global order: by many tasks, or by one where the rows are few."""

from collections.abc import Sequence
from itertools import accumulate

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


def with_rank(df: DataFrame, order: Sequence[Column], name: str, *, start: int = 0) -> DataFrame:
    """Add int64 column `name`: start, start + 1, ... in this order, which must be total (no two rows equal in it).

    The ranges are sampled, but a row's number depends on its place in the order only. The rows are cached, because counting the
    ranges and numbering inside them must see the same ranges; the runner clears the cache when the job ends.
    """
    ranged = df.repartitionByRange(*order).withColumn("_range", F.spark_partition_id()).persist()
    sizes = sorted((row["_range"], row["count"]) for row in ranged.groupBy("_range").count().collect())
    before = accumulate((size for _, size in sizes), initial=start)
    offsets = df.sparkSession.createDataFrame(
        [(part, offset) for (part, _), offset in zip(sizes, before, strict=False)], "_range int, _offset long"
    )
    inside = F.row_number().over(Window.partitionBy("_range").orderBy(*order)) - 1
    numbered = ranged.withColumn("_inside", inside).join(F.broadcast(offsets), "_range", how="inner")
    return numbered.withColumn(name, F.col("_offset") + F.col("_inside")).drop("_range", "_inside", "_offset")


def with_rank_of_few(df: DataFrame, order: Sequence[Column], name: str, *, start: int = 0) -> DataFrame:
    """As `with_rank`, by one task that sorts all rows (on disk, where memory is short): no Spark job of its own, and nothing cached."""
    place = F.row_number().over(Window.partitionBy(F.lit(0)).orderBy(*order))
    return df.withColumn(name, (place + F.lit(start - 1)).cast("bigint"))
