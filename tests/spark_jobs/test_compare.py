"""Two systems compared by the verb: users paired as a plain dict would, whatever the partitions, the numbering and the day."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from scipy import stats

from conf.errors import UsageError
from spark_jobs import cli
from spark_jobs.compare import METRICS, compare, count_users, paired, sums_of
from spark_jobs.conclusions import conclusions
from spark_jobs.paired import Sums
from spark_jobs.paired import compare as lines_of
from tests.spark_jobs.published_scores import publish_scores


def compared(spark, asked, a, b, tmp_path) -> dict:
    """What the verb writes."""
    out = tmp_path / "found" / "compared.json"
    assert compare(asked, a, b, out=str(out), started=lambda: nullcontext(spark)) == 0
    return json.loads(out.read_text())


def numbers(found: dict, *, metric: str = "recall", n: int = 2) -> dict:
    (line,) = [line for line in found["lines"] if (line["metric"], line["n"]) == (metric, n)]
    return line


def test_users_of_both_are_paired_and_all_others_counted(spark: SparkSession, make_request, tmp_path, capsys) -> None:
    asked = make_request()
    # of ada to dan, both know four; eve only A, fay only B; bob had three items to find under B and four under A
    a = {"ada": 0.0, "bob": 0.5, "cyd": 0.5, "dan": 1.0, "eve": 0.25}
    b = {"ada": 0.5, "bob": 0.5, "cyd": 1.0, "dan": 1.0, "fay": 0.75}
    keys = (*a, "fay")
    publish_scores(asked, "main", {("u2i", 2): a, ("u2i", 5): a, ("i2i", 2): b}, keys=keys)
    publish_scores(asked, "exp", {("u2i", 2): b, ("u2i", 9): b}, keys=keys, truth={"bob": 3})
    found = compared(spark, asked, "main/u2i", "exp/u2i", tmp_path)
    assert found["users"] == {"both": 4, "only_a": 1, "only_b": 1, "in_part": 0, "other_truth": 1}
    assert [(line["metric"], line["n"]) for line in found["lines"]] == [(metric, 2) for metric in (*METRICS, "hit_cut")]
    # as in tests of paired: d = .5, 0, .5, 0
    line = numbers(found)
    assert (line["mean_a"], line["mean_b"], line["diff"], line["gain"]) == (0.5, 0.75, 0.25, 0.5)
    assert line["p"] == pytest.approx(0.18169, abs=1e-5)
    assert numbers(found, metric="ndcg_std")["mean_b"] == 0.75 / 4
    assert numbers(found, metric="hr")["mean_a"] == 0.75
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        "A  main/u2i@2026-01-31   main run r1",
        "B  exp/u2i@2026-01-31   exp run r1",
        "users: 4 under both; left out: 1 only under A, 1 only under B",
    ]
    assert printed[-1].startswith("Beware: 1 of 4 users")
    assert printed[-2] == "Beware: 2 of 6 users are not in both: the answer is about the other 4 alone."
    (told,) = conclusions(asked.store, ds=asked.ds)  # for the report
    assert (told["title"], told["said"]) == ("A main/u2i@2026-01-31, B exp/u2i@2026-01-31", found["verdict"])
    assert asked.store.read_status("r1")["status"] == "ok"


def test_channels_of_a_real_day_agree_with_its_metrics_and_with_scipy(spark: SparkSession, copy_of_day, tmp_path) -> None:
    asked = copy_of_day()
    found = compared(spark, asked, "/popular", "/u2i", tmp_path)
    told = table(spark, asked, "metrics").query("slice == 'all'").to_dict("records")
    rows = {(r["channel"], r["metric"], r["n"]): r["value"] for r in told}
    users = table(spark, asked, "metrics_user")
    assert {line["metric"] for line in found["lines"]} == {*METRICS, "hit_cut"}  # popular is never asked as of a click
    for line in found["lines"]:
        assert line["mean_a"] == pytest.approx(rows["popular", line["metric"], line["n"]], abs=1e-9)
        assert line["mean_b"] == pytest.approx(rows["u2i", line["metric"], line["n"]], abs=1e-9)
        wide = users[users["n"] == line["n"]].pivot_table(
            index="user_idx", columns="channel", values=line["metric"] if line["metric"] in METRICS else "n_click_hit"
        )
        if line["metric"] in METRICS:
            assert line["p"] == pytest.approx(stats.ttest_rel(wide["u2i"], wide["popular"]).pvalue, abs=1e-9)
    assert found["users"]["both"] == users["user_idx"].nunique()


def table(spark: SparkSession, asked, name: str) -> pd.DataFrame:
    return spark.read.parquet(*asked.store.files_of(asked.store.manifest(name, asked.ds, asked.settings))).toPandas()


def test_several_trainings_are_averaged_by_user_and_tested_among_each_other(spark: SparkSession, make_request, tmp_path) -> None:
    asked = make_request()
    rng = np.random.default_rng(1)
    keys = [f"u{n}" for n in range(30)]
    trainings = {f"{side}-s{seed}": rng.random(30) + (side == "b") * 0.1 for side in "ab" for seed in (1, 2, 3)}
    for variant, values in trainings.items():
        users = dict(zip(keys, values, strict=True))
        if variant == "b-s2":
            del users["u7"]  # in part
        publish_scores(asked, variant, {("merged", 2): users}, keys=keys)
    found = compared(spark, asked, "a-s*", "b-s1,b-s2,b-s3", tmp_path)
    assert found["users"] == {"both": 29, "only_a": 0, "only_b": 0, "in_part": 1, "other_truth": 0}
    kept = [n for n in range(30) if n != 7]
    a, b = (np.stack([trainings[f"{side}-s{seed}"][kept] for seed in (1, 2, 3)]) for side in "ab")
    assert found["verdict"][-1].startswith("Beware: 1 of 30 users are not in both")
    line = numbers(found)
    assert line["p"] == pytest.approx(stats.ttest_rel(b.mean(axis=0), a.mean(axis=0)).pvalue, abs=1e-9)
    assert line["trainings"]["means_a"] == pytest.approx(a.mean(axis=1))
    assert line["trainings"]["p"] == pytest.approx(stats.ttest_ind(b.mean(axis=1), a.mean(axis=1), equal_var=False).pvalue, abs=1e-9)


def test_users_are_paired_by_key_where_their_numbers_differ(spark: SparkSession, make_request, tmp_path) -> None:
    asked = make_request()
    a, b = {"ada": 0.0, "bob": 0.5, "cyd": 0.25}, {"ada": 0.5, "bob": 0.75, "dan": 1.0}
    publish_scores(asked, "main", {("merged", 2): a}, keys=("ada", "bob", "cyd"))
    publish_scores(asked, "main", {("merged", 2): b}, keys=("dan", "bob", "ada"), ds="2026-02-01", run_id="r2")
    found = compared(spark, asked, "main", "@2026-02-01", tmp_path)
    assert found["users"] == {"both": 2, "only_a": 1, "only_b": 1, "in_part": 0, "other_truth": 0}
    assert (numbers(found)["mean_a"], numbers(found)["mean_b"]) == (0.25, 0.625)
    assert found["verdict"][-1] == (
        "Beware: 2 of 4 users are not in both: the answer is about the other 2 alone. The two number their users differently, so each has "
        "scored a sample of its own where it has more than evaluation.max_users: raise that above their number."
    )


@pytest.mark.parametrize("num", [3, 4])
def test_hits_are_compared_by_user_not_by_click(spark: SparkSession, make_request, tmp_path, num: int) -> None:
    asked = make_request()
    keys = ("ada", "bob", "cyd", "dan")[:num]
    # of 1, 9 and 2 clicks; dan was not asked as of the click, and has no hit as of the cut
    a, b = {"ada": (1, 1), "bob": (9, 3), "cyd": (2, 0)}, {"ada": (1, 1), "bob": (9, 6), "cyd": (2, 1)}
    publish_scores(asked, "a", {("u2i", 2): dict.fromkeys(keys, 0.5)}, clicks=a)
    publish_scores(asked, "b", {("u2i", 2): dict.fromkeys(keys, 0.5)}, clicks=b)
    found = compared(spark, asked, "a/u2i", "b/u2i", tmp_path)
    as_of_click, cut = (numbers(found, metric=name) for name in ("hit_click", "hit_cut"))
    assert (as_of_click["mean_a"], as_of_click["mean_b"]) == (pytest.approx(4 / 12), pytest.approx(8 / 12))
    assert cut["mean_b"] == pytest.approx(8 / (12 + 4 * (num - 3)))
    counts = np.array([[1, 9, 2, 0], [1, 3, 0, 0], [1, 6, 1, 0]])[:, :num]
    own = [(hits - hits.sum() / 12 * counts[0]) / counts[0].mean() + hits.sum() / 12 for hits in counts[1:]]
    assert as_of_click["p"] == pytest.approx(stats.ttest_rel(own[1], own[0]).pvalue)
    assert as_of_click["gain"] == pytest.approx(1)
    assert as_of_click["delta_lo"] < 1 < as_of_click["delta_hi"]


def test_any_number_of_partitions_gives_the_sums_of_a_plain_dict(spark: SparkSession) -> None:
    rng = np.random.default_rng(2)
    at, metrics = [5, 10], ["recall", "hr"]
    frames = []
    for _ in range(3):  # two trainings of A, one of B, each with 150 of 160 users
        users = rng.permutation(160)[:150]
        frames.append(pd.DataFrame([(u, n, rng.random(), rng.random(), 3) for u in users for n in (*at, 20)]))
    trainings = [spark.createDataFrame(frame, "user int, n int, recall double, hr double, n_truth int") for frame in frames]
    units = paired([training.repartition(64) for training in trainings], num_a=2, metrics=metrics, at=at).persist()
    both = units.where("in_a = 2 and in_b = 1")
    of_all = {"shape": (3, 2, 2), "num_a": 2, "seed": 7, "cells": lambda values: values}
    one, many = (sums_of(both.repartition(num, "unit"), **of_all) for num in (1, 12))
    found = [lines_of(sums, [(m, n) for m in metrics for n in at], 2) for sums in (one, many)]
    for line, other in zip(*found, strict=True):
        plain = [{name: value for name, value in part.items() if isinstance(value, float)} for part in (line, other)]
        assert plain[0] == pytest.approx(plain[1], rel=1e-9)
    by_user = [{(row[0], row[1]): row[2:4] for row in frame.itertuples(index=False)} for frame in frames]
    common = sorted(set.intersection(*({user for user, _ in rows} for rows in by_user)))
    values = np.array([[[rows[user, n][m] for m in range(2) for n in at] for rows in by_user] for user in common])
    whole = Sums.of(np.arange(len(common)), values, 2, seed=7, replicates=1)
    assert one.moments.num == len(common)
    assert one.trainings == pytest.approx(whole.trainings)
    assert one.moments.ss_d == pytest.approx(whole.moments.ss_d)
    everyone = [{user for user, _ in rows} for rows in by_user]
    only_a, only_b = (everyone[0] | everyone[1]) - everyone[2], everyone[2] - everyone[0] - everyone[1]
    counts = count_users(units, 2, 1)
    assert (counts["both"], counts["only_a"], counts["only_b"]) == (len(common), len(only_a), len(only_b))
    assert sum(counts.values()) == len(set.union(*everyone))


def test_what_cannot_be_compared_is_refused(spark: SparkSession, make_request, tmp_path) -> None:
    asked = make_request()
    publish_scores(asked, "main", {("merged", 2): {"ada": 0.5}})
    publish_scores(asked, "exp", {("merged", 2): {"bob": 0.5}, ("u2i", 9): {"ada": 0.5}})
    with pytest.raises(UsageError, match="no cut-off N is common to all runs   main/merged@2026-01-31: 2; exp/u2i@2026-01-31: 9"):
        compare(asked, "main", "exp/u2i")
    with pytest.raises(UsageError, match="no user is scored under both   1 only under A, 1 only under B"):
        compare(asked, "main", "exp", started=lambda: nullcontext(spark), out=str(tmp_path / "x.json"))
    assert not (tmp_path / "x.json").exists()


def test_a_dry_run_names_the_runs_and_the_command(make_request, capsys) -> None:
    asked = replace(make_request(), dry_run=True)
    for variant in ("main", "exp"):
        publish_scores(asked, variant, {("merged", 2): {"ada": 0.5}})
    assert compare(asked, "main", "exp", out="found.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["main/merged@2026-01-31: main run r1", "exp/merged@2026-01-31: exp run r1"]
    assert lines[2].startswith(
        "spark-submit --py-files dist/trichannel.zip spark_jobs/cli.py compare main exp --config test --ds 2026-01-31"
    )
    assert lines[2].endswith("--out found.json")


def test_the_command_reaches_it(tmp_path, capsys) -> None:
    assert cli.main(["compare", "main", "exp", "--set", f"storage.root={tmp_path}"]) == 2
    assert "no variant 'main' under" in capsys.readouterr().err
