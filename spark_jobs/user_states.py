"""events -> user_state: what each user did before anything held out. A task reads one file of events, which holds whole users."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.compiled import I32
from conf.files import open_root
from conf.tables import CONTEXT, TABLES, TRAIN, VALID
from spark_jobs.event_files import read_events
from spark_jobs.job import Context, Made
from spark_jobs.task_files import arrow_schema, write_by_tasks

ROWS_PER_GROUP = 100_000
COLUMNS = ("user_idx", "item_idx", "ts", "split")


def states_of(events: pa.Table, *, refit: bool) -> pa.RecordBatch:
    """A row for each user of `events`, sorted by user and total order: items and times of its train or context events.

    refit: valid events are listed, too: they are known when test is asked.
    """
    user, split = events["user_idx"].to_numpy(), events["split"].to_numpy()
    known = np.isin(split, [TRAIN, CONTEXT, *[VALID] * refit])
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    ends = np.append(starts[1:], len(user))
    known_before, trained_before = (np.concatenate(([0], np.cumsum(mark))) for mark in (known, split == TRAIN))
    offsets = pa.array(np.append(known_before[starts], known_before[-1]).astype(np.int32))
    items, ts = (pa.ListArray.from_arrays(offsets, pa.array(events[name].to_numpy()[known])) for name in ("item_idx", "ts"))
    num_train = (trained_before[ends] - trained_before[starts]).astype(np.int32)
    return pa.RecordBatch.from_arrays([pa.array(user[starts]), items, ts, pa.array(num_train)], schema=arrow_schema(TABLES["user_state"]))


def states_of_the_others(idx: I32) -> pa.RecordBatch:
    """The rows of users without any event."""
    none = pa.array(np.zeros(len(idx) + 1, np.int32))
    items, ts = (pa.ListArray.from_arrays(none, pa.array([], kind)) for kind in (pa.int32(), pa.int64()))
    num_train = pa.array(np.zeros(len(idx), np.int32))
    return pa.RecordBatch.from_arrays([pa.array(idx), items, ts, num_train], schema=arrow_schema(TABLES["user_state"]))


def user_states(context: Context, events: Sequence[str], *, refit: bool) -> Made:
    """The table: a task for each file of events, and one for the users of user_index that none of them holds."""
    index = context.files("user_index")

    def build(uri: str | None, counts: Counter[str]) -> Iterator[pa.RecordBatch]:
        states = states_of_the_others(_without_events(index, events)) if uri is None else states_of(read_events(uri, COLUMNS), refit=refit)
        yield from (states.slice(at, ROWS_PER_GROUP) for at in range(0, states.num_rows, ROWS_PER_GROUP))

    return write_by_tasks(context, TABLES["user_state"], [*events, None], build)


def _without_events(index: Sequence[str], events: Sequence[str]) -> I32:
    """The numbers of the users that have no event, ascending; a byte of memory for each user."""
    there = np.zeros(1 + max((int(idx.max()) for idx in _numbers(index, "idx")), default=0), np.bool_)
    for idx in _numbers(index, "idx"):
        there[idx] = True
    for idx in _numbers(events, "user_idx"):
        there[idx] = False
    return np.flatnonzero(there).astype(np.int32)


def _numbers(uris: Sequence[str], column: str) -> Iterator[I32]:
    """The non-empty pieces of a column."""
    for uri in uris:
        filesystem, path = open_root(uri)
        with filesystem.open_input_file(path) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(columns=[column], use_threads=False):
                if batch.num_rows:
                    yield batch.column(0).to_numpy()
