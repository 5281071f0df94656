"""The files of table `events`: each holds all events of its users, in order. What the jobs that walk histories rely on."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.tables import CONTEXT, TRAIN
from spark_jobs.kernels.sessions import first_out_of_order

EVENTS_PER_FILE = 2_000_000  # one file is one task's work, and its users are those whose clicks are shuffled for training


def event_order() -> list[Column]:
    """The total order of a user's events. Events equal in all of it are interchangeable.

    (ts, seq, item) decides; where seq ties too (two files, one row number), what was cut off by the split stays behind what was not.
    """
    stage = F.when(F.col("split") == CONTEXT, TRAIN).otherwise(F.col("split"))
    return [F.col("ts"), F.col("seq"), stage, F.col("item_idx"), F.col("weight"), F.col("session_key")]


def num_files(num_events: int) -> int:
    """Into how many files, and so tasks, the events go. The data alone decides: the order of samples must not hang on the cluster."""
    return max(1, -(-num_events // EVENTS_PER_FILE))


def read_events(uri: str, columns: Sequence[str]) -> pa.Table:
    """Columns of one file, each in one chunk; user_idx and ts always among them.

    Raises:
        BadDataError: the file is not sorted by user and time.
    """
    filesystem, path = open_root(uri)
    names = list(dict.fromkeys(["user_idx", "ts", *columns]))
    with filesystem.open_input_file(path) as handle:
        # The task has one core; Spark runs others beside it.
        events = pq.ParquetFile(handle).read(columns=names, use_threads=False).combine_chunks()
    bad = first_out_of_order(events["user_idx"].to_numpy(), events["ts"].to_numpy())
    if bad >= 0:
        fault = Fault(f"{path} is not sorted by user and time", f"row {bad}", "not written by this job: run trichannel events --force")
        raise BadDataError("table events", [fault])
    return events
