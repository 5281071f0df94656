"""Tables whose files the tasks write themselves: one task, one Parquet file, checked and hashed where it is made.

Spark places, retries and speculates the tasks. What they read lies in the shared storage and each attempt writes under a name of its
own, so a lost executor costs only its tasks, and what a losing attempt leaves behind is in no manifest.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pyspark import TaskContext

from conf.compiled import F32, I32, U64
from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.manifest import FileEntry
from conf.schemas.table import Table
from spark_jobs.context import Context, Written
from spark_jobs.kernels.row_hash import SEED, hash_int_lists, hash_ints, hash_long_lists, hash_longs
from spark_jobs.output import inspect_file

# So long may a speculative attempt that Spark launched as its twin ended still take to create its file: its Python loads our modules.
LOSERS_BEGIN_S = 5.0

Piece = TypeVar("Piece")
Build = Callable[[Piece, Counter[str]], Iterator[pa.RecordBatch]]
Batch = tuple[str, pa.RecordBatch]  # with the name of its table
Builds = Callable[[Piece, Counter[str]], Iterator[Batch]]

_ARROW: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "array<int32>": pa.list_(pa.int32()),
    "array<int64>": pa.list_(pa.int64()),
    "array<float32>": pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class _Part:
    """What one task made, of each table the file and the sum of the hashes of its rows; with faults, nothing."""

    files: Mapping[str, tuple[FileEntry, int]]
    counts: Counter[str]
    faults: tuple[Fault, ...] = ()


def arrow_schema(table: Table) -> pa.Schema:
    """The columns of a table of numbers and lists of numbers, as Arrow's."""
    return pa.schema([(column.name, _ARROW[column.type]) for column in table.columns])


def write_by_tasks(context: Context, table: Table, pieces: Sequence[Piece], build: Build[Piece]) -> Written:
    """Write the table, a task for each piece and a file for each that has rows.

    build(piece, counts) runs on the executors: it yields batches in the table's `arrow_schema`, each a row group, and may add to
    `counts`, which are summed over all pieces. Keys are not compared across files: each key must come from one piece only.

    Raises:
        BadDataError: a build raised it, or yielded nulls; with the faults of all pieces.
    """

    def named(piece: Piece, counts: Counter[str]) -> Iterator[Batch]:
        return ((table.name, batch) for batch in build(piece, counts))

    return write_tables_by_tasks(context, (table,), pieces, named)[table.name]


def write_tables_by_tasks(context: Context, tables: Sequence[Table], pieces: Sequence[Piece], build: Builds[Piece]) -> dict[str, Written]:
    """The same for several tables that are made together: build yields the name of a table with each batch."""
    nullable = [column.name for table in tables for column in table.columns if column.nullable]
    assert not nullable, f"{nullable}: nulls are not hashed here"
    folders = {table.name: context.publication.folder(table.name) for table in tables}
    targets = [(table, context.store.uri(folders[table.name])) for table in tables]
    prefix = f"part-{context.publication.attempt}"

    def run(numbered: tuple[int, Piece]) -> _Part:
        """One attempt, on an executor: the files of one piece, or its faults."""
        number, piece = numbered
        task = TaskContext.get()
        assert task is not None
        counts: Counter[str] = Counter()
        try:
            return _Part(_write(targets, f"{prefix}-{number:05d}-{task.taskAttemptId()}.parquet", build(piece, counts)), counts)
        except BadDataError as error:  # the same at every attempt: told, not tried again
            return _Part({}, counts, tuple(error.faults))

    parts = context.spark.sparkContext.parallelize(list(enumerate(pieces)), max(1, len(pieces))).map(run).collect()
    faults = list(dict.fromkeys(fault for part in parts for fault in part.faults))
    if faults:
        raise BadDataError(f"table {', '.join(folders)}, ds={context.ds}", faults)
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    if context.spark.sparkContext.getConf().get("spark.speculation", "false") == "true":
        time.sleep(LOSERS_BEGIN_S)
    written = {}
    for name, folder in folders.items():
        made = [part.files[name] for part in parts]
        # A file without rows is one that every reader opens for nothing; of a table without any rows one stays.
        files = tuple(file for file, _ in made if file.rows) or tuple(file for file, _ in made[:1])
        _remove_losers(context.store.fs, folder, prefix, {file.name for file in files})
        written[name] = Written(files, sum(total for _, total in made) % 2**64, counts)
    return written


def piece_of(name: str) -> int:
    """The place of the piece that a file was made of, by its name."""
    return int(name.split("-")[2])


def _write(targets: Sequence[tuple[Table, str]], name: str, batches: Iterator[Batch]) -> dict[str, tuple[FileEntry, int]]:
    """Of each table the file, and the sum of the hashes of its rows."""
    totals = dict.fromkeys((table.name for table, _ in targets), 0)
    with ExitStack() as opened:
        writers = {}
        for table, root in targets:
            filesystem, folder = open_root(root)
            stream = opened.enter_context(filesystem.open_output_stream(f"{folder}/{name}"))
            # Numbers in no order: looking for repeated ones took half of the time and saved nothing.
            writer = pq.ParquetWriter(stream, arrow_schema(table), compression="snappy", use_dictionary=False)
            writers[table.name] = opened.enter_context(writer)
        for table_name, batch in batches:
            nulls = [Fault(f"column {field.name!r} has nulls") for field in batch.schema if batch.column(field.name).null_count]
            if nulls:
                raise BadDataError(name, nulls)
            totals[table_name] += int(row_hashes(batch).sum(dtype=np.uint64))
            table_of = pa.Table.from_batches([batch], writers[table_name].schema)
            writers[table_name].write_table(table_of, row_group_size=max(1, batch.num_rows))
    return {table.name: (inspect_file(root, name), totals[table.name]) for table, root in targets}


def row_hashes(batch: pa.RecordBatch) -> U64:
    """uint64[n]: of each row what `spark_jobs.schema.row_hash` gives in Spark, for columns without nulls, in the batch's order."""
    hashes = np.full(batch.num_rows, SEED, dtype=np.uint64)
    lengths = []
    for column in batch.columns:
        if pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy()
            values = column.values.to_numpy()
            if pa.types.is_int64(column.type.value_type):
                hash_long_lists(values, offsets, hashes)
            else:
                hash_int_lists(_bits(values) if values.dtype == np.float32 else values, offsets, hashes)
            lengths.append(np.diff(offsets))
        elif pa.types.is_int64(column.type):
            hash_longs(column.to_numpy(), hashes)
        elif pa.types.is_float32(column.type):
            hash_ints(_bits(column.to_numpy()), hashes)
        else:
            hash_ints(column.to_numpy(zero_copy_only=False), hashes)
    for length in lengths:
        hash_ints(length, hashes)
    return hashes


def _bits(floats: F32) -> I32:
    return (floats + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0


def _remove_losers(filesystem: pafs.FileSystem, folder: str, prefix: str, winners: set[str]) -> None:
    """Remove what attempts wrote that were killed, or overtaken by a speculative twin; and files without rows."""
    for info in filesystem.get_file_info(pafs.FileSelector(folder)):
        if info.base_name.startswith(prefix) and info.base_name not in winners:
            filesystem.delete_file(info.path)
