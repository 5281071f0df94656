"""A real Spark job with two outputs; as a script it is killed, or killable, at a chosen moment.

    python -m tests.faults.spark_events_job MOMENT --config F --ds D --run-id R

MOMENT: writing (one task has written its Parquet file, others have not), manifest (one table of two is sealed), pointer (all
sealed, nothing committed), published (committed, its record not written), slow (takes minutes: for those who send a signal).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from conf import jobs
from conf.files import hash_file
from conf.settings import Settings
from conf.storage import FileEntry, Publication, Store
from conf.tables import resolve
from spark_jobs.job import Job, Output, main

DS = "2026-01-31"
ROWS, PARTITIONS = 3_000, 6
_ARROW = {"int8": pa.int8(), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "string": pa.string(), "bool": pa.bool_()}


def events_job(pause_s: float = 0.0) -> Job:
    """The job; pause_s: how long each partition takes."""

    def slowly(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            time.sleep(pause_s)
            yield batch

    def transform(context, tables):
        ids = context.spark.range(0, ROWS, 1, PARTITIONS).select(F.col("id").cast("int").alias("user_idx"))
        if pause_s:
            ids = ids.mapInArrow(slowly, "user_idx int")
        events = ids.select(
            F.col("user_idx") + 1,
            (F.col("user_idx") % 7).alias("item_idx"),
            F.col("user_idx").cast("long").alias("ts"),
            F.lit(0).cast("long").alias("seq"),
            F.lit(0).cast("byte").alias("split"),
            F.lit(1).cast("float").alias("weight"),
            F.lit(None).cast("string").alias("session_key"),
        ).withColumnRenamed("(user_idx + 1)", "user_idx")
        state = events.select(
            "user_idx", F.array("item_idx").alias("items"), F.array("ts").alias("ts"), F.lit(1).cast("int").alias("num_train")
        )
        return {"events": Output(events), "user_state": Output(state)}

    return Job("events", transform)


def publish_inputs(store: Store, settings: Settings, job: str = "events") -> None:
    """Empty tables of the jobs before it, by the real protocol."""
    for before in jobs.upstream(job):
        with store.publication(before, DS, "up", settings) as publication:
            for table in jobs.outputs(before, settings):
                folder = publication.folder(table)
                columns = {c.name: _arrow(c.type) for c in resolve(table, settings.registry(), settings.shape()).columns}
                pq.write_table(pa.table({name: pa.array([], kind) for name, kind in columns.items()}), f"{folder}/a.parquet")
                size, sha256 = hash_file(store.fs, f"{folder}/a.parquet")
                publication.seal(table, [FileEntry("a.parquet", 0, size, sha256)], rows=0, content_hash="0:0")
            publication.commit()


def _arrow(name: str) -> pa.DataType:
    return pa.list_(_arrow(name[6:-1])) if name.startswith("array<") else _ARROW[name]


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_while_writing(root: Path) -> None:
    while not list(root.glob("main/*/ds=*/run=*/_temporary/0/task_*/*.parquet")):
        time.sleep(0.01)
    _die()


def arm(moment: str, root: Path) -> None:
    """Arrange for death at the moment."""
    if moment == "writing":
        threading.Thread(target=_die_while_writing, args=(root,), daemon=True).start()
    elif moment == "manifest":
        seal = Publication.seal
        sealed: list[str] = []

        def seal_once(publication, table, *args, **kwargs):
            if sealed:
                _die()
            sealed.append(table)
            return seal(publication, table, *args, **kwargs)

        Publication.seal = seal_once
    elif moment == "pointer":
        Store.make_current = _die
    elif moment == "published":
        keep = Store._keep_record
        Store._keep_record = lambda store, record: _die() if record.run_id == "r1" else keep(store, record)


if __name__ == "__main__":
    moment, root, *argv = sys.argv[1:]
    arm(moment, Path(root))
    sys.exit(main(events_job({"writing": 1.0, "slow": 120.0}.get(moment, 0.0)), argv))
