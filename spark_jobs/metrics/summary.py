"""Means over users, with intervals: of all users, of groups of users and of slices of items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from scipy import stats

from spark_jobs.metrics import ACCURACY, VARIETY
from spark_jobs.metrics.scoring import ALL

Z95: Final = float(stats.norm.ppf(0.975))
# metric -> (numerator, denominator): sums over users by sums over users
RATIOS: Final = {"hit_cut": ("n_click_hit", "n_click"), "hit_click": ("n_asof_hit", "n_asof")}


@dataclass(frozen=True)
class Number:
    """A row of table metrics. num_units: users, or what else `value` is taken over. lo, hi: its 95 % interval, None where it has none."""

    channel: str
    metric: str
    n: int
    slice: str
    value: float
    num_units: int
    lo: float | None = None
    hi: float | None = None


def summarise(scored: DataFrame, user_slices: DataFrame) -> list[Number]:
    """The means of every metric over users, with normal intervals, and HIT as of the cut and of the click, by channel, slice and N.

    scored: as `score` or, for HIT as of the click, `as_of_click` gives it. user_slices: user_idx, slices array<string>; they
    divide slice 'all', and may overlap.
    """
    ratios = [name for name, sums in RATIOS.items() if set(sums) <= set(scored.columns)]
    grouped = scored.where(F.col("slice") == ALL).join(user_slices, "user_idx", how="inner")
    parts = scored.unionByName(grouped.withColumn("slice", F.explode("slices")).select(scored.columns))
    found = parts.groupBy("channel", "slice", "n").agg(*_aggregates(ratios)).orderBy("channel", "slice", "n").collect()
    return [number for row in found for number in (*_means(row), *_ratios(row, ratios))]


def _aggregates(ratios: Sequence[str]) -> Iterator[Column]:
    for name in (*ACCURACY, *VARIETY):
        yield from (F.avg(name).alias(name), F.stddev_samp(name).alias(f"{name}.sd"), F.count(name).alias(f"{name}.num"))
    for name in ratios:
        top, bottom = RATIOS[name]
        yield from (F.avg(column).alias(column) for column in (top, bottom))
        yield from (F.var_samp(column).alias(f"{column}.var") for column in (top, bottom))
        yield from (F.covar_samp(top, bottom).alias(f"{name}.cov"), F.count(bottom).alias(f"{name}.num"))


def _means(row: Row) -> Iterator[Number]:
    for name in (*ACCURACY, *VARIETY):
        if row[f"{name}.num"]:
            yield _number(row, name, row[name], row[f"{name}.num"], row[f"{name}.sd"])


def _ratios(row: Row, ratios: Sequence[str]) -> Iterator[Number]:
    """A ratio of sums; its interval is by the delta method, a user being the unit: clicks of one user are not independent."""
    for name in ratios:
        top, bottom = RATIOS[name]
        if not row[f"{name}.num"]:
            continue
        ratio, var = row[top] / row[bottom], row[f"{top}.var"]
        if var is not None:
            var += ratio**2 * row[f"{bottom}.var"] - 2 * ratio * row[f"{name}.cov"]
        yield _number(row, name, ratio, row[f"{name}.num"], None if var is None else max(var, 0.0) ** 0.5 / row[bottom])


def _number(row: Row, metric: str, value: float, num: int, sd: Any) -> Number:
    half = None if sd is None else Z95 * sd / num**0.5
    lo, hi = (None, None) if half is None else (value - half, value + half)
    return Number(row["channel"], metric, row["n"], row["slice"], value, num, lo, hi)
