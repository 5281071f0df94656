"""What was concluded: found wherever it lies, by day, told in its own words; a damaged file hides no other."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conf.command import Request
from spark_jobs.conclusions import comparison_path, conclusions, grid_folder
from spark_jobs.grid_table import lines_of
from spark_jobs.grids import GRIDS, Column
from spark_jobs.report_index import write_index
from tests.faults.publishing import publish
from tests.spark_jobs.browser import faults_of, needs_browser
from tests.spark_jobs.test_report_index import TOLD, report_of

COMPARED = {"a": {"name": "main/als"}, "b": {"name": "main/u2i"}, "verdict": ["B is better than A: all.", "recall@20: more."]}
TEST = {
    "arms": ["control", "new"],
    "start": "2026-01-20",
    "end": "2026-01-31",
    "verdict": {"headline": "new wins.", "reasons": ["ACC of new: more."], "doubts": []},
}
SMALL = replace(
    GRIDS["mic_table2"],
    cells=(GRIDS["mic_table2"].cell("dssm"), GRIDS["mic_table2"].cell("dssm-mic")),
    columns=tuple(Column(f"{label}@{n}", metric, n) for label, metric in (("Recall", "recall"), ("HR", "hr")) for n in (20, 50)),
)


@dataclass
class Made:
    """Numbers of one run: of u2i with users, of the other channels without."""

    rng: np.random.Generator
    num_users: int = 50
    values: Mapping[tuple[str, str, int], float] = field(default_factory=dict)

    def of(self, channel: str, column: Column) -> float:
        return float(self.rng.uniform(0.1, 0.2))

    def by_user(self, channel: str, column: Column) -> npt.NDArray[np.float64] | None:
        return self.rng.random(50) if channel == "u2i" else None


def grid_json(ds: str, seeds: Sequence[int] = (1, 2, 3)) -> dict[str, Any]:
    """As `grid` writes it of a table whose numbers are random."""
    rng = np.random.default_rng(7)
    found = {(cell.name, seed): Made(rng) for cell in SMALL.cells for seed in seeds}
    lines = lines_of(SMALL, found, seeds, {}, None)
    return {
        "grid": "mic_table2", "title": SMALL.title, "config": "shop", "ds": ds, "words": ["Of 12 gains 3 are.", "Other words."],
        "scale": SMALL.scale, "digits": SMALL.digits, "channels": dict(SMALL.channels), "columns": [asdict(c) for c in SMALL.columns],
        "cells": [{"state": "finished"}, {"state": "unfinished"}], "lines": [asdict(line) for line in lines],
    }  # fmt: skip


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
    put(f"{grid_folder(asked.store, '2026-01-31', 'shop', 'mic_table2')}/grid.json", grid_json("2026-01-31"))
    return asked


def test_all_are_found_with_their_words_and_where_they_lie(asked: Request) -> None:
    found = conclusions(asked.store, ds="2026-01-31")
    assert [(one["kind"], one["title"], one["said"]) for one in found] == [
        ("comparison", "A main/als, B main/u2i", COMPARED["verdict"]),
        ("A/B test", "new against control, 2026-01-20 to 2026-01-31", ["new wins.", "ACC of new: more."]),
        ("grid", "MIC, table 2, on shop", ["1 of 2 runs finished.", "Of 12 gains 3 are."]),
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
    put(f"{grid_folder(asked.store, '2026-01-31', 'shop', 'mic_table2')}/grid.json", "{ half")
    comparison, test, grid = conclusions(asked.store, ds="2026-01-31")
    assert "is not valid JSON" in comparison["said"][0]
    assert test["said"][0] == "new wins."
    assert "is not valid JSON" in grid["said"][0]


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


def test_grids_of_two_days_and_configurations_stand_side_by_side(asked: Request) -> None:
    for ds, config in (("2026-01-31", "other"), ("2026-01-30", "shop")):
        put(f"{grid_folder(asked.store, ds, config, 'mic_table2')}/grid.json", grid_json(ds) | {"config": config})
    put(f"{asked.store.base}/_grids/mic_table2/grid.json", {"made": "by an older version"})
    found = [(one["ds"], one["title"]) for one in conclusions(asked.store) if one["kind"] == "grid"]
    assert found == [
        ("2026-01-31", "MIC, table 2, on other"),
        ("2026-01-31", "MIC, table 2, on shop"),
        ("2026-01-30", "MIC, table 2, on shop"),
    ]


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_every_number_of_a_grid_is_that_of_its_cell(asked: Request, seeds: Sequence[int]) -> None:
    told = grid_json("2026-01-31", seeds)
    put(f"{grid_folder(asked.store, '2026-01-31', 'shop', 'mic_table2')}/grid.json", told)
    report_of(asked, "2026-01-31", TOLD | {"metrics": []})
    html = Path(write_index(asked)).read_text()
    cells = {
        (tags["grid"], tags["column"]): (tags, re.sub(r"<[^>]*>", "", text))
        for attributes, text in re.findall(r"<td (data-grid=[^>]*)>(.*?)</td>", html)
        if (tags := dict(re.findall(r'data-(\w+)="([^"]*)"', attributes)))
    }
    assert len(cells) == len(told["lines"]) * len(SMALL.columns)
    for line in told["lines"]:
        for n, column in enumerate(SMALL.columns):
            tags, text = cells[f"mic_table2/{SMALL.channels[line['channel']]}/{line['label']}", column.label]
            one = line["numbers"][n]
            assert float(tags["value"]) == one["mean"]
            assert text.startswith(f"{100 * one['mean']:.3f}")
            assert ("±" in text) == (len(seeds) > 1)
            gain = line["gains"][n] if line["gains"] else None
            assert tags.get("gain") == (None if gain is None else str(gain["percent"]))
            assert tags.get("low") == (None if gain is None or gain["low"] is None else str(gain["low"]))
            if gain is not None and gain["low"] is not None:
                assert text.endswith(f"{gain['percent']:+.1f} % {gain['low']:+.1f} to {gain['high']:+.1f}")
    bold = sum(gain["p_holm"] is not None and gain["p_holm"] < 0.05 for line in told["lines"] for gain in line["gains"])
    assert html.count('<b class="num">') == bold


@needs_browser
def test_a_grid_scrolls_by_itself_and_not_the_page(asked: Request, tmp_path: Path) -> None:
    report_of(asked, "2026-01-31", TOLD | {"metrics": []})
    html = Path(write_index(asked)).read_text()
    assert faults_of(html, tmp_path, dark=True) == []
    assert faults_of(html.replace("@media print", "@media all"), tmp_path, dark=False, widths=[700], smallest_px=9) == []
