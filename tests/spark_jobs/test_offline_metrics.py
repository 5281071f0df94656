"""Metrics against hand-worked rows and a slow numpy twin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import log2, sqrt
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Request
from spark_jobs import baselines
from spark_jobs import offline_metrics as om
from spark_jobs.job import Context, Job, run_job
from tests.spark_jobs.published_day import candidates

LISTS = "user_idx int, channel string, items array<int>"
UNITS = "user_idx int, truth array<int>"


def twin(items: Sequence[int], truth: Sequence[int], n: int) -> dict[str, float]:
    """Every metric of one list, written as the definitions read."""
    hits = [item in set(truth) for item in items[:n]]
    dcg = sum(1 / log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
    n_hit = sum(hits)
    ideal = [sum(1 / log2(rank + 1) for rank in range(1, k + 1)) for k in (n_hit, min(len(truth), n))]
    return {
        "recall": n_hit / len(truth),
        "ndcg_hit": dcg / ideal[0] if n_hit else 0.0,
        "ndcg_std": dcg / ideal[1],
        "hr": float(n_hit > 0),
        "n_truth": len(truth),
        "n_hit": n_hit,
    }


def scored(
    spark: SparkSession,
    lists: Mapping[tuple[int, str], Sequence[int]],
    truth: Mapping[int, Sequence[int]],
    channels: Sequence[str],
    at: Sequence[int],
) -> DataFrame:
    rows = spark.createDataFrame([(user, channel, list(items)) for (user, channel), items in lists.items()], LISTS)
    units = spark.createDataFrame([(user, list(items)) for user, items in truth.items()], UNITS)
    return om.score(rows, units, channels=channels, at=at)


def cells(df: DataFrame) -> dict[tuple[int, str, int], dict[str, float]]:
    rows = [row.asDict() for row in df.collect()]
    return {(row.pop("user_idx"), row.pop("channel"), row.pop("n")): row for row in rows}


def test_the_worked_example(spark: SparkSession) -> None:
    # P8.1: truth {a, b, c}; the list is x a y b
    found = cells(scored(spark, {(1, "u2i"): [9, 1, 8, 2]}, {1: [1, 2, 3]}, ["u2i"], [4]))[(1, "u2i", 4)]
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["ndcg_std"] == pytest.approx(0.4981893, abs=1e-7)
    assert found["ndcg_hit"] == pytest.approx(0.6509209, abs=1e-7)
    assert (found["hr"], found["n_truth"], found["n_hit"]) == (1.0, 3, 2)


def test_a_perfect_list_scores_one_and_a_missing_one_zero(spark: SparkSession) -> None:
    found = cells(scored(spark, {(1, "u2i"): [3, 1, 2]}, {1: [1, 2, 3], 2: [5]}, ["u2i"], [3]))
    assert {name: found[(1, "u2i", 3)][name] for name in om.MEANS} == dict.fromkeys(om.MEANS, 1.0)  # P8.2
    assert {name: found[(2, "u2i", 3)][name] for name in om.MEANS} == dict.fromkeys(om.MEANS, 0.0)  # no list: counted as empty


def test_spark_agrees_with_the_twin(spark: SparkSession) -> None:
    # P8.9, with P8.2's order and P8.3's single truth on the way
    rng = np.random.default_rng(0)
    at, channels = [1, 5, 20], ["a", "b"]
    truth = {user: rng.choice(60, rng.integers(1, 30), replace=False).tolist() for user in range(1, 41)}
    lists = {
        (user, c): rng.choice(60, rng.integers(0, 30), replace=False).tolist() for user in truth for c in channels if rng.random() < 0.9
    }
    found = cells(scored(spark, lists, truth, channels, at))
    assert set(found) == {(user, c, n) for user in truth for c in channels for n in at}
    for (user, c, n), row in found.items():
        assert row == pytest.approx(twin(lists.get((user, c), []), truth[user], n), abs=1e-9), (user, c, n)
        assert row["ndcg_std"] <= row["ndcg_hit"] + 1e-12
        if len(truth[user]) == 1:
            assert row["recall"] == row["hr"]
    for user, c in {(user, c) for user, c, _ in found}:
        for name in ("recall", "hr", "n_hit"):
            values = [found[(user, c, n)][name] for n in at]
            assert values == sorted(values)


def test_metrics_do_not_depend_on_labels_or_partitions(spark: SparkSession) -> None:
    lists, truth = {(1, "a"): [4, 2, 7], (2, "a"): [7, 1]}, {1: [2, 7], 2: [1]}
    moved = {user: [item + 100 for item in items] for user, items in truth.items()}
    one = cells(scored(spark, lists, truth, ["a"], [2]))
    other = scored(spark, {key: [item + 100 for item in items] for key, items in lists.items()}, moved, ["a"], [2])
    assert cells(other.repartition(7)) == one


def test_an_item_that_a_list_repeats_counts_once(spark: SparkSession) -> None:
    found = cells(scored(spark, {(1, "a"): [5, 5, 6]}, {1: [5, 6]}, ["a"], [2]))[(1, "a", 2)]
    assert (found["n_hit"], found["recall"]) == (2, 1.0)


def test_truth_is_distinct_and_the_sample_is_the_same_for_any_partitioning(spark: SparkSession) -> None:
    # user 1 clicked item 5 twice in test; item 6 was train
    rows = [(1, 5, 2), (1, 5, 2), (1, 4, 2), (1, 6, 0), *((user, 1, 2) for user in range(2, 30)), (99, 1, 1)]
    events = spark.createDataFrame(rows, "user_idx int, item_idx int, split tinyint")
    truth = om.held_out(events)
    assert {row["user_idx"]: row["truth"] for row in truth.collect()}[1] == [4, 5]
    assert 99 not in {row["user_idx"] for row in truth.collect()}  # nothing held out: not a unit
    few = {row["user_idx"] for row in om.sample_units(truth, max_users=7, seed=3).collect()}
    assert len(few) == 7
    assert few == {row["user_idx"] for row in om.sample_units(truth.repartition(13), max_users=7, seed=3).collect()}
    assert few != {row["user_idx"] for row in om.sample_units(truth, max_users=7, seed=4).collect()}
    assert few < {row["user_idx"] for row in om.sample_units(truth, max_users=9, seed=3).collect()}


def test_truth_that_nothing_could_find_is_counted(spark: SparkSession) -> None:
    units = spark.createDataFrame([(1, [4, 5]), (2, [5, 6, 7])], UNITS)
    # 4 and 5 were clicked in train (5 twice), 6 in valid only, 7 never; 6 and 4 are not eligible
    log = spark.createDataFrame([(1, 4, 0), (1, 5, 0), (2, 5, 0), (2, 6, 1)], "user_idx int, item_idx int, split tinyint")
    eligible = spark.createDataFrame([(5,), (7,)], "idx int")
    assert om.count_truth(units, log, eligible) == {"truth_items": 5, "truth_items_never_trained": 2, "truth_items_not_eligible": 2}


def test_means_carry_normal_intervals(spark: SparkSession) -> None:
    per_user = scored(spark, {(1, "a"): [1], (2, "a"): [9], (3, "a"): [3]}, {1: [1], 2: [2], 3: [3]}, ["a"], [1])
    row = om.means(per_user).where("metric = 'recall'").collect()[0]
    half = 1.959963984540054 * np.std([1, 0, 1], ddof=1) / sqrt(3)
    assert (row["value"], row["n_users"]) == (pytest.approx(2 / 3), 3)
    assert (row["ci_lo"], row["ci_hi"]) == (pytest.approx(2 / 3 - half), pytest.approx(2 / 3 + half))
    alone = om.means(per_user.where("user_idx = 1")).collect()[0]
    assert (alone["ci_lo"], alone["ci_hi"]) == (None, None)  # one user has no spread


def test_coverage_is_the_union_of_the_first_n(spark: SparkSession) -> None:
    lists = spark.createDataFrame([(1, "a", [1, 2, 3]), (2, "a", [2, 1, 4]), (1, "b", [])], LISTS)
    eligible = spark.createDataFrame([(i,) for i in range(1, 9)], "idx int")
    found = om.coverage(lists, eligible, channels=["a", "b"], at=[1, 2, 3], n_users=2).collect()
    values = {(row["channel"], row["n"]): row["value"] for row in found}
    # first one: {1, 2}; first two: the same two items; first three: {1, 2, 3, 4}; of 8
    assert values == {("a", 1): 2 / 8, ("a", 2): 2 / 8, ("a", 3): 4 / 8, ("b", 1): 0.0, ("b", 2): 0.0, ("b", 3): 0.0}
    assert {row["ci_lo"] for row in found} == {None}


def test_published_keys_lead_back_to_row_numbers_in_both_layouts(spark: SparkSession) -> None:
    index = "idx int, key string"
    users = spark.createDataFrame([(1, "700"), (2, "800"), (3, "900")], index)
    items = spark.createDataFrame([(1, "x"), (2, "y"), (3, "z")], index)
    units = spark.createDataFrame([(1, [9]), (3, [9])], UNITS)
    # user 800 is not a unit; ranks come in any order; user keys were numbers at the source
    rows = spark.createDataFrame([(700, 2, "x"), (700, 1, "z"), (800, 1, "x"), (900, 1, "y")], "user_key long, rank int, item_key string")
    lists = spark.createDataFrame([(700, ["z", "x"]), (800, ["x"]), (900, ["y"])], "user_key long, item_keys array<string>")
    for published in (rows, lists):
        found = om.merged_lists(published, units, users, items).collect()
        assert {row["user_idx"]: row["items"] for row in found} == {1: [3, 1], 3: [2]}


# ---- the job, on a published day ------------------------------------------------------------------------------------


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
    truth: dict[int, set[int]] = {}
    for row in rows_of(spark, scored_day, "events"):
        if row["split"] == 2:
            truth.setdefault(row["user_idx"], set()).add(row["item_idx"])

    per_user = rows_of(spark, scored_day, "metrics_user")
    channels = ["u2i", "i2i", "itemcf", "popular", "merged", "most_pop", "itemcf_cosine", "als"]
    units = {row["user_idx"] for row in per_user}
    assert len(units) == 25 < len(truth)
    assert {(row["user_idx"], row["channel"], row["n"]) for row in per_user} == {
        (u, c, n) for u in units for c in channels for n in (3, 10)
    }
    for row in per_user:
        if row["channel"] in (*channels[:5],):
            want = twin(lists.get((row["user_idx"], row["channel"]), []), sorted(truth[row["user_idx"]]), row["n"])
            assert {name: row[name] for name in want} == pytest.approx(want, abs=1e-9)

    eligible = {row["idx"] for row in rows_of(spark, scored_day, "item_feat") if row["eligible"]}
    for row in rows_of(spark, scored_day, "metrics"):
        own = [r for r in per_user if (r["channel"], r["n"]) == (row["channel"], row["n"])]
        if row["metric"] != "coverage":
            assert row["value"] == pytest.approx(np.mean([r[row["metric"]] for r in own]), abs=1e-9)
            assert row["ci_lo"] < row["value"] < row["ci_hi"] or row["ci_lo"] == row["value"] == row["ci_hi"]
        elif row["channel"] in channels[:5]:
            union = set().union(*(lists.get((u, row["channel"]), [])[: row["n"]] for u in units))
            assert row["value"] == len(union) / len(eligible)
        assert row["n_users"] == 25
        assert row["model"].split("(")[0] == (row["channel"] if row["channel"] in channels[5:] else "dssm-0123")


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

    def merged(day: Request) -> dict[tuple[str, int], float]:
        rows = rows_of(spark, day, "metrics")
        return {(row["metric"], row["n"]): pytest.approx(row["value"]) for row in rows if row["channel"] == "merged"}

    assert merged(asked) == merged(scored_day)
    assert {row["channel"] for row in rows_of(spark, asked, "metrics")} == {"u2i", "i2i", "itemcf", "popular", "merged"}
