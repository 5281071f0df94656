"""Numbers that stay: what an earlier day numbered keeps its number, what is new is appended behind the last one."""

from collections.abc import Callable, Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

Rank = Callable[..., DataFrame]  # with_rank or with_rank_of_few


def append(
    found: DataFrame, previous: DataFrame, order: Sequence[Column], rank: Rank, *, key: str, number: str, start: int, new: Column
) -> DataFrame:
    """Every row of `previous` (key, `number` and more) and those rows of `found` (key and more) that are numbered behind them.

    A key that `previous` knows keeps its number, whatever is found of it today; of a key that is gone, the columns of `found` are null.
    Of the other rows those for which `new` holds get the next numbers, from `start` if there is none yet, in this total order, by `rank`;
    `number` is int64. The rows are cached.
    """
    joined = found.join(previous, key, how="full").persist()
    kept = joined.where(F.col(number).isNotNull()).withColumn(number, F.col(number).cast("bigint"))
    last = previous.agg(F.max(number)).first()
    assert last is not None
    behind = start if last[0] is None else last[0] + 1
    added = rank(joined.where(F.col(number).isNull() & new).drop(number), order, number, start=behind)
    return kept.unionByName(added)


def growth(tables: Mapping[str, DataFrame], *, ds: str) -> dict[str, dict[str, int]]:
    """Of each table (added_ds, seen): rows new today, kept and found again, kept though gone. One job for all of them."""
    rows: DataFrame | None = None
    for name, table in tables.items():
        part = table.select(F.lit(name).alias("name"), "added_ds", "seen")
        rows = part if rows is None else rows.unionByName(part)
    assert rows is not None
    is_new, seen = F.col("added_ds") == ds, F.col("seen")
    counts = {"new": is_new, "kept": ~is_new & seen, "gone": ~is_new & ~seen}
    columns = [F.count(F.when(condition, 1)).alias(name) for name, condition in counts.items()]
    counted = {row["name"]: {name: row[name] for name in counts} for row in rows.groupBy("name").agg(*columns).collect()}
    return {name: counted.get(name, dict.fromkeys(counts, 0)) for name in tables}
