"""The runner: checks on both sides, hashes that do not depend on row order, nothing published when something is wrong."""

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from conf.errors import BadDataError, GateError, NotReadyError, SchemaError, UsageError
from conf.files import hash_file
from conf.storage import FileEntry, Store
from conf.tables import TABLES
from spark_jobs.job import Job, Output, run_job
from spark_jobs.schema import hash_sums, row_hash, spark_schema, total_of, type_name

SESSIONS = TABLES["sessions"]
ROWS = [(1, 0, 10, 20, [3, 3, 4], 3), (1, 1, 900, 900, [5], 1), (2, 0, 15, 30, [4, 6], 2)]


def _ready(store, settings, table="events"):
    """A committed, empty stand-in for the job's input."""
    with store.publication("events", "2026-01-31", "up", settings) as publication:
        folder = publication.folder(table)
        columns = {"user_idx": pa.int32(), "item_idx": pa.int32(), "ts": pa.int64(), "seq": pa.int64(), "split": pa.int8()}
        columns |= {"weight": pa.float32(), "session_key": pa.string()}
        pq.write_table(pa.table({n: pa.array([], t) for n, t in columns.items()}), f"{folder}/a.parquet")
        size, sha = hash_file(store.fs, f"{folder}/a.parquet")
        publication.seal(table, [FileEntry("a.parquet", 0, size, sha, ())], rows=0, content_hash="0:0", facts={"has_clock": True})
        publication.commit()


def _job(rows, schema=None, **output):
    def transform(context, tables):
        context.counters["sessions"] = len(rows)
        df = context.spark.createDataFrame(rows, schema or spark_schema(SESSIONS))
        return {"sessions": Output(df, **output)}

    return Job("sessions", transform)


@pytest.fixture
def asked(make_request):
    asked = make_request()
    _ready(asked.store, asked.settings)
    return asked


def test_publishes_with_facts_counters_and_row_groups(spark, asked):
    result = run_job(_job(ROWS), spark, asked)
    manifest = asked.store.manifest("sessions", asked.ds, asked.settings)
    assert (result.rows, manifest.rows, manifest.run_id) == ({"sessions": 3}, 3, "r1")
    assert manifest.facts == {"has_clock": True}
    assert manifest.counters == {"sessions": 3}
    assert sum(sum(f.row_group_rows) for f in manifest.files) == 3
    folder = asked.store.folder_of(manifest)
    names = {i.base_name for i in asked.store.fs.get_file_info(pafs.FileSelector(folder))}
    assert {"manifest.json", "_SUCCESS"} <= names


def test_content_hash_ignores_row_and_file_order_but_not_content(spark, asked, make_request):
    hashes = []
    for run_id, rows, files in (("r1", ROWS, 1), ("r2", ROWS[::-1], 3), ("r3", [(*ROWS[0][:5], 4), *ROWS[1:]], 1)):
        job = _job(rows, num_files=files, cluster_by=("user_idx", "session_no"))
        result = run_job(job, spark, make_request(run_id=run_id, force=True))
        hashes.append(result.record.tables["sessions"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_second_run_is_skipped_until_forced(spark, asked, make_request):
    run_job(_job(ROWS), spark, asked)
    assert run_job(_job(ROWS), spark, make_request(run_id="r2")).skipped
    assert not run_job(_job(ROWS), spark, make_request(run_id="r3", force=True)).skipped


def test_same_run_id_twice_is_refused(spark, asked, make_request):
    run_job(_job(ROWS), spark, asked)
    with pytest.raises(UsageError, match="already committed"):
        run_job(_job(ROWS), spark, make_request(force=True))


def test_missing_upstream_names_table_and_command(spark, make_request):
    with pytest.raises(NotReadyError, match=r"(?s)table events is not there yet.*trichannel events --ds 2026-01-31"):
        run_job(_job(ROWS), spark, make_request())


def test_wrong_columns_are_all_named_and_nothing_is_published(spark, asked):
    schema = "user_idx int, session_number int, start_ts bigint, end_ts bigint, items array<int>, num_items bigint"
    with pytest.raises(SchemaError) as caught:
        run_job(_job([(1, 0, 1, 2, [3], 1)], schema), spark, asked)
    text = str(caught.value)
    assert "'session_no' is missing" in text
    assert "session_number ?" in text
    assert "'num_items' is int64, want int32" in text
    assert asked.store.current("sessions", asked.ds) is None


def test_duplicate_keys_nulls_and_emptiness_are_refused(spark, asked, make_request):
    with pytest.raises(BadDataError, match="not unique"):
        run_job(_job([ROWS[0], ROWS[0]]), spark, asked)
    nullable = spark_schema(SESSIONS)
    for item in nullable.fields:
        item.nullable = True
    with pytest.raises(BadDataError, match="'start_ts' has 1 nulls"):
        run_job(_job([(1, 0, None, 2, [3], 1)], nullable), spark, make_request(run_id="r2"))
    with pytest.raises(GateError, match="0 rows"):
        run_job(_job([]), spark, make_request(run_id="r3"))
    assert asked.store.current("sessions", asked.ds) is None


def test_damaged_input_file_is_bad_data(spark, asked, make_request):
    run_job(_job(ROWS), spark, asked)
    store: Store = asked.store
    record = store.current("sessions", asked.ds)
    path = store.files_of(store.load_manifest("sessions", record))[0]
    with open(path, "ab") as handle:
        handle.write(b"x")
    with pytest.raises(BadDataError, match="damaged"):
        store.manifest("sessions", asked.ds, asked.settings)


def test_type_names_round_trip():
    for table in TABLES.values():
        assert [type_name(f.dataType) for f in spark_schema(table).fields] == [c.type for c in table.columns]


def test_hashes_add_up_modulo_2_to_the_64(spark):
    hashes = [-1, -1, 2**63 - 1, -(2**63), 5, -(2**44) - 1]
    df = spark.createDataFrame([(h,) for h in hashes], "h long")
    assert total_of(df.agg(*hash_sums(F.col("h"))).first()) == sum(hashes) % 2**64
    assert total_of(df.where("h = 0").agg(*hash_sums(F.col("h"))).first()) == 0


def test_derived_tables_hash_floats_to_1e_5(spark):
    table = TABLES["embeddings_item"]
    rows = [(1, 0, [0.123456, -0.0]), (1, 0, [0.123459, 0.0]), (1, 0, [0.12350, 0.0])]
    hashes = [r[0] for r in spark.createDataFrame(rows, spark_schema(table)).select(row_hash(table).alias("h")).collect()]
    assert hashes[0] == hashes[1] != hashes[2]


def test_derived_tables_hash_floats_inside_structs_to_1e_5(spark):
    table = TABLES["candidates"]

    def row(score):
        return ("2026-01-31", "u", 1, "i", 0.5, [("u2i", 1, score)], False, "m", "r")

    rows = [row(0.123456), row(0.1234561), row(0.12350)]
    hashes = [r[0] for r in spark.createDataFrame(rows, spark_schema(table)).select(row_hash(table).alias("h")).collect()]
    assert hashes[0] == hashes[1] != hashes[2]
