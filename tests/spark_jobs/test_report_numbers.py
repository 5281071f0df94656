"""Each number on the page of the report equals its table cell, its counter or what its file holds."""

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from scipy import stats

from conf.command import Request
from spark_jobs import report, report_page
from spark_jobs import report_names as names
from tests.spark_jobs.report_files import Page, files_of, manifest_of, table, texts_of


def test_each_number_on_the_page_equals_its_table_cell(spark: SparkSession, reported: Request) -> None:
    html, content = files_of(reported)
    page = Page(html)
    rows = {(r["channel"], r["metric"], r["n"]): r for r in table(spark, reported, "metrics").where("slice = 'all'").collect()}
    shown = page.having("metric", "channel")
    for data, text in shown:
        cell = rows[data["channel"], data["metric"], int(data["n"])]
        assert float(data["value"]) == cell["value"]
        assert text == names.shown(cell["value"], data["metric"])
    assert {(d["channel"], d["metric"], int(d["n"])) for d, _ in shown} == set(rows)  # and no cell is left out
    for data, text in page.having("half"):
        cell = rows[data["half"], "recall", int(data["n"])]
        assert text == f"±{50 * (cell['ci_hi'] - cell['ci_lo']):.1f}"
    stands = {line["channel"]: line for line in content["standings"]}
    assert set(stands) == {"most_pop", "itemcf_cosine", "als"}
    recall = table(spark, reported, "metrics_user").where("n = 10").groupBy("user_idx").pivot("channel").agg(F.first("recall")).collect()
    for data, text in page.having("standing"):
        line = stands.pop(data["standing"])
        want = stats.ttest_rel([row["merged"] for row in recall], [row[line["channel"]] for row in recall])
        assert (line["users"], line["p"]) == (25, pytest.approx(want.pvalue, abs=1e-10))
        assert (float(data["value"]), text) == (line["diff"], names.points(line["diff"]))
        assert line["diff"] == pytest.approx(rows["merged", "recall", 10]["value"] - rows[line["channel"], "recall", 10]["value"])
    assert not stands  # and no line is left out
    for line in content["standings"]:
        told = {
            part: text for part in ("interval", "p") for data, text in page.having(f"standing-{part}") if line["channel"] in data.values()
        }
        assert told == {"interval": f"{names.points(line['lo'])} to {names.points(line['hi'])}", "p": names.p_value(line["p_corrected"])}
    for data, text in page.having("overlap"):
        a, b = (content["overlap"]["channels"].index(c) for c in data["overlap"].split("/"))
        assert (float(data["value"]), text) == (content["overlap"]["share"][a][b], names.percent(content["overlap"]["share"][a][b]))
    assert len(page.having("overlap")) == 4 * 3
    by_slice = {(r["channel"], r["slice"]): r for r in table(spark, reported, "metrics").where("metric = 'recall' and n = 10").collect()}
    for data, text in page.having("slice"):
        assert float(data["value"]) == by_slice[data["of"], data["slice"]]["value"]
        assert text == names.percent(float(data["value"]))
    assert {(d["of"], d["slice"]) for d, _ in page.having("slice")} == set(by_slice)
    bars = {d["slice-bar"]: (float(d["value"]), text) for d, text in page.having("slice-bar")}
    merged = {name: row["value"] for (channel, name), row in by_slice.items() if channel == "merged"}
    assert bars == {name: (value, names.percent(value)) for name, value in merged.items()}
    sizes = {name: names.count(row["n_users"]) for (channel, name), row in by_slice.items() if channel == "merged"}
    assert texts_of(page, "slice-users") == sizes
    with_list = manifest_of(reported, "metrics").counters
    assert texts_of(page, "with-list") == {c: names.count(with_list[f"users_with_list.{c}"]) for c in content["channels"]}
    assert texts_of(page, "count") == {"users_scored": "25", "users": names.count(content["users_served"]), "seconds": "13 s"}


def test_what_u2i_finds_of_the_oracles_part_is_the_quotient_of_their_cells(reported: Request) -> None:
    _, content = files_of(reported)
    ceiling = {**content["metrics"][0], "channel": "oracle", "metric": "recall", "n": 10, "slice": "all", "value": 0.8}
    cells = report_page.index_cells(metrics := [*content["metrics"], ceiling])
    page = Page(report_page.render(content | {"metrics": metrics, "verdict": report.verdict(cells, 10, users=40)}))
    share = cells["u2i", "recall", 10]["value"] / 0.8
    assert [(d["quotient"], float(d["value"]), text) for d, text in page.having("quotient")] == [
        ("u2i/oracle", share, names.percent(share))
    ]


def test_each_number_of_what_was_made_equals_its_counter(reported: Request) -> None:
    html, content = files_of(reported)
    page = Page(html)
    assert [(d["step"], int(d["value"])) for d, _ in page.having("step")] == [(s["label"], s["rows"]) for s in content["funnel"]]
    notes = [
        (step["label"], str(note["rows"]), f"{names.count(note['rows'])} {note['what']}")
        for step in content["funnel"]
        for note in step["notes"]
    ]
    assert [(d["note"], d["value"], text) for d, text in page.having("note")] == notes
    assert ("events", str(manifest_of(reported, "events").counters["test_events"])) in {note[:2] for note in notes}
    told = {(day["ds"], label): names.count(rows) for day in content["days"] for label, rows in day["rows"].items()}
    assert {(d["day"], d["label"]): text for d, text in page.having("day")} == (told if len(content["days"]) > 1 else {})
    assert [(d["training"], float(d["value"]), text) for d, text in page.having("training")] == [("best", 0.3, "30.0 %")]
    assert [(d["worker"], int(d["value"]), text) for d, text in page.having("worker")] == [("0", 300, "300"), ("1", 299, "299")]
    assert "299 trained on, 1 left out; 4 row groups read" in page.text
    assert {d["stage"]: text for d, text in page.having("stage")} == {"ingest": "12 s 2.0 GB", "train": "skipped"}


def test_each_number_of_the_retrieval_is_that_of_its_file(reported: Request) -> None:
    html, content = files_of(reported)
    page = Page(html)
    assert {d["index"]: (float(d["value"]), text) for d, text in page.having("index")} == {
        "items": (0.987, "98.7 %"),
        "users": (1.0, "100 %"),
    }
    assert texts_of(page, "index-vectors") == {"items": "26", "users": "38"}
    assert texts_of(page, "index-size") == {"items": "1.2 MB", "users": "1.2 MB"}
    assert texts_of(page, "index-built") == {"items": "0.0 s", "users": "0.0 s"}
    told = {"Flat": ("100 %", "1.2 MB", "4\u202f321"), "IVF8,Flat": ("93.0 %", "1.4 MB", "9\u202f876"), "HNSW32": ("–", "5.0 MB", "–")}
    for n, part in enumerate(("recall", "size", "speed")):
        wanted = {f"{title}/{kind}": values[n] for title in ("items", "users") for kind, values in told.items()}
        assert texts_of(page, f"tried-{part}") == wanted
    assert texts_of(page, "tried") == {f"{title}/{kind}": kind for title in ("items", "users") for kind in told}
    assert html.count("Recall against speed and memory") == 2
    added = content["contributions"]
    assert [(float(d["value"]), text) for d, text in page.having("together")] == [(added["together"], names.percent(added["together"]))]
    assert {d["adds"]: float(d["value"]) for d, _ in page.having("adds")} == {c["channel"]: c["alone"] for c in added["channels"]}
    for part, written in (("adds", "alone"), ("unique", "unique")):
        assert texts_of(page, part) == {c["channel"]: names.percent(c[written]) for c in added["channels"]}
    assert texts_of(page, "gain") == {c["channel"]: names.points(c["gain"]) for c in added["channels"]}
