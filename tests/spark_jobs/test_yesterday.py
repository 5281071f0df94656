"""The day before on today's clicks: numbers by a slow twin, which day is meant, and why there may be nothing to score."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.command import Request, RunStatus
from conf.inputs import before_manifests, unchanged
from spark_jobs import report, yesterday
from spark_jobs.job import Context, Job, RunResult, inputs_seen, run_job
from spark_jobs.report_page import render
from tests.faults.publishing import publish
from tests.spark_jobs.metrics.slow import twin
from tests.spark_jobs.test_later_truth import LATER, at, publish_later
from tests.spark_jobs.test_offline_metrics import rows_of

DAY = "2026-01-06"  # the day of copy_of_day
COUNTERS = ("candidates_ds", "users_with_truth", "users_scored")


def scored(spark: SparkSession, asked: Request) -> tuple[RunResult, dict[str, Any]]:
    """The run of the job for the later day, and what it counted."""
    today = replace(asked, ds=LATER, run_id="today")
    result = run_job(yesterday.JOB, spark, today)
    return result, today.store.manifest("metrics_yesterday", LATER, today.settings).counters


@pytest.mark.slow
def test_lists_of_the_day_before_are_scored_on_the_clicks_since(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day()
    published: dict[str, list[str]] = {}
    for row in sorted(rows_of(spark, asked, "candidates"), key=lambda row: row["rank"]):
        published.setdefault(row["user_key"], []).append(row["item_key"])
    first, second, *_ = sorted(user for user, items in published.items() if len(items) >= 4)
    truth = {first: [*published[first][2:4], "i-new"], second: published[second][:1]}
    log = [at(8, user, item) for user, items in truth.items() for item in items]
    publish_later(spark, asked, [*log, at(7, "stranger", "i-new"), at(6, second, "i-cold"), at(9, first, "i-cold")])

    result, counters = scored(spark, asked)
    assert {name: counters[name] for name in COUNTERS} == {"candidates_ds": DAY, "users_with_truth": 2, "users_scored": 2}
    today = replace(asked, ds=LATER)
    rows = rows_of(spark, today, "metrics_yesterday")
    assert {row["channel"] for row in rows} == {"merged", "u2i", "i2i", "itemcf", "popular"}
    assert {(row["candidates_ds"], row["run_id"], row["n_users"]) for row in rows} == {(DAY, "r1", 2)}
    found = {(row["metric"], row["n"]): row["value"] for row in rows if row["channel"] == "merged"}
    for n in (3, 10):
        want = [twin(published[user], items, n) for user, items in truth.items()]
        for name in ("recall", "precision", "ndcg_std", "ndcg_hit", "hr", "mrr"):
            assert found[name, n] == pytest.approx(sum(one[name] for one in want) / 2), (name, n)
    assert found["hit_cut", 10] == pytest.approx(3 / 4)
    assert "novelty" not in {name for name, _ in found}

    seen = inputs_seen("yesterday", today)
    assert seen["before_candidates"].startswith(f"main/{DAY}/r1 ")
    assert unchanged("yesterday", today, seen) == result.record
    assert unchanged("yesterday", today, seen | {"before_candidates": f"main/{DAY}/r2 7:other"}) is None


def test_the_first_day_is_skipped_and_the_status_file_says_why(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day(run_id="first")
    with RunStatus(asked, "run") as status:
        result = run_job(yesterday.JOB, spark, replace(asked, force=True), status)
    assert result.rows == {"metrics_yesterday": 0}
    (stage,) = asked.store.read_status("first")["stages"]
    assert (stage["status"], stage["reason"]) == ("skipped", f"no day before {DAY} has candidates")


def test_clicks_of_strangers_only_score_nothing(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day()
    publish_later(spark, asked, [at(8, "stranger", "i00"), at(6, "u00", "i00")])
    result, counters = scored(spark, asked)
    assert result.reason == counters["skipped"] == f"nobody whom {DAY} knew has clicked since"
    assert result.rows == {"metrics_yesterday": 0}


@pytest.mark.parametrize(
    ("changed", "has_clock", "reason"),
    [
        ({"source": {"train_days": 1}}, True, f"the clicks of {LATER} do not reach back to {DAY}, the last day with candidates"),
        ({}, False, "the log has only an order of clicks: none is known to come after the day before"),
    ],
)
def test_clicks_that_cannot_be_told_from_those_before_score_nothing(spark, copy_of_day, changed, has_clock, reason) -> None:
    asked = copy_of_day(**changed)
    publish_later(spark, asked, [at(8, "u00", "i00")])

    def judge(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, DataFrame]:
        context.facts["has_clock"] = has_clock
        return yesterday.JOB.transform(context, tables)

    result = run_job(Job("yesterday", judge), spark, replace(asked, ds=LATER, run_id="today"))
    assert (result.reason, result.rows) == (reason, {"metrics_yesterday": 0})


def test_the_day_before_is_the_last_one_that_has_all_tables(make_request) -> None:
    asked = make_request()
    store, settings = asked.store, asked.settings
    assert before_manifests("yesterday", store, LATER, settings) == {}
    for ds in ("2026-01-02", "2026-01-05", LATER, "2026-01-09"):  # the day itself and later ones never count
        for job in ("vocabulary", "candidates"):
            publish(store, settings, f"of-{ds}", f"content of {ds}", job=job, ds=ds)
    publish(store, settings, "no-index", "x", job="candidates", ds="2026-01-07")
    found = before_manifests("yesterday", store, LATER, settings)
    assert {manifest.run_id for manifest in found.values()} == {"of-2026-01-05"}
    assert set(found) == {"candidates", "channel_candidates", "user_index", "item_index"}
    assert before_manifests("offline_metrics", store, LATER, settings) == {}


@pytest.mark.slow
def test_the_report_shows_the_scores_or_why_there_are_none(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day()
    run_job(report.JOB, spark, asked)
    folder = Path(asked.store.folder_of(asked.store.manifest("report", asked.ds, asked.settings)))
    assert f"Not scored: no day before {DAY} has candidates." in (folder / "report.html").read_text()
    content = json.loads((folder / "report.json").read_text())
    assert content["yesterday"]["metrics"] == []

    row = {"channel": "u2i", "metric": "recall", "n": 10, "value": 0.28149, "ci_lo": 0.25, "ci_hi": 0.31}
    told = {"candidates_ds": "2026-01-05", "users_scored": 7, "users_with_truth": 9, "skipped": None}
    page = render({**content, "yesterday": {**told, "channels": ["u2i"], "metrics": [row, {**row, "n": 3}]}})
    assert "The candidates of 2026-01-05 on what 7 users (a sample of 9) clicked after it, up to 2026-01-06" in page
    wanted = '<span class="num" data-yesterday="recall" data-channel="u2i" data-value="0.28149">28.1 %</span> <small>±3.0</small>'
    assert page.count("data-yesterday=") == page.count(wanted) == 1
