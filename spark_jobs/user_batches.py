"""The events of whole users, in their total order, as Arrow tables: what the jobs that walk histories read."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.tables import CONTEXT, TRAIN


def event_order() -> list[Column]:
    """The total order of a user's events. Events equal in all of it are interchangeable.

    (ts, seq, item) decides; where seq ties too (two files, one row number), what was cut off by the split stays behind what was not.
    """
    stage = F.when(F.col("split") == CONTEXT, TRAIN).otherwise(F.col("split"))
    return [F.col("ts"), F.col("seq"), stage, F.col("item_idx"), F.col("weight"), F.col("session_key")]


def in_order(events: DataFrame) -> DataFrame:
    """`events` gathered by user, each partition sorted by user and total order."""
    return events.repartition("user_idx").sortWithinPartitions(F.col("user_idx"), *event_order())


def whole_users(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Regroup batches sorted by user_idx so that no user's events are spread over two tables; each table has one chunk a column."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        users = batch.column("user_idx").to_numpy()
        last_user_from = int(np.searchsorted(users, users[-1]))
        if last_user_from > 0:
            yield pa.Table.from_batches([*held, batch.slice(0, last_user_from)]).combine_chunks()
            held = [batch.slice(last_user_from)]
        else:
            held.append(batch)  # all of one user: the next batch may hold more of it
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
