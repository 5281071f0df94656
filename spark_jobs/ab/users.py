"""Users of an A/B test from its exposures: each with one arm and its days, and the moments of each arm."""

import pickle
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.sections.experiment import Ab
from spark_jobs.ab.exposures import Window
from spark_jobs.ab.features import QUANTITIES, UserDays, features
from spark_jobs.ab.moments import Moments

F64 = npt.NDArray[np.float64]

CAPPED: Final = ("dwell_s", "play_s", "stay_s")


def users_of(rows: DataFrame, chosen: Ab, window: Window, *, knows_clicks: bool) -> DataFrame:
    """One row a user with an exposure in the test: user, arm, in_several, cold bool, days array<struct<at, quantities>> in order.

    rows: those that are used, and the earlier ones. knows_clicks: whether they tell users' clicks before the start. days: without the
    earlier ones. in_several: the user was given more than one arm. cold: null where nothing says.
    """
    plays = (F.col("play_s") > 0).cast("double")
    lasting = (F.col("play_s") > 0) & (F.col("duration_s") > 0)
    added = rows.withColumns(
        {
            "plays": plays,
            "watched": F.when(lasting, F.least(F.col("play_s") / F.col("duration_s"), F.lit(1.0))).otherwise(0.0),
            "watchable": lasting.cast("double"),
        }
    )
    arm = F.when(F.col("at") >= 0, F.col("arm"))
    daily = added.groupBy("user", "at").agg(
        *(F.sum(name).alias(name) for name in QUANTITIES),
        F.min(arm).alias("first_arm"), F.max(arm).alias("last_arm"), F.max("registered").alias("registered"),
    )  # fmt: skip
    in_days = F.col("at") >= -window.pre_days
    users = daily.groupBy("user").agg(
        F.min("first_arm").alias("arm"),
        (F.min("first_arm") != F.max("last_arm")).alias("in_several"),
        _cold(chosen, window, knows_clicks).alias("cold"),
        F.sort_array(F.collect_list(F.when(in_days, F.struct("at", *QUANTITIES)))).alias("days"),
    )
    return users.where(F.col("arm").isNotNull())


def _cold(chosen: Ab, window: Window, knows_clicks: bool) -> Column:
    """Whether the user was new or hardly active when the test began; what is not known of a user says nothing, null where neither is."""
    new = F.max("registered") > F.date_sub(F.lit(window.start), chosen.cold_days)
    clicks = F.sum(F.when(F.col("at") < 0, F.col("click")).otherwise(0.0))
    few = clicks < chosen.cold_clicks if knows_clicks else F.lit(None).cast("boolean")
    return F.coalesce(new | few, new, few)


def caps_of(users: DataFrame, quantile: float) -> dict[str, float]:
    """The `quantile` of users' totals of the test, of each of CAPPED: the smallest that so many users do not exceed. {} for quantile 1.

    Exact, and the same whatever the partitions: only the few users above it are sorted.
    """
    num = users.count()
    kept = num - ceil(quantile * num - 1e-9) + 1
    if quantile == 1 or not num:
        return {}
    caps = {}
    for name in CAPPED:
        test = F.filter("days", lambda day: day["at"] >= 0)
        total = F.aggregate(test[name], F.lit(0.0), lambda total, value: total + value)
        row = users.select(total.alias("total")).orderBy(F.desc("total")).limit(kept).agg(F.min("total")).first()
        assert row is not None
        caps[name] = float(row[0])
    return caps


# ---- arms ------------------------------------------------------------------------------------------------------------

Arms = dict[tuple[str, bool], Moments]  # (arm, whether of cold users alone) -> moments


def moments_of(users: DataFrame, num_days: int, *, caps: dict[str, float]) -> Arms:
    """The moments of each arm's users, and of those that were cold; each task adds up its own, so that no user reaches the driver."""

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The pickled moments of a partition."""
        total: Arms = {}
        for batch in batches:
            if batch.num_rows:
                arm, cold = np.array(batch["arm"].to_pylist()), np.array(batch["cold"].fill_null(False))
                total = _together(total, arms_of(features_of(batch, num_days, caps), arm, cold))
        yield pa.RecordBatch.from_pydict({"arms": [pickle.dumps(total)]})

    parts = users.select("arm", "cold", "days").mapInArrow(add_up, "arms binary")
    arms: Arms = parts.rdd.map(lambda row: pickle.loads(row["arms"])).treeReduce(_together)
    return arms


def _together(one: Arms, other: Arms) -> Arms:
    return {key: one[key].plus(other[key]) if key in one and key in other else one.get(key) or other[key] for key in sorted({*one, *other})}


def features_of(batch: pa.RecordBatch, num_days: int, caps: dict[str, float]) -> F64:
    """float64[N, names_of(num_days)] of rows of `users_of`."""
    days = batch["days"].flatten()
    row = np.repeat(np.arange(batch.num_rows), pc.list_value_length(batch["days"]).to_numpy())
    values = np.column_stack([days.field(name).to_numpy() for name in QUANTITIES])
    return features(UserDays(row, days.field("at").to_numpy().astype(np.int64), values), batch.num_rows, num_days, caps=caps)


def arms_of(values_NV: F64, arm: npt.NDArray[np.str_], cold: npt.NDArray[np.bool_]) -> Arms:
    """The moments of users by their arm, str[N], and of those that were cold, bool[N]."""
    made: Arms = {}
    for name in sorted(set(arm.tolist())):
        made |= {(name, only): Moments.of(values_NV[mine]) for only in (False, True) if (mine := (arm == name) & (cold | (not only))).any()}
    return made


def count_users(users: DataFrame) -> dict[str, Any]:
    """users_<arm>; users_in_several_arms, who are none of them; knows_cold: whether it is known who was cold."""
    counted = {"users_in_several_arms": 0, "knows_cold": False}
    for row in users.groupBy("arm", "in_several").agg(F.count("*").alias("users"), F.count("cold").alias("known")).collect():
        counted["knows_cold"] |= row["known"] > 0
        if row["in_several"]:
            counted["users_in_several_arms"] += row["users"]
        else:
            counted[f"users_{row['arm']}"] = row["users"]
    return counted
