"""A published day judged by the clicks of a later one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Request
from conf.errors import NotReadyError, SettingsError
from conf.inputs import unchanged
from spark_jobs import offline_metrics as om
from spark_jobs.job import Context, Job, inputs_seen, run_job
from spark_jobs.later_truth import count_unknown, later_clicks, truth_of
from tests.spark_jobs.metrics.slow import twin
from tests.spark_jobs.published_day import ingest
from tests.spark_jobs.small_logs import DAY_S, START_S, Click, clicks_df
from tests.spark_jobs.test_offline_metrics import rows_of

LATER = "2026-01-08"  # the published day is 2026-01-06, the sixth of the log


def at(day: int, user: str, item: str) -> Click:
    """A click at noon of a day of January 2026."""
    return Click(user, item, START_S + (day - 1) * DAY_S + DAY_S // 2)


def test_truth_is_what_was_clicked_after_the_day_up_to_the_later_one(spark: SparkSession) -> None:
    index = "key string, idx int"
    users, items = spark.createDataFrame([("u", 1), ("v", 2), ("w", 3)], index), spark.createDataFrame([("a", 5), ("b", 4)], index)
    log = [at(6, "u", "b"), at(7, "u", "a"), at(8, "u", "a"), at(8, "u", "b"), at(9, "w", "a")]  # b also after the day: it counts
    log += [at(7, "v", "new"), at(8, "v", "new"), at(8, "v", "newer"), at(8, "v", "b"), at(8, "stranger", "a")]
    later = later_clicks(clicks_df(spark, log), users, items, after="2026-01-06", until=LATER)
    assert {(row["user_key"], row["item_key"]) for row in later.where("user_idx is null").collect()} == {("stranger", "a")}
    found = truth_of(later)
    assert found.schema.simpleString() == "struct<user_idx:int,truth:array<int>,clicked:array<int>>"
    rows = {row["user_idx"]: (row["truth"], row["clicked"]) for row in found.collect()}
    assert rows == {1: ([4, 5], [4, 5, 5]), 2: ([-2, -1, 4], [-2, -1, -1, 4])}  # -1 is `new`, clicked twice
    assert count_unknown(found) == 2
    assert count_unknown(found.where("user_idx = 9")) == 0


def publish_later(spark: SparkSession, asked: Request, log: list[Click], *, ds: str = LATER, has_clock: bool = True) -> None:
    """Clicks of a later day, through the runner."""

    def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Any]:
        made = ingest(context, tables) | {"clicks": clicks_df(context.spark, log)}
        context.facts["of_the_later_day"] = True
        return made

    run_job(Job("ingest", transform), spark, replace(asked, ds=ds, run_id="later"))


def all_train(spark: SparkSession, asked: Request) -> None:
    """The day's events as split.kind production leaves them; its other tables stay."""
    made = {name: asked.store.manifest(name, asked.ds, asked.settings) for name in ("events", "user_state")}

    def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
        context.facts.update(made["events"].facts)
        events, states = (spark.read.parquet(*asked.store.files_of(made[name])) for name in ("events", "user_state"))
        return {"events": events.withColumn("split", F.lit(0).cast("tinyint")), "user_state": states}

    run_job(Job("events", transform), spark, replace(asked, force=True))


@pytest.mark.slow
def test_a_published_day_is_scored_against_a_later_one(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day(evaluation={"baselines": ["most_pop", "als"], "max_users": 100})
    all_train(spark, asked)
    published: dict[str, list[str]] = {}
    for row in sorted(rows_of(spark, asked, "candidates"), key=lambda row: row["rank"]):
        published.setdefault(row["user_key"], []).append(row["item_key"])
    first, second, *_ = sorted(user for user, items in published.items() if len(items) >= 4)
    truth = {first: [*published[first][2:4], "i-new"], second: published[second][:1]}
    log = [at(8, user, item) for user, items in truth.items() for item in items] + [at(7, "stranger", "i-new"), at(6, second, "i-cold")]
    publish_later(spark, asked, log)

    judged = replace(asked, truth_ds=LATER)
    result = run_job(om.JOB, spark, judged)
    assert not result.skipped
    user_idx = {row["key"]: row["idx"] for row in rows_of(spark, asked, "user_index")}
    found = {(row["user_idx"], row["n"]): row for row in rows_of(spark, asked, "metrics_user") if row["channel"] == "merged"}
    assert set(found) == {(user_idx[user], n) for user in truth for n in (3, 10)}
    for user, items in truth.items():
        for n in (3, 10):
            want = twin(published[user], items, n)
            assert {name: found[user_idx[user], n][name] for name in want} == pytest.approx(want, abs=1e-9)
    assert found[user_idx[first], 10]["recall"] == pytest.approx(2 / 3)  # i-new could not be found, and counts

    manifest = asked.store.manifest("metrics", asked.ds, asked.settings)
    counters = manifest.counters
    assert (counters["users_with_truth"], counters["users_scored"], counters["truth_users_unknown"]) == (2, 2, 1)
    assert (counters["truth_items"], counters["truth_items_unknown"], counters["truth_ds"]) == (4, 1, LATER)
    assert (counters["als_chosen"], counters["als_valid_recall"]) == ("als(rank=4,reg=0.05,alpha=1)", {})
    assert manifest.facts["truth_ds"] == LATER
    assert "of_the_later_day" not in manifest.facts
    assert manifest.inputs["clicks"].startswith(f"main/{LATER}/later ")
    assert {row["slice"] for row in rows_of(spark, asked, "metrics")} >= {"all", "cold items"}  # i-new was never clicked in train
    assert {row["channel"] for row in rows_of(spark, asked, "metrics")} >= {"merged", "u2i", "most_pop", "als"}

    # equal truth is not scored twice; to hold clicks out, or to ask for a day that has others, is another run
    assert unchanged("offline_metrics", judged, inputs_seen("offline_metrics", judged)) == result.record
    assert unchanged("offline_metrics", asked, inputs_seen("offline_metrics", asked)) is None
    seen = inputs_seen("offline_metrics", judged)
    assert unchanged("offline_metrics", judged, seen | {"clicks": "main/2026-01-08/later 5:other"}) is None


@pytest.mark.slow
def test_a_day_without_clicks_or_clock_is_refused(spark: SparkSession, copy_of_day) -> None:
    asked = replace(copy_of_day(evaluation={"baselines": []}), truth_ds=LATER)
    with pytest.raises(NotReadyError, match=f"run: trichannel ingest --ds {LATER}"):
        run_job(om.JOB, spark, asked)
    publish_later(spark, asked, [at(8, "u00", "i00")])

    def without_clock(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Any]:
        context.facts["has_clock"] = False
        return om.JOB.transform(context, tables)

    with pytest.raises(SettingsError, match="needs clock times") as caught:
        run_job(Job("offline_metrics", without_clock), spark, asked)
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_no_click_after_the_day_publishes_empty_tables(spark: SparkSession, copy_of_day) -> None:
    asked = copy_of_day()
    publish_later(spark, asked, [at(6, "u00", "i00"), at(9, "u00", "i01"), at(8, "stranger", "i00")])
    result = run_job(om.JOB, spark, replace(asked, truth_ds=LATER))
    assert dict(result.rows) == {"metrics_user": 0, "metrics": 0}
    counters = asked.store.manifest("metrics", asked.ds, asked.settings).counters
    assert (counters["users_with_truth"], counters["truth_users_unknown"], counters["truth_ds"]) == (0, 1, LATER)
