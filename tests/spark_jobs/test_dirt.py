"""Dirty logs, small: each bad kind of row is dropped or refused for a reason that says what to do, counted, and shown in the report."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import BadDataError, GateError, SchemaError
from conf.settings import Settings
from conf.storage import Manifest
from spark_jobs import events, ingest, vocabulary
from spark_jobs.funnel import STEPS, funnel
from spark_jobs.job import run_job
from spark_jobs.sources.raw import MILLISECONDS

DS = "2026-01-31"
MIDNIGHT = 1_769_817_600  # 2026-01-31T00:00:00Z
DAY = 86_400
YEAR_2100 = 4_105_900_800  # 2100-02-10T00:00:00Z
AFTER_2100 = 4_133_980_800  # 2101-01-01T00:00:00Z
GOOD = [f"u{n % 10},i{n % 7},{MIDNIGHT + 60 * n}" for n in range(100)]  # ten users, ten clicks each, a minute apart


@pytest.fixture
def ingested(spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path) -> Callable[..., Request]:
    """ingested(rows, ds=..., train_days=...) -> the request, once ingest has published the log."""

    number = itertools.count(1)

    def make(rows: list[str], *, ds: str = DS, kind: str = "generic", max_reject_share: float = 0.5, **given: Any) -> Request:
        (tmp_path / "log.csv").write_text("user_key,item_key,ts\n" * (kind == "generic") + "".join(f"{row}\n" for row in rows))
        source = {"kind": kind, "path": str(tmp_path / "log.csv"), **given}
        sections = {"source": source, "gates": {"max_reject_share": max_reject_share}, "split": {"kind": "last_k", "k": 1}}
        asked = make_request(Settings.model_validate(sections), ds=ds, run_id=f"r{next(number)}", force=True)
        run_job(ingest.JOB, spark, asked)
        return asked

    return make


def clicks_of(asked: Request) -> Manifest:
    return asked.store.manifest("clicks", asked.ds, asked.settings)


def rows_of(asked: Request, table: str) -> list[dict[str, Any]]:
    return pq.read_table(asked.store.files_of(asked.store.manifest(table, asked.ds, asked.settings))).to_pylist()


def shown(clicks: Manifest) -> dict[str, int]:
    """What the report says of the log: note -> rows."""
    other = replace(clicks, counters={})
    steps = funnel({step.table: clicks if step.table == "clicks" else other for step in STEPS})
    return {note["what"]: note["rows"] for step in steps for note in step["notes"]}


def all_accounted_for(counters: dict[str, Any]) -> bool:
    away = sum(counters["rejected"].values()) + sum(counters["dropped"].values())
    return counters["raw_rows"] == counters["clicks"] + counters["duplicates"] + counters["inactive"] + away


@pytest.mark.slow
def test_thirty_percent_duplicates_are_left_out_and_shown(ingested: Callable[..., Request]) -> None:
    clean = clicks_of(ingested(GOOD)).content_hash
    dirty = clicks_of(ingested([*GOOD, *GOOD[:40], GOOD[0], GOOD[0]]))  # 42 of 142
    assert dirty.content_hash.split(":")[0] == "100"
    assert (dirty.counters["duplicates"], shown(dirty)) == (42, {"duplicates left out": 42})
    assert all_accounted_for(dict(dirty.counters))
    assert dirty.content_hash == clean  # of equal rows the first counts, which is where it was


@pytest.mark.slow
def test_equal_timestamps_keep_every_click_in_the_order_of_the_file(ingested: Callable[..., Request], spark: SparkSession) -> None:
    """Half of the users click ten items in one second."""
    rows = [f"u{user},i{(user + 3 * n) % 10},{MIDNIGHT}" for n in range(10) for user in range(10)]
    asked = ingested(rows)
    assert (clicks_of(asked).rows, clicks_of(asked).counters["duplicates"]) == (100, 0)
    for job in (vocabulary.JOB, events.JOB):
        run_job(job, spark, asked)
    user, item = ({row["idx"]: row["key"] for row in rows_of(asked, f"{side}_index")} for side in ("user", "item"))
    for row in rows_of(asked, "user_state"):
        number = int(user[row["user_idx"]][1:])
        in_file = [f"i{(number + 3 * n) % 10}" for n in range(10)]
        assert [item[idx] for idx in row["items"]] == in_file[: len(row["items"])]
        assert len(row["items"]) >= 8  # last_k holds out two
    counters = asked.store.manifest("events", DS, asked.settings).counters
    assert counters["cut_in_tie_users"] == 10  # told in the report, for who came first is the file's word alone


def test_milliseconds_among_seconds_are_refused_by_name(ingested: Callable[..., Request]) -> None:
    """Never the year 58,000: one row in ten comes from a client that counts in milliseconds."""
    asked = ingested([f"{row}000" if n % 10 == 9 else row for n, row in enumerate(GOOD)])
    clicks = clicks_of(asked)
    assert "source.ts_format: epoch_ms" in MILLISECONDS
    assert clicks.counters["rejected"] == {MILLISECONDS: 10}
    assert shown(clicks) == {f"refused: {MILLISECONDS}": 10}
    assert all_accounted_for(dict(clicks.counters))
    assert {row["day"] for row in rows_of(asked, "clicks")} == {DS}
    assert {(row["reason"], row["raw"]) for row in rows_of(asked, "rejects")} == {(MILLISECONDS, f"{row}000") for row in GOOD[9::10]}


def test_a_log_in_milliseconds_publishes_nothing_and_the_message_says_what_to_set(ingested: Callable[..., Request]) -> None:
    rows = [f"{row}000" for row in GOOD]
    with pytest.raises(SchemaError, match=r"set source\.ts_format: epoch_ms") as caught:
        ingested(rows)
    assert caught.value.exit_code == 2
    assert {row["day"] for row in rows_of(ingested(rows, ts_format="epoch_ms"), "clicks")} == {DS}


@pytest.mark.parametrize("kind", ["generic", "taobao"])
def test_too_many_milliseconds_are_refused_by_the_gate(ingested: Callable[..., Request], kind: str) -> None:
    rows = [f"{row}000" if n % 10 == 9 else row for n, row in enumerate(GOOD)]
    if kind == "taobao":
        rows = ["{},{},9,pv,{}".format(*row.split(",")) for row in rows]
    with pytest.raises(GateError, match="10 of 100 rows refused") as caught:
        ingested(rows, kind=kind, max_reject_share=0.05)
    assert f"10 rows: {MILLISECONDS}" in str(caught.value)
    assert caught.value.exit_code == 4


def test_clicks_of_the_year_2100_lie_after_the_day(ingested: Callable[..., Request]) -> None:
    future = [f"u1,i1,{YEAR_2100}", f"u2,i1,{YEAR_2100 + 1}", f"u1,i2,{AFTER_2100 - 1}", f"u1,i2,{AFTER_2100}"]
    clicks = clicks_of(ingested([*GOOD, *future]))
    assert (clicks.rows, clicks.facts["last_ts"]) == (100, MIDNIGHT + 99 * 60)
    assert (clicks.counters["dropped"], clicks.counters["rejected"]) == ({"after ds": 3}, {"time cannot be read": 1})
    assert shown(clicks) == {"left out: after ds": 3, "refused: time cannot be read": 1}
    assert all_accounted_for(dict(clicks.counters))


@pytest.mark.slow
def test_times_as_text_of_the_year_2100_too(ingested: Callable[..., Request]) -> None:
    rows = [f"u{n},i1,2026-01-31T10:00:0{n}Z" for n in range(5)] + ["u1,i1,2100-06-01T00:00:00Z", "u1,i1,58056-01-01T00:00:00Z"]
    counters = clicks_of(ingested(rows, ts_format="iso8601")).counters
    assert (counters["clicks"], counters["dropped"], counters["rejected"]) == (5, {"after ds": 1}, {"time cannot be read": 1})


def test_a_day_without_clicks_ends_with_a_code_of_its_own(ingested: Callable[..., Request]) -> None:
    """No click in the window: bad data, exit 6, with what was dropped and why. With clicks of days before it the day is fine."""
    with pytest.raises(BadDataError, match="no click is left") as caught:
        ingested(GOOD, ds="2026-02-20", train_days=7)
    assert caught.value.exit_code == 6
    assert "'before the window': 100" in str(caught.value)
    clicks = clicks_of(ingested(GOOD, ds="2026-02-02", train_days=7))  # two empty days at the end
    assert (clicks.rows, shown(clicks)) == (100, {})


@pytest.mark.slow
def test_a_day_without_clicks_in_the_middle_is_fine(ingested: Callable[..., Request]) -> None:
    gap = [f"u{n % 10},i{n % 7},{MIDNIGHT + 60 * n - 4 * DAY * (n % 2)}" for n in range(100)]  # the 27th and the 31st, nothing between
    asked = ingested(gap, train_days=7)
    assert sorted(row["day"] for row in rows_of(asked, "clicks")) == ["2026-01-27"] * 50 + [DS] * 50
    assert shown(clicks_of(asked)) == {}
