"""The job on a published day: every published list against the slow twins, who was scored, and what is published where nothing is."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Request
from spark_jobs import baselines
from spark_jobs import offline_metrics as om
from spark_jobs.job import Context, Job, run_job
from spark_jobs.metrics import ACCURACY, VARIETY
from tests.spark_jobs.metrics.slow import gini_twin, twin, variety_twin
from tests.spark_jobs.published_day import candidates


def rows_of(spark: SparkSession, asked: Request, table: str) -> list[dict[str, Any]]:
    store = asked.store
    return [row.asDict() for row in spark.read.parquet(*store.files_of(store.manifest(table, asked.ds, asked.settings))).collect()]


def test_the_job_agrees_with_the_twin_on_every_published_list(spark: SparkSession, scored_day: Request) -> None:
    user_idx, item_idx = ({row["key"]: row["idx"] for row in rows_of(spark, scored_day, f"{side}_index")} for side in ("user", "item"))
    lists: dict[tuple[int, str], list[int]] = {}
    for row in rows_of(spark, scored_day, "channel_candidates"):
        lists[row["user_idx"], row["channel"]] = row["items"]
    for row in sorted(rows_of(spark, scored_day, "candidates"), key=lambda row: row["rank"]):
        lists.setdefault((user_idx[row["user_key"]], "merged"), []).append(item_idx[row["item_key"]])
    clicked: dict[int, list[int]] = {}
    clicks = dict.fromkeys(item_idx.values(), 0)
    for row in rows_of(spark, scored_day, "events"):
        if row["split"] == 2:
            clicked.setdefault(row["user_idx"], []).append(row["item_idx"])
        clicks[row["item_idx"]] += row["split"] == 0
    edge = sorted(count for count in clicks.values() if count)
    head = {item for item, count in clicks.items() if count >= np.quantile(edge, 0.95, method="higher")}
    category = {row["idx"]: row["category"] for row in rows_of(spark, scored_day, "item_feat") if row["category"] >= 4}

    per_user = rows_of(spark, scored_day, "metrics_user")
    channels = ["u2i", "i2i", "itemcf", "popular", "merged", "most_pop", "itemcf_cosine", "als"]
    units = {row["user_idx"] for row in per_user}
    assert len(units) == 25 < len(clicked)
    assert {(row["user_idx"], row["channel"], row["n"]) for row in per_user} == {
        (u, c, n) for u in units for c in channels for n in (3, 10)
    }
    for row in per_user:
        if row["channel"] in (*channels[:5],):
            own = lists.get((row["user_idx"], row["channel"]), [])
            want = twin(own, clicked[row["user_idx"]], row["n"])
            assert {name: row[name] for name in want} == pytest.approx(want, abs=1e-9)
            for name, value in variety_twin(own, row["n"], clicks=clicks, category=category, head=head).items():
                assert row[name] == (None if value is None else pytest.approx(value, abs=1e-9))

    eligible = {row["idx"] for row in rows_of(spark, scored_day, "item_feat") if row["eligible"]}
    found = [row for row in rows_of(spark, scored_day, "metrics") if row["slice"] == "all" and row["channel"] != "vectors"]
    for row in found:
        own = [r for r in per_user if (r["channel"], r["n"]) == (row["channel"], row["n"])]
        assert row["model"].split("(")[0] == (row["channel"] if row["channel"] in channels[5:] else "dssm-0123")
        if row["metric"] in (*ACCURACY, *VARIETY):
            values = [r[row["metric"]] for r in own if r[row["metric"]] is not None]
            assert (row["value"], row["n_users"]) == (pytest.approx(np.mean(values), abs=1e-9), len(values))
            assert row["ci_lo"] < row["value"] < row["ci_hi"] or row["ci_lo"] == row["value"] == row["ci_hi"]
        elif row["metric"] == "hit_cut":
            assert row["value"] == pytest.approx(sum(r["n_click_hit"] for r in own) / sum(r["n_click"] for r in own), abs=1e-9)
        elif row["metric"] == "hit_click":
            own = [r for r in own if r["n_asof"] is not None]
            assert row["channel"] == "u2i"
            assert row["value"] == pytest.approx(sum(r["n_asof_hit"] for r in own) / sum(r["n_asof"] for r in own), abs=1e-9)
            assert row["n_users"] == len(own) == sum(user % 4 > 0 for user in units)
        elif row["channel"] in channels[:5]:
            shown = [item for u in units for item in lists.get((u, row["channel"]), [])[: row["n"]]]
            times = [shown.count(item) for item in sorted(eligible)]
            want = sum(map(bool, times)) / len(times) if row["metric"] == "coverage" else gini_twin(times)
            assert row["value"] == pytest.approx(want, abs=1e-9)
    assert {row["metric"] for row in found} == {*ACCURACY, *VARIETY, "hit_cut", "hit_click", "coverage", "gini"}


def test_slices_are_of_their_users_or_of_their_items(spark: SparkSession, scored_day: Request) -> None:
    user_key = {row["idx"]: row["key"] for row in rows_of(spark, scored_day, "user_index")}
    about = {row["user_key"]: {"city": row["city"] or "(none)", "plan": row["plan"]} for row in rows_of(spark, scored_day, "users")}
    per_user = [row for row in rows_of(spark, scored_day, "metrics_user") if (row["channel"], row["n"]) == ("merged", 10)]
    want: dict[str, list[float]] = {}
    for row in per_user:
        for field, value in about[user_key[row["user_idx"]]].items():
            want.setdefault(f"{field}={value}", []).append(row["recall"])
    rows = [r for r in rows_of(spark, scored_day, "metrics") if (r["channel"], r["metric"], r["n"]) == ("merged", "recall", 10)]
    found = {row["slice"]: (row["value"], row["n_users"]) for row in rows}
    assert {name: found[name] for name in want} == {name: (pytest.approx(np.mean(v)), len(v)) for name, v in want.items()}
    assert len(want) == 3 + 2  # the model sees no plan
    assert "plan" not in rows_of(spark, scored_day, "user_feat")[0]
    parts = [found[f"item popularity={part}"] for part in ("head", "middle", "tail")]
    assert all(0 <= value <= 1 for value, _ in parts)
    assert sum(num for _, num in parts) > found["all"][1]  # a user has held-out items of several


def test_the_vectors_are_measured_once(spark: SparkSession, scored_day: Request) -> None:
    rows = [row for row in rows_of(spark, scored_day, "metrics") if row["channel"] == "vectors"]
    # the made-up model knows one direction only
    assert {(row["metric"], row["n"], row["slice"]): row["value"] for row in rows} == {
        (name, 0, "all"): pytest.approx(0, abs=1e-9) for name in ("ui_align", "uu_uniform", "ii_uniform")
    }


def test_the_job_counts_who_was_scored_and_how_als_was_chosen(scored_day: Request) -> None:
    counters = scored_day.store.manifest("metrics", scored_day.ds, scored_day.settings).counters
    assert counters["users_scored"] == 25 < counters["users_with_truth"]
    assert counters["users_with_list.i2i"] < counters["users_with_list.u2i"] == 25
    tried = counters["als_valid_recall"]
    assert set(tried) == {"als(rank=4,reg=0.05,alpha=1)", "als(rank=4,reg=0.05,alpha=10)"}
    assert counters["als_chosen"] == max(tried, key=tried.get)
    assert {name for name in counters if name.startswith("seconds.")} == {"seconds.most_pop", "seconds.itemcf_cosine", "seconds.als"}


def test_baselines_never_recommend_what_was_seen_or_is_not_eligible(spark: SparkSession, scored_day: Request) -> None:
    tables = {name: spark.read.parquet(*scored_day.store.files_of(scored_day.store.manifest(name, scored_day.ds, scored_day.settings)))
              for name in ("events", "user_state", "item_feat")}  # fmt: skip
    users, eligible = tables["user_state"], tables["item_feat"].where("eligible").select("idx")
    asked, counts = baselines.queries(users, users, seen="train_and_history", history=5), baselines.train_counts(tables["events"])
    factors = baselines.train_als(counts, rank=4, reg=0.05, alpha=1.0, iterations=2, seed=1)
    seen = {row["user_idx"]: set(row["items"]) for row in users.collect()}
    allowed = {row["idx"] for row in eligible.collect()}
    for made in (
        baselines.most_pop(counts, asked, eligible, num=10),
        baselines.itemcf(counts, asked, eligible, num=10),
        baselines.als_lists(factors, asked, eligible, num=10),
    ):
        for row in made.collect():
            assert len(row["items"]) == len(set(row["items"])) <= 10
            assert set(row["items"]) <= allowed - seen[row["user_idx"]]


def test_nothing_held_out_publishes_empty_tables_and_says_so(spark: SparkSession, copy_of_day: Callable[..., Request]) -> None:
    asked = copy_of_day()

    def all_train(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
        context.facts.update(made["events"].facts)
        events, states = (spark.read.parquet(*asked.store.files_of(made[name])) for name in ("events", "user_state"))
        return {"events": events.withColumn("split", F.lit(0).cast("tinyint")), "user_state": states}

    made = {name: asked.store.manifest(name, asked.ds, asked.settings) for name in ("events", "user_state")}
    run_job(Job("events", all_train), spark, replace(asked, force=True))
    result = run_job(om.JOB, spark, asked)
    assert dict(result.rows) == {"metrics_user": 0, "metrics": 0}
    manifest = asked.store.manifest("metrics", asked.ds, asked.settings)
    assert (manifest.counters["users_with_truth"], manifest.counters["users_scored"]) == (0, 0)


@pytest.mark.slow
def test_the_lists_layout_gives_the_same_numbers(spark: SparkSession, scored_day: Request, copy_of_day: Callable[..., Request]) -> None:
    asked = copy_of_day(merge={"layout": "lists"}, evaluation={"baselines": []})
    run_job(Job("candidates", candidates), spark, asked)
    run_job(om.JOB, spark, asked)

    def merged(day: Request) -> dict[tuple[str, int, str], float]:
        rows = rows_of(spark, day, "metrics")
        return {(row["metric"], row["n"], row["slice"]): pytest.approx(row["value"]) for row in rows if row["channel"] == "merged"}

    assert merged(asked) == merged(scored_day)
    assert {row["channel"] for row in rows_of(spark, asked, "metrics")} == {*("u2i", "i2i", "itemcf", "popular", "merged", "vectors")}
