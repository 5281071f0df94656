"""events -> sessions: the stretches of clicks in which items count as having met. Train events only.

Source: MicRec 4.1 ("continuous consumption window"), read as: a pause longer than gap_s starts a new session.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import TABLES, TRAIN
from spark_jobs.event_files import read_events
from spark_jobs.job import Context, Job, Output, Written, main
from spark_jobs.session_cuts import Rule, boundaries, resolve_rule
from spark_jobs.sql.sessions import sessionise
from spark_jobs.task_files import arrow_schema, write_by_tasks

I64 = npt.NDArray[np.int64]

SESSIONS = TABLES["sessions"]
COLUMNS = ("user_idx", "ts", "item_idx", "split", "session_key")


def cut_sessions(events: pa.Table, rule: Rule, counts: Counter[str]) -> pa.RecordBatch:
    """The sessions of whole users; `events` is sorted by user and total order. Counts them, and those that the split cut.

    A session that a held-out event would have continued was cut by the split.
    """
    order, starts = boundaries(events, rule)
    user, ts, item, split = (
        events[name].to_numpy() if order is None else events[name].to_numpy()[order] for name in ("user_idx", "ts", "item_idx", "split")
    )
    # Every held-out event comes after the user's train events, so dropping them only shortens or removes sessions.
    train = split == TRAIN
    all_sizes = np.diff(starts, append=len(user))
    sizes = all_sizes if train.all() else np.add.reduceat(train, starts, dtype=np.int64)
    kept = sizes > 0
    # Inside a session, too, train events come first.
    first, size = starts[kept], sizes[kept]
    counts.update(
        sessions=len(size),
        singleton_sessions=int((size == 1).sum()),
        session_items=int(size.sum()),
        sessions_cut_by_the_split=int((all_sizes[kept] > size).sum()),
    )
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int32)
    numbers, lists = _number_in_user(user[first]).astype(np.int32), pa.ListArray.from_arrays(pa.array(offsets), pa.array(item[train]))
    columns = [user[first], numbers, ts[first], ts[first + size - 1], lists, size.astype(np.int32)]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=arrow_schema(SESSIONS))


def _number_in_user(user: npt.NDArray[np.int32]) -> I64:
    """0, 1, ... within each run of equal users."""
    positions = np.arange(len(user))
    new = np.ones(len(user), dtype=bool)
    new[1:] = user[1:] != user[:-1]
    first: I64 = np.maximum.accumulate(np.where(new, positions, 0))
    return positions - first


def compiled(context: Context, rule: Rule) -> Written:
    """The table from the files of events, a task each: a user's events stand together, so nothing is shuffled."""

    def build(uri: str, counts: Counter[str]) -> Iterator[pa.RecordBatch]:
        events = read_events(uri, COLUMNS)
        if events.num_rows:
            yield cut_sessions(events, rule, counts)

    return write_by_tasks(context, SESSIONS, context.files("events"), build)


def count(sessions: DataFrame) -> dict[str, int]:
    """What `cut_sessions` counts, of sessions with `was_cut`."""
    row = sessions.agg(
        F.count(F.lit(1)).alias("sessions"),
        F.count(F.when(F.col("num_items") == 1, 1)).alias("singleton_sessions"),
        F.coalesce(F.sum("num_items"), F.lit(0)).alias("session_items"),
        F.count(F.when(F.col("was_cut"), 1)).alias("sessions_cut_by_the_split"),
    ).first()
    assert row is not None
    return row.asDict()


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Output | Written]:
    """The job: resolve the kind of session, cut, count."""
    facts, counters, settings = context.facts, context.counters, context.settings.session
    rule = resolve_rule(settings, has_clock=bool(facts["has_clock"]), has_sessions=bool(facts["has_sessions"]))
    facts["session_kind"] = rule.kind
    made: Output | Written
    if settings.engine == "compiled":
        made = compiled(context, rule)
        counters.update(made.counts)
    else:
        sessions = sessionise(tables["events"], rule).persist()
        counters.update(count(sessions))
        made = Output(sessions.drop("was_cut"))
    counters["mean_session_items"] = counters["session_items"] / max(1, counters["sessions"])
    return {"sessions": made}


JOB = Job(name="sessions", transform=transform, doc="Cut each user's train events into sessions.")

if __name__ == "__main__":
    sys.exit(main(JOB))
