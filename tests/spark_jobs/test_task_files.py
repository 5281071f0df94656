"""Tables that tasks write: hashed as Spark hashes them, faults of all pieces told, files of losers removed."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault
from conf.schemas.table import Column, Table
from conf.storage import Store
from conf.tables import resolve
from spark_jobs.context import Context
from spark_jobs.job import spark_schema
from spark_jobs.schema import row_hash
from spark_jobs.task_files import arrow_schema, piece_of, write_by_tasks, write_partitions, write_tables_by_tasks
from tests.spark_jobs.test_row_hashes import batch_of

SMALL = Table("small", "one number", (Column("n", "int32", "a number"),), may_be_empty=True)


@pytest.fixture
def context(spark, make_request):
    asked = make_request()
    store = Store(asked.settings.storage.root)
    with store.publication("samples", asked.ds, "r1", asked.settings) as publication:
        yield Context(spark, asked.settings, asked.ds, "r1", store, asked.settings.registry(), {}, {}, {}, {}, publication)


def numbers(*values):
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int32())], schema=arrow_schema(SMALL))


def files_in(context, written):
    folder = context.store.run_folder("small", context.ds, context.run_id)
    found = sorted(info.base_name for info in context.store.fs.get_file_info(pafs.FileSelector(folder)))
    assert found == sorted(file.name for file in written.files)
    return [f"{folder}/{file.name}" for file in written.files]


def test_a_file_for_each_piece_with_rows_a_row_group_for_each_batch(context):
    def build(piece, counts):
        counts["rows"] += piece
        counts["pieces"] += 1
        for start in range(0, piece, 2):
            yield numbers(*range(start, min(start + 2, piece)))

    written = write_by_tasks(context, SMALL, [3, 0, 5], build)
    assert written.counts == {"rows": 8, "pieces": 3}
    assert [(file.rows, file.row_group_rows) for file in written.files] == [(3, (2, 1)), (5, (2, 2, 1))]
    read = [pq.read_table(path)["n"].to_pylist() for path in files_in(context, written)]
    assert read == [[0, 1, 2], [0, 1, 2, 3, 4]]
    total = context.spark.read.parquet(*files_in(context, written)).select(row_hash(SMALL)).collect()
    assert written.total == sum(row[0] for row in total) % 2**64


def test_tables_that_are_made_together(context):
    """Each piece writes a file of either table; one without rows goes, and its place is in the names of the others."""

    other = Table("other", "two numbers", (Column("n", "int64", "a number"), Column("half", "float32", "half of it")))

    def build(piece, counts):
        counts["pieces"] += 1
        for n in range(piece):
            yield ("small", numbers(n)) if n % 2 else ("other", batch_of([(n, 0.5 * n)], arrow_schema(other)))

    made = write_tables_by_tasks(context, (SMALL, other), [1, 2, 0, 4], build)
    assert [file.rows for file in made["small"].files] == [1, 2]
    assert [file.rows for file in made["other"].files] == [1, 1, 2]
    assert {piece_of(file.name): file.rows for file in made["small"].files} == {1: 1, 3: 2}
    assert [pq.read_table(path)["n"].to_pylist() for path in files_in(context, made["small"])] == [[1], [1, 3]]
    assert made["small"].counts == made["other"].counts == {"pieces": 4}
    folder = context.store.run_folder("other", context.ds, context.run_id)
    frame = context.spark.read.parquet(*[f"{folder}/{file.name}" for file in made["other"].files])
    assert made["other"].total == sum(row[0] for row in frame.select(row_hash(other)).collect()) % 2**64


def test_a_table_without_rows_is_one_file(context):
    written = write_by_tasks(context, SMALL, [0, 0, 0], lambda _piece, _counts: iter(()))
    assert [file.rows for file in written.files] == [0]
    assert [pq.read_table(path).num_rows for path in files_in(context, written)] == [0]
    assert written.total == 0


def test_the_faults_of_all_pieces_are_told_and_nulls_are_one(context):
    def build(piece, _counts):
        if piece == 1:
            raise BadDataError("here", [Fault("piece 1 is bad")])
        yield numbers(piece, None) if piece == 2 else numbers(piece)

    with pytest.raises(BadDataError, match=r"(?s)table small.*2 faults.*piece 1 is bad.*column 'n' has nulls"):
        write_by_tasks(context, SMALL, [0, 1, 2], build)


def test_what_a_losing_attempt_left_is_removed(context):
    attempt, folder = context.publication.attempt, context.store.run_folder("small", context.ds, context.run_id)

    def build(piece, _counts):
        with open(f"{folder}/part-{attempt}-{piece:05d}-99999.parquet", "wb") as file:  # as a speculative twin would leave it
            file.write(b"half")
        yield numbers(piece)

    written = write_by_tasks(context, SMALL, [1, 2], build)
    assert len(files_in(context, written)) == 2
    assert sum(file.rows for file in written.files) == 2


def test_partitions_of_a_frame_are_written_where_they_are(context):
    """A file of each table for a partition with rows, totals as Spark has them, counts put together."""

    def build(batches, counts):
        for batch in batches:
            user, items = batch.column("user_idx"), batch.column("items")
            counts["users"] += len(user)
            scores = pa.array([[0.5] * len(one) for one in items.to_pylist()], pa.list_(pa.float32()))
            columns = [user, pa.array(["u2i"] * len(user)), items, scores]
            yield "channel_candidates", pa.RecordBatch.from_arrays(columns, names=["user_idx", "channel", "items", "scores"])

    lists = [(n, [n] * (n % 3)) for n in range(1, 8)]
    frame = context.spark.createDataFrame(lists, "user_idx int, items array<int>").repartition(3, "user_idx")
    counts = Counter()
    written = write_partitions(context, ("channel_candidates",), frame, build, counts)["channel_candidates"]
    assert counts == {"users": 7}
    table = resolve("channel_candidates", context.registry)
    folder = context.store.run_folder(table.name, context.ds, context.run_id)
    read = context.spark.read.schema(spark_schema(table)).parquet(*[f"{folder}/{file.name}" for file in written.files])
    assert {row["user_idx"]: row["items"] for row in read.collect()} == dict(lists)
    assert written.total == sum(row[0] for row in read.select(row_hash(table)).collect()) % 2**64

    def failing(batches, _counts):
        raise BadDataError("here", [Fault(f"{sum(batch.num_rows for batch in batches)} bad rows")])
        yield

    with pytest.raises(BadDataError, match=r"channel_candidates[\s\S]*bad rows"):
        write_partitions(context, ("channel_candidates",), frame, failing, Counter())
