"""Rows hashed where they are made: as Spark hashes them."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schemas.table import SOURCES_TYPE, Column, Table
from spark_jobs.row_hashes import row_hashes
from spark_jobs.schema import row_hash, spark_schema
from spark_jobs.task_files import arrow_schema

KINDS = ("bool", "int8", "int16", "int32", "int64", "float32", "array<int32>", "array<int32>", "array<int64>", "array<float32>")
TABLE = Table("numbers", "one of each", tuple(Column(f"c{n}", kind, "a value") for n, kind in enumerate(KINDS)))
OF_MODEL = ("string", "array<string>", "float32", "array<float32>", SOURCES_TYPE, f"array<{SOURCES_TYPE}>", "int64", "bool")
LISTS = Table("lists", "one of each", tuple(Column(f"c{n}", kind, "a value") for n, kind in enumerate(OF_MODEL)), derived=True)


def whole(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


lists = st.lists(whole(32), max_size=4)
floats = st.floats(width=32, allow_nan=False)
more_lists = st.lists(whole(64), max_size=4), st.lists(floats, max_size=4)
rows = st.lists(st.tuples(st.booleans(), whole(8), whole(16), whole(32), whole(64), floats, lists, lists, *more_lists), max_size=12)


texts = st.text(max_size=70)  # of up to 280 bytes: both ways of XXH64
scores = st.floats(-1000, 1000, width=32)
sources = st.lists(st.tuples(texts, whole(32), scores), max_size=3)
of_sources = (sources, st.lists(sources, max_size=3))
rows_of_model = st.tuples(texts, st.lists(texts, max_size=3), scores, st.lists(scores, max_size=3), *of_sources, whole(64), st.booleans())


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


def named(row):
    """The row with its sources as Arrow takes structs."""
    one = [dict(zip(("channel", "rank", "score"), source, strict=True)) for source in row[4]]
    many = [[dict(zip(("channel", "rank", "score"), source, strict=True)) for source in some] for some in row[5]]
    return (*row[:4], one, many, *row[6:])


def test_rows_of_a_model_are_hashed_as_spark_hashes_them(spark):
    """Strings of any length, lists in lists, structs; floats rounded to 1e-5, halves away from 0."""
    drawn = [("a" * 32, ["", "b" * 64], 0.015625, [-0.015625, -0.0, 0.0], [("é", 1, 0.5)], [[], [("x", 2, 1e-7)]], 1, True)]

    @settings(max_examples=100, deadline=None, database=None)
    @given(rows_of_model)
    def draw(row):
        drawn.append(row)

    draw()
    batch = batch_of([named(row) for row in drawn], arrow_schema(LISTS))
    frame = spark.createDataFrame(drawn, spark_schema(LISTS)).coalesce(1)
    theirs = [row[0] % 2**64 for row in frame.select(row_hash(LISTS)).collect()]
    assert row_hashes(batch, derived=True).tolist() == theirs
    assert row_hashes(batch.slice(3, 4), derived=True).tolist() == theirs[3:7]
