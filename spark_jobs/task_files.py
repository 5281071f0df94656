"""Tables whose files the tasks write themselves: one task, one Parquet file, checked and hashed where it is made.

Spark places, retries and speculates the tasks. What they read lies in the shared storage and each attempt writes under a name of its
own, so a lost executor costs only its tasks, and what a losing attempt leaves behind is in no manifest.
"""

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pyspark import TaskContext
from pyspark.sql import DataFrame

from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.manifest import FileEntry
from conf.schemas.table import Table
from spark_jobs.context import Context, Written
from spark_jobs.output import inspect_file, table_of
from spark_jobs.row_hashes import row_hashes

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
    "string": pa.string(),
}


class Tally(Protocol):
    """What a task counts beside its rows; it travels to the driver, where those of all tasks are put together."""

    def update(self, other: Self, /) -> None:
        """Add what another task counted."""


Counts = TypeVar("Counts", bound=Tally)
FromRows = Callable[[Iterable[pa.RecordBatch], Counts], Iterator[Batch]]


@dataclass(frozen=True)
class _Part(Generic[Counts]):
    """What one task made, of each table the file and the sum of the hashes of its rows; with faults, nothing."""

    files: Mapping[str, tuple[FileEntry, int]]
    counts: Counts
    faults: tuple[Fault, ...] = ()


def arrow_schema(table: Table) -> pa.Schema:
    """The columns of a table as Arrow's."""
    return pa.schema([(column.name, _arrow_type(column.type)) for column in table.columns])


def _arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("array<"):
        return pa.list_(_arrow_type(kind[6:-1]))
    if kind.startswith("struct<"):
        return pa.struct([(name, _arrow_type(inner)) for name, inner in (part.split(":") for part in kind[7:-1].split(","))])
    return _ARROW[kind]


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
    files = _Files.of(context, tables)

    def run(numbered: tuple[int, Piece]) -> _Part[Counter[str]]:
        """One attempt, on an executor: the files of one piece, or its faults."""
        number, piece = numbered
        counts: Counter[str] = Counter()
        return files.write(number, build(piece, counts), counts)

    parts = context.spark.sparkContext.parallelize(list(enumerate(pieces)), max(1, len(pieces))).map(run).collect()
    counts: Counter[str] = Counter()
    return {name: replace(one, counts=counts) for name, one in files.publish(context, parts, counts).items()}


def write_partitions(context: Context, names: Sequence[str], df: DataFrame, build: FromRows[Counts], counts: Counts) -> dict[str, Written]:
    """The same for tables that are made from the rows of a DataFrame: a task and a file of each table for each of its partitions.

    build(batches, counts) is given the rows of a partition and an empty copy of `counts`, to which those of all partitions are added.
    """
    files, empty = _Files.of(context, [table_of(context, name) for name in names]), pickle.dumps(counts)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One attempt, on an executor: a row with what it made."""
        task = TaskContext.get()
        assert task is not None
        own: Counts = pickle.loads(empty)
        yield pa.RecordBatch.from_pydict({"part": [pickle.dumps(files.write(task.partitionId(), build(batches, own), own))]})

    parts = [pickle.loads(row["part"]) for row in df.mapInArrow(run, "part binary").collect()]
    return files.publish(context, parts, counts)


def piece_of(name: str) -> int:
    """The place of the piece that a file was made of, by its name."""
    return int(name.split("-")[2])


@dataclass(frozen=True)
class _Files:
    """The tables that tasks write, each with its folder here and as a URI; small, for it travels to the executors."""

    tables: tuple[tuple[Table, str, str], ...]
    prefix: str

    @classmethod
    def of(cls, context: Context, tables: Sequence[Table]) -> Self:
        """Those of this run. Nulls are not hashed, so none may be in them."""
        nullable = [column.name for table in tables for column in table.columns if column.nullable]
        assert not nullable, f"{nullable}: nulls are not hashed here"
        folders = [context.publication.folder(table.name) for table in tables]
        placed = tuple((table, folder, context.store.uri(folder)) for table, folder in zip(tables, folders, strict=True))
        return cls(placed, f"part-{context.publication.attempt}")

    def write(self, number: int, batches: Iterator[Batch], counts: Counts) -> _Part[Counts]:
        """One attempt of task `number`: its files, or its faults."""
        task = TaskContext.get()
        assert task is not None
        try:
            return _Part(self._write(f"{self.prefix}-{number:05d}-{task.taskAttemptId()}.parquet", batches), counts)
        except BadDataError as error:  # the same at every attempt: told, not tried again
            return _Part({}, counts, tuple(error.faults))

    def _write(self, name: str, batches: Iterator[Batch]) -> dict[str, tuple[FileEntry, int]]:
        """Of each table the file, and the sum of the hashes of its rows."""
        totals, derived = dict.fromkeys((table.name for table, _, _ in self.tables), 0), {t.name: t.derived for t, _, _ in self.tables}
        with ExitStack() as opened:
            writers = {}
            for table, _, root in self.tables:
                filesystem, folder = open_root(root)
                stream = opened.enter_context(filesystem.open_output_stream(f"{folder}/{name}"))
                schema = arrow_schema(table)
                # Numbers in no order: looking for repeated ones took half of the time and saved nothing.
                writer = pq.ParquetWriter(stream, schema, compression="snappy", use_dictionary=list(_texts(schema)))
                writers[table.name] = opened.enter_context(writer)
            for table_name, batch in batches:
                nulls = [Fault(f"column {field.name!r} has nulls") for field in batch.schema if batch.column(field.name).null_count]
                if nulls:
                    raise BadDataError(name, nulls)
                totals[table_name] += int(row_hashes(batch, derived=derived[table_name]).sum(dtype=np.uint64))
                table_of_batch = pa.Table.from_batches([batch], writers[table_name].schema)
                writers[table_name].write_table(table_of_batch, row_group_size=max(1, batch.num_rows))
        return {table.name: (inspect_file(root, name), totals[table.name]) for table, _, root in self.tables}

    def publish(self, context: Context, parts: Sequence[_Part[Counts]], counts: Counts) -> dict[str, Written]:
        """What the tasks wrote, of the attempts that counted; adds up their counts. Raises BadDataError with the faults of all."""
        faults = list(dict.fromkeys(fault for part in parts for fault in part.faults))
        if faults:
            raise BadDataError(f"table {', '.join(table.name for table, _, _ in self.tables)}, ds={context.ds}", faults)
        for part in parts:
            counts.update(part.counts)
        if context.spark.sparkContext.getConf().get("spark.speculation", "false") == "true":
            time.sleep(LOSERS_BEGIN_S)
        written = {}
        for table, folder, _ in self.tables:
            made = [part.files[table.name] for part in parts]
            # A file without rows is one that every reader opens for nothing; of a table without any rows one stays.
            files = tuple(file for file, _ in made if file.rows) or tuple(file for file, _ in made[:1])
            _remove_losers(context.store.fs, folder, self.prefix, {file.name for file in files})
            written[table.name] = Written(files, sum(total for _, total in made) % 2**64, {})
        return written


def _texts(fields: Iterable[pa.Field], above: str = "") -> Iterator[str]:
    """The columns of the file that hold strings, by their paths in it."""
    for field in fields:
        path, kind = f"{above}{field.name}", field.type
        while pa.types.is_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        if pa.types.is_struct(kind):
            yield from _texts(kind, f"{path}.")
        elif pa.types.is_string(kind):
            yield path


def _remove_losers(filesystem: pafs.FileSystem, folder: str, prefix: str, winners: set[str]) -> None:
    """Remove what attempts wrote that were killed, or overtaken by a speculative twin; and files without rows."""
    for info in filesystem.get_file_info(pafs.FileSelector(folder)):
        if info.base_name.startswith(prefix) and info.base_name not in winners:
            filesystem.delete_file(info.path)
