"""Generated data only: the candidate lists of one who knows the planted tastes, the ceiling of what a model can learn."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame

from conf.settings import Settings
from spark_jobs.sources.planted import oracle_top


def oracle_lists(
    settings: Settings, asked: DataFrame, user_index: DataFrame, item_index: DataFrame, eligible: DataFrame, *, num: int
) -> DataFrame:
    """user_idx, items array<int32>: each user's `num` most likely next clicks among eligible items, best first.

    asked: user_idx, seen array<int32> (never recommended). eligible: idx. The generated catalogue fits every executor's memory.
    """
    number = {row["key"]: row["idx"] for row in item_index.select("key", "idx").collect()}
    key = {idx: name for name, idx in number.items()}
    allowed = {row["idx"] for row in eligible.select("idx").collect()}
    depth = num + len(number) - len(allowed)  # enough to leave out what is not eligible

    def lists(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            exclude = [{key[idx] for idx in seen} for seen in batch.column("seen").to_pylist()]
            top = oracle_top(settings, batch.column("key").to_pylist(), depth, exclude)
            found = [[number[name] for name in names if number.get(name) in allowed][:num] for names in top.items]
            yield pa.record_batch([batch.column("user_idx"), pa.array(found, pa.list_(pa.int32()))], names=["user_idx", "items"])

    keyed = asked.join(user_index.withColumnRenamed("idx", "user_idx"), "user_idx", how="inner").select("user_idx", "key", "seen")
    return keyed.mapInArrow(lists, "user_idx int, items array<int>")
