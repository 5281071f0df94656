"""The erasure list: no row of an erased user in any table, each counted; lists of every format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import BadDataError, NotReadyError, SchemaError
from conf.settings import Settings
from spark_jobs import ingest
from spark_jobs.erasure import erased_keys
from spark_jobs.job import inputs_seen, run_job

DS = "2026-01-31"
NOON = 1_769_860_800  # 2026-01-31T12:00:00Z
# 8 is on the list: two clicks, a row without a time, one of tomorrow; and a broken line that names it where no column does
LOG = ["7,a", "8,a", "8,b", "8,c,never", f"8,c,{NOON + 86_400}", ",c8", "9,b", ",,8"]


@pytest.fixture
def asked_for(make_request: Callable[..., Request], tmp_path: Path) -> Callable[..., Request]:
    """asked_for(**source) -> the request for the log above, users 7, 8 and 10 in a table of their own, and erased.txt with 8 and 10."""
    full = [line if line.count(",") == 2 else f"{line},{NOON}" for line in LOG]
    (tmp_path / "log.csv").write_text("user_key,item_key,ts\n" + "".join(f"{line}\n" for line in full))
    (tmp_path / "users.csv").write_text("key,city\n7,Cork\n8,Ghent\n10,Bari\n")
    (tmp_path / "erased.txt").write_text("8\n 10 \n\n8\n404\n")

    def make(**given: Any) -> Request:
        source = {"kind": "generic", "path": str(tmp_path / "log.csv"), "users": {"path": str(tmp_path / "users.csv")}}
        source |= {"fields": {"user": {"city": "single"}}, **given}
        return make_request(Settings.model_validate({"source": source, "gates": {"max_reject_share": 1}}), force=True)

    return make


def rows(spark: SparkSession, asked: Request, table: str) -> list[Any]:
    return spark.read.parquet(*asked.store.files_of(asked.store.manifest(table, asked.ds, asked.settings))).collect()


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "with pseudonyms"])
def test_no_table_holds_an_erased_user(
    spark: SparkSession, asked_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    monkeypatch.setenv("SHOP_KEY", "correct-horse-battery-staple")
    pseudonyms = {"users": keyed, "key_env": "SHOP_KEY"}
    asked = asked_for(erasure=str(tmp_path / "erased.txt"), pseudonyms=pseudonyms)
    run_job(ingest.JOB, spark, asked)
    clicks, users = rows(spark, asked, "clicks"), rows(spark, asked, "users")
    assert sorted(row.item_key for row in clicks) == ["a", "b"]
    assert sorted((row.city or "") for row in users) == ["", "Cork"]  # 9 of the log, 7
    if not keyed:
        assert {row.user_key for row in clicks} == {row.user_key for row in users} == {"7", "9"}
    counters = asked.store.manifest("clicks", DS, asked.settings).counters
    assert counters["dropped"] == {"erased user": 4}
    assert counters["erased_users"] == 2  # 8 of the log, 10 of the table; 404 is nowhere
    rejects = rows(spark, asked, "rejects")
    assert [(row.row, row.raw) for row in sorted(rejects, key=lambda row: row.row)] == [(5, ""), (7, "")]
    assert counters["raw_rows"] == counters["clicks"] + counters["duplicates"] + 4 + 2


def test_without_a_list_nothing_changes(spark: SparkSession, asked_for: Callable[..., Request]) -> None:
    asked = asked_for()
    run_job(ingest.JOB, spark, asked)
    counters = asked.store.manifest("clicks", DS, asked.settings).counters
    assert (counters["clicks"], counters["dropped"], "erased_users" in counters) == (4, {"after ds": 1}, False)
    assert {row.user_key for row in rows(spark, asked, "users")} == {"7", "8", "9", "10"}
    assert "c8" in " ".join(row.raw for row in rows(spark, asked, "rejects"))


def test_a_longer_list_is_a_changed_input(asked_for: Callable[..., Request], tmp_path: Path) -> None:
    asked = asked_for(erasure=str(tmp_path / "erased.txt"))
    before = inputs_seen("ingest", asked)
    (tmp_path / "erased.txt").write_text("8\n10\n7\n")
    assert inputs_seen("ingest", asked) != before


def keys(spark: SparkSession, asked: Request) -> list[str]:
    erased = erased_keys(spark, asked.settings.source)
    assert erased is not None
    return sorted(row.user_key for row in erased.collect())


def test_lists_of_every_format(spark: SparkSession, asked_for: Callable[..., Request], tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("whoever\n8\n8\n10\n")
    (tmp_path / "many.csv").write_text("why,user_key\nasked,8\nasked,10\n")
    (tmp_path / "mine.csv").write_text("why,customer\nasked,8\nasked,10\n")
    pq.write_table(pa.table({"user_key": pa.array([8, 10, None], pa.int64())}), tmp_path / "list.parquet")
    for name in ("one.csv", "many.csv", "list.parquet"):
        assert keys(spark, asked_for(erasure=str(tmp_path / name))) == ["10", "8"], name
    assert keys(spark, asked_for(erasure=str(tmp_path / "mine.csv"), columns={"user_key": "customer"})) == ["10", "8"]
    with pytest.raises(SchemaError, match="which column names the users"):
        keys(spark, asked_for(erasure=str(tmp_path / "mine.csv")))


def test_a_list_that_is_not_there_or_empty_stops_the_run(spark: SparkSession, asked_for: Callable[..., Request], tmp_path: Path) -> None:
    """An empty list is more often a failed copy than meant, and would bring everyone back."""
    with pytest.raises(NotReadyError, match=r"source\.erasure"):
        keys(spark, asked_for(erasure=str(tmp_path / "nowhere.txt")))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(BadDataError, match=r"source\.erasure"):
        keys(spark, asked_for(erasure=str(tmp_path / "empty.txt")))
