"""events -> sessions: the stretches of clicks in which items count as having met. Train events only.

Source: MicRec 4.1 ("continuous consumption window"), read as: a pause longer than gap_s starts a new session.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import TRAIN
from spark_jobs.job import Context, Job, main
from spark_jobs.session_cuts import Rule, boundaries, resolve_rule
from spark_jobs.user_batches import in_order, whole_users

I64 = npt.NDArray[np.int64]

SCHEMA = "user_idx int, session_no int, start_ts long, end_ts long, items array<int>, num_items int, was_cut boolean"


def sessionise(events: DataFrame, rule: Rule) -> DataFrame:
    """Events of every split -> sessions of the train events, and `was_cut`: held-out events follow in the same session."""

    def cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in whole_users(batches):
            yield cut_sessions(table, rule)

    return in_order(events).mapInArrow(cut, SCHEMA)


def cut_sessions(events: pa.Table, rule: Rule) -> pa.RecordBatch:
    """The sessions of whole users; `events` is sorted by user and total order, and not empty. Pure Arrow: runs on the executors."""
    user, ts = events["user_idx"].to_numpy(), events["ts"].to_numpy()
    order, starts = boundaries(events, rule)
    user, ts, item = user[order], ts[order], events["item_idx"].to_numpy()[order]
    # Every held-out event comes after the user's train events, so dropping them only shortens or removes sessions.
    train = events["split"].to_numpy()[order] == TRAIN
    session = np.cumsum(_flags(starts, len(user))) - 1
    sizes = np.bincount(session[train], minlength=len(starts))
    all_sizes = np.bincount(session, minlength=len(starts))
    kept = sizes > 0
    first = starts[kept]
    # Inside a session, too, train events come first.
    last = first + sizes[kept] - 1
    offsets = np.concatenate(([0], np.cumsum(sizes[kept]))).astype(np.int32)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(user[first], pa.int32()),
            pa.array(_number_in_user(user[first]), pa.int32()),
            pa.array(ts[first], pa.int64()),
            pa.array(ts[last], pa.int64()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(item[train], pa.int32())),
            pa.array(sizes[kept], pa.int32()),
            pa.array((all_sizes > sizes)[kept]),
        ],
        names=[part.split()[0] for part in SCHEMA.split(", ")],
    )


def _flags(starts: I64, num: int) -> I64:
    flags = np.zeros(num, dtype=np.int64)
    flags[starts] = 1
    return flags


def _number_in_user(user: npt.NDArray[np.int32]) -> I64:
    """0, 1, ... within each run of equal users."""
    positions = np.arange(len(user))
    new = np.ones(len(user), dtype=bool)
    new[1:] = user[1:] != user[:-1]
    first: I64 = np.maximum.accumulate(np.where(new, positions, 0))
    return positions - first


def count(sessions: DataFrame) -> dict[str, Any]:
    """Sessions, singletons, mean length, and those that a held-out event would have continued."""
    row = sessions.agg(
        F.count(F.lit(1)).alias("sessions"),
        F.count(F.when(F.col("num_items") == 1, 1)).alias("singleton_sessions"),
        F.coalesce(F.avg("num_items"), F.lit(0.0)).alias("mean_session_items"),
        F.count(F.when(F.col("was_cut"), 1)).alias("sessions_cut_by_the_split"),
    ).first()
    assert row is not None
    return row.asDict()


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """The job: resolve the kind of session, cut, count."""
    facts = context.facts
    rule = resolve_rule(context.settings.session, has_clock=bool(facts["has_clock"]), has_sessions=bool(facts["has_sessions"]))
    facts["session_kind"] = rule.kind
    sessions = sessionise(tables["events"], rule).persist()
    context.counters.update(count(sessions))
    return {"sessions": sessions.drop("was_cut")}


JOB = Job(name="sessions", transform=transform, doc="Cut each user's train events into sessions.")

if __name__ == "__main__":
    sys.exit(main(JOB))
