"""Tables that tasks write: hashed as Spark hashes them, faults of all pieces told, files of losers removed."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault
from conf.schemas.table import Column, Table
from conf.storage import Store
from spark_jobs.context import Context
from spark_jobs.job import spark_schema
from spark_jobs.schema import row_hash
from spark_jobs.task_files import arrow_schema, piece_of, row_hashes, write_by_tasks, write_tables_by_tasks

KINDS = ("bool", "int8", "int16", "int32", "int64", "float32", "array<int32>", "array<int32>", "array<int64>", "array<float32>")
TABLE = Table("numbers", "one of each", tuple(Column(f"c{n}", kind, "a value") for n, kind in enumerate(KINDS)))
SMALL = Table("small", "one number", (Column("n", "int32", "a number"),), may_be_empty=True)


def whole(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


lists = st.lists(whole(32), max_size=4)
floats = st.floats(width=32, allow_nan=False)
more_lists = st.lists(whole(64), max_size=4), st.lists(floats, max_size=4)
rows = st.lists(st.tuples(st.booleans(), whole(8), whole(16), whole(32), whole(64), floats, lists, lists, *more_lists), max_size=12)


def batch_of(values, schema):
    columns = zip(*values, strict=True) if values else [[] for _ in schema]
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def test_rows_are_hashed_as_spark_hashes_them(spark):
    drawn = []

    @settings(max_examples=60, deadline=None, database=None)
    @given(rows)
    def draw(values):
        drawn.extend(values)

    draw()
    assert len(drawn) > 100
    drawn.append((True, -1, -1, -1, -1, -0.0, [], [0], [0], [-0.0]))
    mine = row_hashes(batch_of(drawn, arrow_schema(TABLE)))
    frame = spark.createDataFrame(drawn, spark_schema(TABLE)).repartition(1)
    theirs = [row[0] % 2**64 for row in frame.select(row_hash(TABLE)).collect()]
    assert sorted(mine.tolist()) == sorted(theirs)


def test_a_slice_is_hashed_as_its_rows():
    batch = batch_of([(True, n, n, n, n, 0.5 * n, [n] * n, [n], [n], [0.5] * n) for n in range(9)], arrow_schema(TABLE))
    assert row_hashes(batch)[3:7].tolist() == row_hashes(batch.slice(3, 4)).tolist()


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
