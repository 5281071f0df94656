"""How lists of many users use the catalogue: how much of it, and how evenly."""

from collections.abc import Sequence

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.metrics.lists import I64
from spark_jobs.metrics.scoring import ALL
from spark_jobs.metrics.summary import Number


def catalogue_use(lists: DataFrame, eligible: DataFrame, *, channels: Sequence[str], at: Sequence[int], num_users: int) -> list[Number]:
    """Coverage and Gini index of every channel at every N. lists: as `first_items` gives them. eligible: idx.

    Coverage: the share of eligible items that stand in any unit's first N. It grows with the units, so compare it over the same ones.
    """
    total = eligible.count()
    numbers = []
    histograms = _histograms(lists, eligible, at)
    for channel in channels:
        for n in at:
            found = np.array(histograms.get((channel, n), []), dtype=np.int64).reshape(-1, 2)
            times, items = found[:, 0], found[:, 1]
            numbers.append(Number(channel, "coverage", n, ALL, float(items.sum()) / max(total, 1), num_users))
            if len(found):
                numbers.append(Number(channel, "gini", n, ALL, gini(times, items, total=total), num_users))
    return numbers


def _histograms(lists: DataFrame, eligible: DataFrame, at: Sequence[int]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """(channel, N) -> how many eligible items stand in so many lists' first N: (times >= 1, items), however many items there are."""
    places = lists.select("channel", F.posexplode("items").alias("rank", "item_idx"))
    counts = places.groupBy("channel", "item_idx").agg(*(F.count(F.when(F.col("rank") < n, 1)).alias(str(n)) for n in at))
    known = counts.join(eligible.select(F.col("idx").alias("item_idx")), "item_idx", how="left_semi")
    cells = F.array(*(F.struct(F.lit(n).alias("n"), F.col(str(n)).alias("times")) for n in at))
    rows = known.select("channel", F.explode(cells).alias("cell")).where(F.col("cell.times") > 0)
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in rows.groupBy("channel", F.col("cell.n").alias("n"), F.col("cell.times").alias("times")).count().collect():
        found.setdefault((row["channel"], row["n"]), []).append((row["times"], row["count"]))
    return found


def gini(times: I64, items: I64, *, total: int) -> float:
    """Gini index of recommendations over `total` items: 0 where all stand in equally many lists, near 1 where few stand in all.

    times, items: int64[K], how many items stand in so many lists (>= 1); all others stand in none.
    Sum over items in ascending order of (2 i - total - 1) times, by total times the sum of times.
    """
    order = np.argsort(times)
    times, items = times[order].astype(np.float64), items[order].astype(np.float64)
    last = (total - items.sum()) + np.cumsum(items)  # the place of the last item of each group
    middle = last - (items - 1) / 2  # the mean place in it
    return float((items * times * (2 * middle - total - 1)).sum() / (total * (items * times).sum()))
