"""What was concluded: found wherever it lies, by day, told in its own words; a damaged file hides no other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.command import Request
from spark_jobs.conclusions import comparison_path, conclusions
from spark_jobs.report_index import write_index
from tests.faults.publishing import publish
from tests.spark_jobs.test_report_index import TOLD, report_of

COMPARED = {"a": {"name": "main/als"}, "b": {"name": "main/u2i"}, "verdict": ["B is better than A: all.", "recall@20: more."]}
TEST = {
    "arms": ["control", "new"],
    "start": "2026-01-20",
    "end": "2026-01-31",
    "verdict": {"headline": "new wins.", "reasons": ["ACC of new: more."], "doubts": []},
}
GRID = {"ds": "2026-01-31", "title": "MIC, table 2", "config": "shop", "words": ["Of 54 gains 3 are.", "Other words."]}
GRID |= {"cells": [{"state": "finished"}, {"state": "unfinished"}]}


def put(path: str | Path, content: object) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))
    return Path(path)


@pytest.fixture
def asked(make_request: Callable[..., Request]) -> Request:
    """A root with a comparison of two days, an A/B test and a grid."""
    asked = make_request()
    for ds in ("2026-01-30", "2026-01-31"):
        put(comparison_path(asked.store, ds, "main/als", "main/u2i"), COMPARED)
    publish(asked.store, asked.settings, "r1", "page", job="ab_test", ds="2026-01-31")
    put(f"{asked.store.run_folder('ab_report', '2026-01-31', 'r1')}/ab_test.json", TEST)
    put(f"{asked.store.base}/_grids/mic_table2/grid.json", GRID)
    return asked


def test_all_are_found_with_their_words_and_where_they_lie(asked: Request) -> None:
    found = conclusions(asked.store, ds="2026-01-31")
    assert [(one["kind"], one["title"], one["said"]) for one in found] == [
        ("comparison", "A main/als, B main/u2i", COMPARED["verdict"]),
        ("A/B test", "new against control, 2026-01-20 to 2026-01-31", ["new wins.", "ACC of new: more."]),
        ("grid", "MIC, table 2, on shop", ["1 of 2 runs finished.", "Of 54 gains 3 are."]),
    ]
    base = Path(asked.store.base)
    assert (base / found[0]["link"]).read_text() == json.dumps(COMPARED)
    assert [one["link"].rsplit("/", 1)[-1] for one in found[1:]] == ["ab_test.html", "grid.md"]
    assert [one["ds"] for one in conclusions(asked.store)] == ["2026-01-31"] * 3 + ["2026-01-30"]
    assert conclusions(asked.store, ds="2026-02-01") == []


def test_the_same_comparison_again_takes_the_place_of_the_first(asked: Request) -> None:
    one, again, other = (comparison_path(asked.store, "2026-01-31", a, b) for a, b in (("a", "b"), ("a", "b"), ("b", "a")))
    assert one == again != other


def test_a_damaged_file_says_so_and_hides_no_other(asked: Request) -> None:
    put(comparison_path(asked.store, "2026-01-31", "main/als", "main/u2i"), "{ half")
    (Path(asked.store.base) / "_grids/mic_table2/grid.json").unlink()
    comparison, test, *rest = conclusions(asked.store, ds="2026-01-31")
    assert "is not valid JSON" in comparison["said"][0]
    assert test["said"][0] == "new wins."
    assert rest == []  # without its numbers a grid has no day


def test_the_list_of_days_leads_to_them(asked: Request) -> None:
    report_of(asked, "2026-01-31", TOLD | {"metrics": []})
    page = Path(write_index(asked))
    html = page.read_text()
    assert html.count('data-concluded="') == 4
    assert "B is better than A: all." in html
    for one in conclusions(asked.store):
        assert f'href="../{one["link"]}"' in html
    links = [part.split('"')[0] for part in html.split('href="')[1:]]
    assert (page.parent / next(link for link in links if link.endswith(".json"))).resolve().exists()
