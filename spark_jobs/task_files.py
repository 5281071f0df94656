"""Tables whose files the tasks write themselves: one task, one Parquet file, checked and hashed where it is made.

Spark places, retries and speculates the tasks. What they read lies in the shared storage and each attempt writes under a name of its
own, so a lost executor costs only its tasks, and what a losing attempt leaves behind is in no manifest.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pyspark import TaskContext

from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.manifest import FileEntry
from conf.schemas.table import Column, Table
from spark_jobs.context import Context, Written
from spark_jobs.kernels.compiled import U64
from spark_jobs.kernels.row_hash import SEED, hash_int_lists, hash_ints, hash_longs
from spark_jobs.output import inspect_file

Piece = TypeVar("Piece")
Build = Callable[[Piece, Counter[str]], Iterator[pa.RecordBatch]]

_ARROW: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "array<int32>": pa.list_(pa.int32()),
}


@dataclass(frozen=True)
class _Part:
    """What one task made; with faults, nothing."""

    file: FileEntry
    total: int
    counts: Counter[str]
    faults: tuple[Fault, ...] = ()


def arrow_schema(table: Table) -> pa.Schema:
    """The columns of a table of numbers and int lists, as Arrow's."""
    return pa.schema([(column.name, _ARROW[column.type]) for column in table.columns])


def write_by_tasks(context: Context, table: Table, pieces: Sequence[Piece], build: Build[Piece]) -> Written:
    """Write the table, a task for each piece and a file for each that has rows.

    build(piece, counts) runs on the executors: it yields batches in the table's `arrow_schema`, each a row group, and may add to
    `counts`, which are summed over all pieces. Keys are not compared across files: each key must come from one piece only.

    Raises:
        BadDataError: a build raised it, or yielded nulls; with the faults of all pieces.
    """
    assert not any(column.nullable for column in table.columns), f"{table.name}: nulls are not hashed here"
    folder = context.publication.folder(table.name)
    root, prefix, columns = context.store.uri(folder), f"part-{context.publication.attempt}", table.columns

    def run(numbered: tuple[int, Piece]) -> _Part:
        number, piece = numbered
        task = TaskContext.get()
        assert task is not None
        counts: Counter[str] = Counter()
        try:
            file, total = _write(root, f"{prefix}-{number:05d}-{task.taskAttemptId()}.parquet", columns, build(piece, counts))
        except BadDataError as error:  # the same at every attempt: told, not tried again
            return _Part(FileEntry("", 0, 0, ""), 0, counts, tuple(error.faults))
        return _Part(file, total, counts)

    parts = context.spark.sparkContext.parallelize(list(enumerate(pieces)), max(1, len(pieces))).map(run).collect()
    faults = list(dict.fromkeys(fault for part in parts for fault in part.faults))
    if faults:
        raise BadDataError(f"table {table.name}, ds={context.ds}", faults)
    # A file without rows is one that every reader opens for nothing; of a table without any rows one stays.
    files = tuple(part.file for part in parts if part.file.rows) or tuple(part.file for part in parts[:1])
    _remove_losers(context.store.fs, folder, prefix, {file.name for file in files})
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return Written(files, sum(part.total for part in parts) % 2**64, counts)


def _write(root: str, name: str, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]) -> tuple[FileEntry, int]:
    """(the file, the sum of the hashes of its rows)."""
    filesystem, folder = open_root(root)
    schema = pa.schema([(column.name, _ARROW[column.type]) for column in columns])
    total = 0
    with filesystem.open_output_stream(f"{folder}/{name}") as stream, pq.ParquetWriter(stream, schema, compression="snappy") as writer:
        for batch in batches:
            nulls = [Fault(f"column {field.name!r} has nulls") for field in schema if batch.column(field.name).null_count]
            if nulls:
                raise BadDataError(name, nulls)
            total += int(row_hashes(batch).sum(dtype=np.uint64))
            writer.write_table(pa.Table.from_batches([batch], schema), row_group_size=max(1, batch.num_rows))
    return inspect_file(root, name), total


def row_hashes(batch: pa.RecordBatch) -> U64:
    """uint64[n]: of each row what `spark_jobs.schema.row_hash` gives in Spark, for columns without nulls, in the batch's order."""
    hashes = np.full(batch.num_rows, SEED, dtype=np.uint64)
    lengths = []
    for column in batch.columns:
        if pa.types.is_list(column.type):
            offsets = column.offsets.to_numpy()
            hash_int_lists(column.values.to_numpy(), offsets, hashes)
            lengths.append(np.diff(offsets))
        elif pa.types.is_int64(column.type):
            hash_longs(column.to_numpy(), hashes)
        elif pa.types.is_float32(column.type):
            hash_ints((column.to_numpy() + np.float32(0)).view(np.int32), hashes)  # + 0 turns -0.0 into 0.0
        else:
            hash_ints(column.to_numpy(zero_copy_only=False), hashes)
    for length in lengths:
        hash_ints(length, hashes)
    return hashes


def _remove_losers(filesystem: pafs.FileSystem, folder: str, prefix: str, winners: set[str]) -> None:
    """Remove what attempts wrote that were killed, or overtaken by a speculative twin; and files without rows."""
    for info in filesystem.get_file_info(pafs.FileSelector(folder)):
        if info.base_name.startswith(prefix) and info.base_name not in winners:
            filesystem.delete_file(info.path)
