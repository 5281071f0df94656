"""The A/B job on simulated logs: equal to plain loops and to scipy, whatever the partitions and the file; valid or not, and who wins."""

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy import stats

from conf.command import Request
from conf.errors import BadDataError, GateError, NotReadyError, SchemaError, SettingsError
from conf.settings import Settings
from spark_jobs import ab_test, job
from spark_jobs.ab.exposures import USED, judge, open_exposures
from spark_jobs.ab.simulation import START, exposure_log
from spark_jobs.ab.users import caps_of, moments_of, users_of
from spark_jobs.job import run_job
from tests.spark_jobs.ab.slow_metrics import slow_metrics
from tests.spark_jobs.browser import faults_of, needs_browser
from tests.spark_jobs.published_day import request_for

END = "2026-03-09"


def settings(file: Path, **ab: object) -> Settings:
    kind = {".csv": "csv", ".json": "json"}.get(file.suffix, "parquet")
    return Settings.model_validate({"ab": {"path": str(file), "format": kind, "start": START, "pre_days": 6, "winsorise": 1} | ab})


def write(log: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        log.to_csv(path, index=False)
    elif path.suffix == ".json":
        log.to_json(path, orient="records", lines=True)
    else:
        log.to_parquet(path, index=False)
    return path


def run(spark: SparkSession, asked: Request) -> dict:
    """ab_test.json of a fresh run."""
    record = run_job(ab_test.JOB, spark, asked).record
    folder = asked.store.folder_of(asked.store.load_manifest("ab_report", record))
    return json.loads(Path(folder, "ab_test.json").read_text()) | {"html": Path(folder, "ab_test.html").read_text()}


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    """A log with all that a real one has: days outside, rows not shown, users in both arms."""
    rows = exposure_log(users=240, seed=1)
    rows.loc[rows.index[(rows.user_id == "u3") & (rows.day >= START)][::2], "arm"] = "treatment"
    rows.loc[rows.index[(rows.user_id == "u3") & (rows.day >= START)][1::2], "arm"] = "control"
    late = rows.head(5).assign(day="2026-03-10", click=1)
    return pd.concat([rows, late], ignore_index=True)


@pytest.fixture(scope="module")
def found(spark: SparkSession, tmp_path_factory, log) -> dict:
    root = tmp_path_factory.mktemp("ab")
    return run(spark, request_for(root, settings(write(log, root / "log.parquet")), ds=END))


def test_every_number_is_that_of_a_loop_over_the_rows_and_every_p_that_of_scipy(found, log) -> None:
    slow = slow_metrics(log, START, END)
    assert found["split"]["users"] == {arm: len(slow[arm]["acc"]) for arm in ("control", "treatment")}
    assert found["counters"]["users_in_several_arms"] == 1
    assert found["counters"]["rows"]["after the test"] == 5
    assert len(found["effects"]) == 11
    for line in found["effects"]:
        control, treatment = (slow[arm][line["metric"]] for arm in ("control", "treatment"))
        assert line["control"] == pytest.approx(np.mean(control), rel=1e-9), line["metric"]
        assert line["value"] == pytest.approx(np.mean(treatment), rel=1e-9), line["metric"]
        if isinstance(control, list):
            assert (line["users_control"], line["users"]) == (len(control), len(treatment))
            assert line["plain"]["p"] == pytest.approx(stats.ttest_ind(treatment, control, equal_var=False).pvalue, abs=1e-9)
    primary = [line["p"] for line in found["effects"] if line["primary"]]
    assert sorted(line["p_corrected"] for line in found["effects"] if line["primary"]) == pytest.approx(
        sorted([min(2 * min(primary), 1), min(max(2 * min(primary), max(primary)), 1)])
    )
    others = [line for line in found["effects"] if not line["primary"]]
    assert [line["p_corrected"] for line in others] == pytest.approx(list(stats.false_discovery_control([line["p"] for line in others])))


def test_curves_end_where_the_test_does(found, log) -> None:
    slow = slow_metrics(log, START, END)
    assert [line["day"] for line in found["curves"]] == 2 * list(range(8))
    for name in ("acc", "adt"):
        last = [line for line in found["curves"] if line["metric"] == name][-1]
        (line,) = [line for line in found["effects"] if line["metric"] == name]
        assert [last[part] for part in ("lift", "lo", "hi")] == pytest.approx([line["plain"][part] for part in ("lift", "lo", "hi")])
    first = next(line for line in found["curves"] if line["metric"] == "acc")
    day = log[(log.day == START) & (log.exposed > 0) & (log.arm == "control") & (log.user_id != "u3")]
    assert first["control"] == pytest.approx(day.click.sum() / day.user_id.nunique())
    assert len(slow["control"]["acc"]) > day.user_id.nunique()


def test_any_number_of_partitions_gives_the_same_moments(spark: SparkSession, tmp_path, log) -> None:
    chosen = settings(write(log, tmp_path / "log.parquet"), winsorise=0.98).ab
    rows = open_exposures(spark, chosen).repartition(64)
    window = ab_test.window_of(rows, chosen, pd.Timestamp(END).date())
    used = judge(rows, window, chosen.arms).where(F.col("fate") == USED)
    users = users_of(used, chosen, window, knows_clicks=True).where("not in_several").persist()
    caps = caps_of(users, 0.98)
    assert caps_of(users.repartition(64), 0.98) == caps
    one, many = (moments_of(users.repartition(num, "user"), 8, caps=caps) for num in (1, 12))
    totals = log[(log.day >= START) & (log.day <= END) & (log.exposed > 0) & (log.user_id != "u3")].groupby("user_id").play_s.sum()
    assert caps["play_s"] == pytest.approx(np.quantile(totals, 0.98, method="inverted_cdf"))
    assert one.keys() == many.keys() == {(arm, cold) for arm in ("control", "treatment") for cold in (False, True)}
    for key, moments in one.items():
        assert moments.num == many[key].num
        assert moments.mean == pytest.approx(many[key].mean, rel=1e-9)
        assert moments.ss == pytest.approx(many[key].ss, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_other_files_give_the_same_numbers(spark: SparkSession, make_request, tmp_path, log, found, suffix) -> None:
    other = run(spark, make_request(settings(write(log, tmp_path / f"log{suffix}")), ds=END, run_id="r2"))
    assert {name: other[name] for name in ("effects", "split", "verdict")} == {
        name: found[name] for name in ("effects", "split", "verdict")
    }


def test_a_planted_lift_wins_and_a_broken_split_ends_with_4(spark: SparkSession, make_request, tmp_path, capsys, monkeypatch) -> None:
    lifted, broken = exposure_log(users=6_000, lift=0.03, seed=2), exposure_log(users=1_500, lift=0.03, lost=0.35, seed=2)
    asked = make_request(settings(write(lifted, tmp_path / "lifted.parquet")), ds=END)
    said = run(spark, asked)
    assert said["verdict"]["winner"] == "treatment"
    (acc,) = [line for line in said["effects"] if line["metric"] == "acc"]
    assert 0 < acc["lo"] < 0.03 < acc["hi"]
    assert acc["foretold"] > 0.1  # activity before the test foretells activity in it
    monkeypatch.setattr(job, "running", lambda _: nullcontext(spark))
    broken_settings = settings(write(broken, tmp_path / "broken.parquet"))
    again = make_request(broken_settings, ds=END, run_id="r2")
    with pytest.raises(ab_test.BrokenSplitError, match="No winner: the split is broken") as raised:
        job.run_alone(ab_test.JOB, again)
    assert raised.value.exit_code == 4
    assert "the report is published, and says so; exit 4" in str(raised.value)
    assert again.store.read_status("r2")["exit_code"] == 4
    manifest = again.store.manifest("ab_report", END, again.settings)
    assert (manifest.run_id, manifest.counters["valid"], manifest.counters["winner"]) == ("r2", False, None)
    assert "ab_test.html" in capsys.readouterr().out
    with pytest.raises(ab_test.BrokenSplitError):  # up to date by now, and no better for that
        job.run_alone(ab_test.JOB, replace(again, run_id="r3"))
    assert "up to date ab_test" in capsys.readouterr().out


def test_what_the_log_lacks_is_left_out_with_its_reason(spark: SparkSession, make_request, tmp_path, log) -> None:
    file = write(log.drop(columns=["like", "stay_s"]), tmp_path / "log.parquet")
    null = {"columns": {"like": None, "stay_s": None}}
    said = run(spark, make_request(settings(file, start=None, **null), ds=END))
    assert said["left_out"].keys() == {"alr", "duration", "acc_c", "adt_c"}
    assert said["left_out"]["alr"] == "ab.columns.like is null"
    assert said["left_out"]["acc_c"].startswith("nothing says who was cold")
    assert (said["pre_days"], said["start"], said["num_days"]) == (0, "2026-02-24", 14)  # the whole log
    assert all(line["foretold"] == 0 for line in said["effects"])


def test_cold_is_who_registered_lately_or_hardly_ever_clicked(spark: SparkSession, make_request, tmp_path, log) -> None:
    number = log.user_id.str.slice(1).astype(int)
    joined = number.map(lambda n: ("2026-02-24", "2026-02-23", None)[n % 3])  # 6 days before the start, 7, not known
    file = write(log.assign(joined=joined), tmp_path / "log.parquet")
    said = run(spark, make_request(settings(file, columns={"registered": "joined"}), ds=END))
    (line,) = [line for line in said["effects"] if line["metric"] == "acc_c"]
    before = log[(log.exposed > 0) & (log.day < START)].groupby("user_id").click.sum()
    few = log.user_id.map(before).fillna(0) < 5
    shown = log[(log.exposed > 0) & (log.day >= START) & (log.day <= END) & (log.user_id != "u3") & ((number % 3 == 0) | few)]
    assert line["users_control"] + line["users"] == shown.user_id.nunique()


@pytest.mark.parametrize("pre_days", [0, 2])
def test_who_was_cold_is_told_by_all_clicks_before_however_few_days_cuped_takes(
    spark: SparkSession, make_request, tmp_path, log, found, pre_days
) -> None:
    said = run(spark, make_request(settings(write(log, tmp_path / "log.parquet"), pre_days=pre_days), ds=END))
    for name in ("acc_c", "adt_c"):
        (few,), (all_days,) = ([line for line in made["effects"] if line["metric"] == name] for made in (said, found))
        for part in ("users_control", "users", "control", "value"):
            assert few[part] == pytest.approx(all_days[part], rel=1e-9)
        assert (few["foretold"] == 0) == (pre_days == 0)
    first = {0: START, 2: "2026-02-28"}[pre_days]
    assert said["counters"]["rows"]["before ab.pre_days, for who was cold alone"] == ((log.exposed > 0) & (log.day < first)).sum()


@pytest.mark.parametrize("gone", ["days before", "clicks"])
def test_where_no_click_is_known_registration_alone_tells_who_was_cold(spark: SparkSession, make_request, tmp_path, log, gone) -> None:
    lately = log.assign(joined=np.where(log.user_id.str.slice(1).astype(int) % 3 == 0, "2026-02-24", "2026-02-23"))
    file = write(lately[lately.day >= START] if gone == "days before" else lately, tmp_path / "log.parquet")
    columns = {"registered": "joined"} | ({"click": None} if gone == "clicks" else {})
    said = run(spark, make_request(settings(file, columns=columns), ds=END))
    (line,) = [line for line in said["effects"] if line["metric"] == "adt_c"]
    shown = lately[(lately.exposed > 0) & lately.day.between(START, END) & (lately.joined == "2026-02-24") & (lately.user_id != "u3")]
    assert line["users_control"] + line["users"] == shown.user_id.nunique()
    unknown = run(spark, make_request(settings(file, columns=columns | {"registered": None}), ds=END, run_id="r2"))
    assert unknown["left_out"]["adt_c"].startswith("nothing says who was cold")


@pytest.mark.parametrize(
    ("changed", "ab", "error", "words"),
    [
        ({"click": "x"}, {}, GateError, r"max_reject_share is 5\.0%\n  \d+ rows: a number that cannot be read or is below 0"),
        ({"arm": "other"}, {}, GateError, "rows: no such arm"),
        ({"day": "2027-01-01"}, {}, BadDataError, "no exposure of the test   7669 rows: after the test"),
        ({"day": "2026-03-01"}, {}, BadDataError, "no exposure of the test   .* rows: used"),
        ({}, {"columns": {"click": "clicks", "user": "uid"}}, SchemaError, r"did you mean: ab\.columns\.click: click \?"),
        ({}, {"start": "2026-03-10"}, SettingsError, "2026-03-10 is after the last day 2026-03-09"),
        ({}, {"path": "/nowhere/log.csv"}, NotReadyError, "is not there"),
        ({}, {"path": None}, SettingsError, "ab.path names no exposure log"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(spark, make_request, tmp_path, log, changed, ab, error, words) -> None:
    file = write(log.assign(**changed), tmp_path / "log.csv")
    asked = make_request(settings(file, **ab), ds=END)
    with pytest.raises(error, match=words):
        run_job(ab_test.JOB, spark, asked)
    assert asked.store.current("ab_test", END) is None


def test_columns_of_other_types_are_refused_all_at_once_before_anything_is_read(spark, make_request, tmp_path, log) -> None:
    wrong = log.assign(click=[[1]] * len(log), day=20260303, arm=[{"a": 1}] * len(log))
    asked = make_request(settings(write(wrong, tmp_path / "log.parquet")), ds=END)
    with pytest.raises(SchemaError) as refused:
        run_job(ab_test.JOB, spark, asked)
    assert [fault.what for fault in refused.value.faults] == [
        "column 'day' is int64, want a day",
        "column 'arm' is struct<a:int64>, want one value",
        "column 'click' is array<int64>, want a number",
    ]


# ---- the page ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Attributes of every tag that has `data-...` ones, and the tags there are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data, self.tags = list[dict[str, str | None]](), set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if any(name.startswith("data-") for name, _ in attrs):
            self.data.append(dict(attrs))


def test_the_page_shows_the_numbers_of_the_document_and_needs_nothing(found) -> None:
    page = Page(found["html"])
    shown = {tag["data-lift"]: float(tag["data-value"] or "nan") for tag in page.data if "data-lift" in tag}
    assert shown == {f"treatment/{line['metric']}": line["lift"] for line in found["effects"]}
    (verdict,) = [tag for tag in page.data if "data-valid" in tag]
    assert (verdict["data-valid"], verdict["data-winner"]) == ("true", found["verdict"]["winner"] or "")
    assert found["html"].count('<svg class="chart"') == 4
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert len(found["html"]) < 200_000
    assert "http" not in re.sub(r"http-equiv", "", found["html"])


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_without_faults(found, tmp_path, dark) -> None:
    assert faults_of(found["html"], tmp_path, dark=dark) == []
