"""The runner when something goes wrong: what is told is what went wrong first, and the next run mends it."""

import shlex
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.sql.catalog import Catalog

from conf.errors import GateError
from conf.storage import Publication, Store
from conf.tables import TABLES
from spark_jobs import session as sessions
from spark_jobs.job import Job, Output, main, run_job, submit_line
from spark_jobs.schema import row_hash, spark_schema
from tests.faults.publishing import settings_at
from tests.faults.spark_events_job import publish_inputs

SESSIONS = TABLES["sessions"]
ROWS = [(1, 0, 10, 20, [3, 3, 4], 3), (1, 1, 900, 900, [5], 1), (2, 0, 15, 30, [4, 6], 2)]


def sessions_job(rows=ROWS, error=None):
    def transform(context, tables):
        if error is not None:
            raise error
        return {"sessions": Output(context.spark.createDataFrame(rows, spark_schema(SESSIONS)))}

    return Job("sessions", transform)


@pytest.fixture
def ask(make_request):
    """ask(run_id, ...) -> request over a root where the job's input is published."""
    asked = make_request()
    publish_inputs(asked.store, asked.settings, "sessions")
    return make_request


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), GateError("table x", ["no"]), RuntimeError()])
def test_the_error_of_the_transform_is_the_one_raised(spark, ask, error, monkeypatch):
    """Also when it has no text, and when Spark itself is so broken that cleaning up fails."""

    def broken(_):
        raise ConnectionRefusedError("the JVM is gone")

    monkeypatch.setattr(Catalog, "clearCache", broken)
    with pytest.raises(type(error)) as caught:
        run_job(sessions_job(error=error), spark, ask())
    assert caught.value is error


def test_the_error_of_writing_is_the_one_raised_also_when_spark_cannot_be_told_to_stop(spark, ask, monkeypatch):
    def broken(_):
        raise ConnectionRefusedError("the JVM is gone")

    monkeypatch.setattr(SparkContext, "cancelAllJobs", broken)
    with pytest.raises(GateError, match="0 rows"):
        run_job(sessions_job(rows=[]), spark, ask())


@pytest.mark.parametrize("damage", ["file gone", "file shorter", "folder gone"])
def test_a_damaged_current_run_is_made_again_without_force(spark, ask, damage):
    asked = ask(run_id="r1")
    before = run_job(sessions_job(), spark, asked).record
    manifest = asked.store.manifest("sessions", asked.ds, asked.settings)
    file = Path(asked.store.files_of(manifest)[0])
    if damage == "file gone":
        file.unlink()
    elif damage == "file shorter":
        file.write_bytes(b"")
    else:
        file.parent.rename(file.parent.with_name("elsewhere"))
    after = run_job(sessions_job(), spark, ask(run_id="r2"))
    assert not after.skipped
    assert after.record.tables == before.tables
    assert asked.store.manifest("sessions", asked.ds, asked.settings).run_id == "r2"


def test_a_variant_keeps_what_main_has_from_equal_settings(spark, ask):
    run_job(sessions_job(), spark, ask(run_id="r1"))
    kept = run_job(sessions_job(), spark, ask(run_id="r2", variant="exp"))
    assert (kept.skipped, kept.record.variant, kept.record.run_id) == (True, "main", "r1")
    other = settings_at("unused", session={"gap_s": 60})
    made = run_job(sessions_job(), spark, ask(other, run_id="r3", variant="exp"))
    assert (made.skipped, made.record.variant) == (False, "exp")


def test_files_that_another_attempt_of_the_run_still_writes_are_not_taken_in(spark, ask, monkeypatch):
    """The Spark of a killed driver may go on for a moment, into the folder that the rerun has just emptied."""
    asked = ask(run_id="r1")
    folder = Publication.folder

    def with_a_late_file(publication, table):
        path = folder(publication, table)
        spark.createDataFrame(ROWS, spark_schema(SESSIONS)).coalesce(1).write.mode("append").parquet(path)
        return path

    monkeypatch.setattr(Publication, "folder", with_a_late_file)
    assert run_job(sessions_job(), spark, asked).rows == {"sessions": 3}
    manifest = asked.store.manifest("sessions", asked.ds, asked.settings)
    assert spark.read.parquet(*asked.store.files_of(manifest)).count() == 3


def test_a_missing_input_is_told_before_spark_starts(tmp_path, monkeypatch, capsys):
    def no_session(_):
        pytest.fail("Spark was started")

    monkeypatch.setattr(sessions, "session", no_session)
    (tmp_path / "my.yaml").write_text(f"storage: {{root: '{tmp_path}/root'}}\n")
    assert main(sessions_job(), ["--config", f"{tmp_path}/my.yaml", "--run-id", "r1"]) == 3
    assert "table events is not there yet" in capsys.readouterr().err
    status = Store(f"{tmp_path}/root").read_status("r1")
    assert (status["status"], status["exit_code"]) == ("failed", 3)


def test_the_printed_line_is_safe_to_paste(make_request):
    from dataclasses import replace

    asked = replace(make_request(), config="my; rm -rf ~.yaml", overrides=("source.path='a b'", 'source.separator="$(id)"'))
    words = shlex.split(submit_line("sessions", asked))
    assert words == ["spark-submit", "--py-files", "dist/trichannel.zip", "spark_jobs/sessions.py", *asked.arguments()]


def test_content_hash_tells_apart_what_only_differs_in_where_an_array_ends(spark):
    rows = [(1, [1], [2], 0), (1, [1, 2], [], 0), (1, [], [1, 2], 0), (1, [1], [2], 0)]
    table = TABLES["user_state"]
    df = spark.createDataFrame(rows, "user_idx int, items array<int>, ts array<bigint>, num_train int").withColumn("items", _ints("items"))
    hashes = [row["h"] for row in df.withColumn("ts", _ints("ts")).select(row_hash(table).alias("h")).collect()]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


def _ints(name):
    from pyspark.sql import functions as F

    return F.col(name).cast("array<int>")  # of one type, so that only the lengths tell them apart
