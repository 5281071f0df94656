"""Every metric of every list, in one pass: Spark brings lists and held-out clicks together, numpy measures them block by block."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.metrics import ACCURACY, VARIETY
from spark_jobs.metrics.lists import Items, Lists, Truth, matrix, truth_of

ALL: Final = "all"
COUNTS: Final = ("n_truth", "n_hit", "n_click", "n_click_hit")
CELLS: Final = 1_000_000  # places of lists measured together: a few matrices of 8 MB

_SCHEMA: Final = ", ".join(
    ["user_idx int", "channel string", "slice string", "n int"]
    + [f"{name} double" for name in (*ACCURACY, *VARIETY)]
    + [f"{name} int" for name in COUNTS]
)


def first_items(lists: DataFrame, n: int) -> DataFrame:
    """user_idx, channel, items: each list's first n items; one that it repeats stands at its first place only."""
    return lists.select("user_idx", "channel", F.slice(F.array_distinct("items"), 1, n).alias("items"))


def score(lists: DataFrame, units: DataFrame, items: Items, *, channels: Sequence[str], at: Sequence[int]) -> DataFrame:
    """One row per unit, channel, slice of items and N: every metric of a list, then n_truth, n_hit, n_click, n_click_hit.

    lists: as `first_items` gives them. units: user_idx, clicked (the item of each held-out click, ascending; not empty). Slice 'all' has a
    row for every unit and channel: one that a channel has no list for counts as an empty list. In a slice of items only those count as
    held out; a unit without any is no unit of the slice, and what is measured by the lists alone is null.
    """
    grid = units.select("user_idx", "clicked", F.explode(F.array(*map(F.lit, channels))).alias("channel"))
    joined = grid.join(lists, ["user_idx", "channel"], how="left").select("user_idx", "channel", "clicked", "items")
    shared, cuts = joined.sparkSession.sparkContext.broadcast(items), sorted(at)

    def measure(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """(user_idx, channel, clicked, items) in, rows of `_SCHEMA` out."""
        step = max(1, CELLS // cuts[-1])
        for batch in batches:
            for start in range(0, batch.num_rows, step):
                yield from measured(batch.slice(start, step), shared.value, cuts)

    return joined.mapInArrow(measure, _SCHEMA)


def measured(batch: pa.RecordBatch, items: Items, at: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """The rows of one block of lists: (user_idx, channel, clicked, items) in, one batch a slice and N out."""
    names = [batch.column(name) for name in ("user_idx", "channel")]
    truth = truth_of(batch.column("clicked"))
    lists = Lists.of(matrix(batch.column("items"), at[-1]), truth, items)
    for name, part in _slices(lists, truth, items):
        units = np.flatnonzero(part.truth_B)
        own = [column.take(pa.array(units)) for column in names]
        for n in at:
            columns = _columns(part.first(n), variety=name == ALL)
            key = [*own, pa.repeat(name, len(units)), pa.repeat(pa.scalar(n, pa.int32()), len(units))]
            # a metric that a list has not is NaN in numpy and null in a table
            values = [pa.array(column[units], mask=np.isnan(column[units])) for column in columns.values()]
            yield pa.record_batch([*key, *values], names=["user_idx", "channel", "slice", "n", *columns])


def _slices(lists: Lists, truth: Truth, items: Items) -> Iterator[tuple[str, Lists]]:
    yield ALL, lists
    for name, wanted in items.slices.items():
        yield name, lists.about(wanted, truth)


def _columns(lists: Lists, *, variety: bool) -> Mapping[str, Any]:
    """Name -> one number a list; a list whose user has nothing held out has no accuracy."""
    with np.errstate(invalid="ignore", divide="ignore"):  # such a list is left out after
        accuracy = {name: metric(lists) for name, metric in ACCURACY.items()}
    nothing = np.full(len(lists.num_B), np.nan)
    counts = (lists.truth_B, lists.hits_BN.sum(axis=1), lists.all_clicks_B, lists.clicks_BN.sum(axis=1))
    return {
        **accuracy,
        **{name: metric(lists) if variety else nothing for name, metric in VARIETY.items()},
        **{name: count.astype(np.int32) for name, count in zip(COUNTS, counts, strict=True)},
    }
