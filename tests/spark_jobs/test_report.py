"""The report: what it says in words and holds as JSON, whatever is missing; and the page stands alone."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.command import Request
from spark_jobs import report, report_page, semantics
from spark_jobs import report_names as names
from spark_jobs.job import run_job
from spark_jobs.showcase import overlap
from spark_jobs.training_curves import MAX_POINTS, training
from tests.spark_jobs.browser import faults_of, needs_browser
from tests.spark_jobs.published_day import HOSTILE, training_log
from tests.spark_jobs.report_files import Page, files_of, table

# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(0.28149, "28.1 %"), (1.0, "100 %"), (0.0, "0 %"), (0.00781, "0.78 %"), (0.0000123, "0.0012 %"), (None, "–")]
)
def test_shares_read_as_percent(value: float | None, text: str) -> None:
    assert names.percent(value) == text


def test_counts_and_durations_read_well() -> None:
    assert [names.count(n) for n in (0, 999, 1234567, None)] == ["0", "999", "1\u202f234\u202f567", "–"]
    assert [names.duration(s) for s in (0.84, 9.96, 42.4, 185, None)] == ["0.8 s", "10.0 s", "42 s", "3 min 05 s", "–"]


def cells_of(values: dict[str, float], half: float = 0.01) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(c, "recall", 50): {"value": v, "ci_lo": v - half, "ci_hi": v + half} for c, v in values.items()}


def said(verdict: dict[str, list[Any]]) -> str:
    """The verdict as text, references as [channel] or [channel/of]."""

    def part(p: Any) -> str:
        return p if isinstance(p, str) else f"[{p['channel']}/{p['of']}]" if "of" in p else f"[{p['channel']}]"

    return " | ".join("".join(map(part, line)) for line in [verdict["headline"], *verdict["lines"]])


def stand(channel: str, diff: float, p: float | None) -> dict[str, Any]:
    return {"channel": channel, "users": 7, "diff": diff, "lo": None, "hi": None, "p": p, "p_corrected": p}


@pytest.mark.parametrize(
    ("most_pop", "als", "words"),
    [
        ((0.2, 0.01), (0.001, 0.01), " The merged list beats them all."),  # however near: the same users found more
        ((0.2, 0.01), (0.1, 0.06), " The merged list and ALS are level: no difference beyond chance."),
        ((0.2, 0.06), (-0.1, 0.06), " The merged list, MostPop and ALS are level: no difference beyond chance."),
        ((-0.2, 0.01), (-0.1, 0.01), " MostPop is better than the merged list."),
        ((0.2, 0.06), (-0.1, 0.01), " ALS is better than the merged list."),
        ((0.2, None), (0.1, None), ""),  # a single user
    ],
)
def test_the_verdict_is_honest_about_baselines(most_pop: tuple[float, float | None], als: tuple[float, float | None], words: str) -> None:
    cells = cells_of({"merged": 0.3, "u2i": 0.25, "most_pop": 0.1, "als": 0.3, "oracle": 0.35})
    assert said(report.verdict(cells, 50, users=7, stands=[stand("most_pop", *most_pop), stand("als", *als)])) == (
        "In 50 candidates, the merged list finds [merged] of a user's held-out clicks."
        " | U2I alone finds [u2i]: [u2i/oracle] of what an oracle that knows the tastes could."
        f" | For comparison: MostPop [most_pop], ALS [als].{words}"
    )


def test_the_verdict_without_oracle_baselines_or_metrics() -> None:
    assert said(report.verdict(cells_of({"merged": 0.3, "u2i": 0.25}), 50, users=7)).endswith(" | U2I alone finds [u2i].")
    assert said(report.verdict({}, 50, users=1200)).startswith("Candidates for 1\u202f200 users are published; no click was held out")


def test_slices_stand_in_an_order_that_reads_well() -> None:
    wanted = ["all", "user activity=0-9", "user activity=10-99", "user activity=100+", "cold users", "city=Oslo", "city=Ulm"]
    wanted += ["item popularity=head", "item popularity=middle", "item popularity=tail", "cold items"]
    assert sorted(sorted(wanted), key=report_page.slice_order) == wanted


def test_training_curves_come_from_the_lines_of_the_trainer() -> None:
    found = training(training_log())
    assert [curve["label"] for curve in found["losses"]] == ["loss", "mic.uv"]
    assert found["losses"][0]["points"] == [[50, 2.5], [100, 2.0], [120, 1.75]]
    assert found["valid"] == [{"label": "recall@50", "points": [[1, 0.2], [2, 0.3], [3, 0.3]], "best": 2}]  # the first of equals
    assert (found["metric"], found["epochs"], found["best_epoch"], found["best"]) == ("recall@50", 3, 2, 0.3)
    long = [{"kind": "step", "epoch": 0, "step": n, "loss": 1.0} for n in range(1, 1001)]
    points = training(long)["losses"][0]["points"]
    assert len(points) <= MAX_POINTS + 1
    assert points[-1][0] == 1000
    assert training([])["losses"] == training([])["valid"] == []


def test_how_even_users_and_items_lie_is_told_with_the_recall_of_the_epoch() -> None:
    found = training(training_log())["balance"]
    assert found["uu_uniform"] == [[0.5, -2.0, 0.2], [0.5, -3.0, 0.3], [0.5, -4.0, 0.3]]
    assert found["ii_uniform"] == [[0.5, -1.0, 0.2], [0.5, -2.0, 0.3], [0.5, -3.0, 0.3]]
    unwatched = [{"kind": "step", "epoch": 0, "step": n, "loss": 1.0} for n in range(9)]
    assert training(unwatched)["balance"] == {"uu_uniform": [], "ii_uniform": []}


def test_overlap_is_the_share_of_the_rows_items(spark: SparkSession) -> None:
    state = spark.createDataFrame([(1, [9]), (2, [9]), (3, [])], "user_idx int, items array<int>")
    rows = [(1, "a", [1, 2, 3]), (1, "b", [2, 4]), (2, "a", [5, 6]), (3, "a", [1]), (3, "b", [1])]
    lists = spark.createDataFrame(rows, "user_idx int, channel string, items array<int>")
    found = overlap(lists, state, channels=["a", "b", "c"], n=2, max_users=10)
    assert found["users"] == 2  # user 3 has no history
    # first two of a: {1, 2}, {5, 6}; of b: {2, 4}; c has nothing
    assert found["share"] == [[1, 1 / 4, 0], [1 / 2, 1, 0], [None, None, None]]


# ---- the job, on a published day -------------------------------------------------------------------------------------


def test_the_json_holds_what_the_tables_hold(spark: SparkSession, reported: Request) -> None:
    _, content = files_of(reported)
    rows = [row.asDict() for row in table(spark, reported, "metrics").collect()]
    assert sorted(map(str, content["metrics"])) == sorted(map(str, rows))
    assert content["channels"] == ["merged", "u2i", "i2i", "itemcf", "popular", "most_pop", "itemcf_cosine", "als"]
    assert content["scored"]["users"] == 25
    samples = table(spark, reported, "samples").groupBy("split").count().collect()
    steps = {step["label"]: step["rows"] for step in content["funnel"]}
    assert {row["split"]: row["count"] for row in samples} == {0: steps["training samples"], 1: steps["validation samples"]}
    assert steps["sessions"] == table(spark, reported, "sessions").count()


def test_what_channels_add_is_of_the_held_out_clicks_of_the_day(reported: Request) -> None:
    _, content = files_of(reported)
    found = {c["channel"]: c for c in content["contributions"]["channels"]}
    assert set(found) == {"u2i", "i2i", "itemcf", "popular"}
    assert content["contributions"]["users"] >= content["scored"]["users"]  # all of them, where few are scored
    assert all(0 < c["alone"] < 1 and 0 <= c["unique"] <= 1 for c in found.values())


def test_users_are_shown_with_titles_channels_and_what_they_clicked_later(spark: SparkSession, reported: Request) -> None:
    _, content = files_of(reported)
    assert len(content["users"]) == 3
    titles = {row["item_key"]: row["title"] for row in table(spark, reported, "items").collect()}
    user_idx, item_idx = ({r["key"]: r["idx"] for r in table(spark, reported, f"{side}_index").collect()} for side in ("user", "item"))
    test = {(r["user_idx"], r["item_idx"]) for r in table(spark, reported, "events").where("split = 2").collect()}
    states = {row["user_idx"]: row["items"] for row in table(spark, reported, "user_state").collect()}
    for user in content["users"]:
        idx = user_idx[user["key"]]
        assert [item_idx[item["key"]] for item in user["history"]] == states[idx][::-1][:8]  # newest first
        want = table(spark, reported, "candidates").where(F.col("user_key") == user["key"]).orderBy("rank").limit(10).collect()
        assert [item["key"] for item in user["candidates"]] == [row["item_key"] for row in want]
        for item, row in zip(user["candidates"], want, strict=True):
            assert item["title"] == titles[item["key"]]
            assert item["sources"] == [{"channel": s["channel"], "rank": s["rank"]} for s in row["sources"]]
            assert item["clicked"] == ((idx, item_idx[item["key"]]) in test)
        assert user["num_held_out"] == len({i for u, i in test if u == idx}) > 0


def test_the_page_stands_alone_and_hostile_titles_stay_text(reported: Request) -> None:
    html, content = files_of(reported)
    page = Page(html)
    assert len(html) < 3_000_000
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href") or a.startswith("on")]
    assert not re.search(r"@import|url\(", html)
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    shown = [item["title"] for user in content["users"] for item in (*user["history"], *user["candidates"])]
    assert HOSTILE in shown
    assert HOSTILE in page.text


@pytest.mark.slow
def test_how_items_were_compared_is_told(spark: SparkSession, copy_of_day: Callable[..., Request]) -> None:
    asked = copy_of_day(semantics={"kind": "tfidf"})
    for job in (semantics.JOB, report.JOB):
        run_job(job, spark, asked)
    _, content = files_of(asked)
    assert content["facts"]["Semantic neighbours"] == "tfidf of title"
    made = asked.store.manifest("sem_nn", asked.ds, asked.settings)
    (step,) = (step for step in content["funnel"] if step["label"] == "items with semantic neighbours")
    assert step["rows"] == made.counters["items_with_neighbours"] > 0


@pytest.mark.slow
def test_two_runs_of_equal_tables_have_one_identity(spark: SparkSession, reported: Request, copy_of_day: Callable[..., Request]) -> None:
    asked = replace(copy_of_day(run_id="r2"), force=True)
    again = run_job(report.JOB, spark, asked).record.tables["report"]
    assert again == reported.store.manifest("report", reported.ds, reported.settings).content_hash
    assert files_of(asked)[1]["stages"] == []  # run alone: there is no pipeline to time
    fewer = replace(copy_of_day(run_id="r3", report={"sample_users": 1}), force=True)
    assert run_job(report.JOB, spark, fewer).record.tables["report"] != again


def test_without_metrics_the_page_says_so_and_shows_the_rest(reported: Request) -> None:
    _, content = files_of(reported)
    nothing = {
        "metrics": [],
        "channels": [],
        "standings": [],
        "verdict": report.verdict({}, 10, users=40),
        "scored": {**content["scored"], "users": 0},
    }
    bare = {"training": training([]), "stages": [], "users": []}
    for changed in (nothing, nothing | bare):
        page = Page(report_page.render(content | changed))
        assert page.having("metric") == []
        assert "no click was held out" in page.text
        assert len(page.having("step")) == len(content["funnel"])
        assert ("A few users" in page.text) == ("users" not in changed)


# ---- in a browser ----------------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_without_faults(reported: Request, tmp_path: Path, dark: bool) -> None:
    assert faults_of(files_of(reported)[0], tmp_path, dark=dark) == []


@needs_browser
def test_a_sheet_of_paper_holds_it(reported: Request, tmp_path: Path) -> None:
    printed = files_of(reported)[0].replace("@media print", "@media all")
    assert faults_of(printed, tmp_path, dark=False, widths=[700], smallest_px=9) == []  # A4 between its margins
