"""The list of all days: what each report says first, damaged days beside sound ones."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.command import Request
from conf.errors import NotReadyError
from spark_jobs.cli import main
from spark_jobs.report_index import write_index
from spark_jobs.report_names import percent
from tests.faults.publishing import publish
from tests.spark_jobs.browser import faults_of, needs_browser

RECALL = {"channel": "merged", "metric": "recall", "n": 50, "slice": "all", "value": 0.25, "ci_lo": 0.2, "ci_hi": 0.3}
TOLD: dict[str, Any] = {"at": [20, 50], "users_served": 1200, "run": {"made_at": "2026-01-31T01:00:00+00:00"}}


def report_of(asked: Request, ds: str, content: dict[str, Any] | str) -> Path:
    """A published report of a day, its JSON by hand."""
    publish(asked.store, asked.settings, f"r-{ds}", "page", job="report", ds=ds)
    folder = Path(asked.store.run_folder("report", ds, f"r-{ds}"))
    (folder / "report.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "report.html").write_text("the page")
    return folder


def test_each_day_stands_with_its_numbers_and_leads_to_its_page(make_request: Callable[..., Request]) -> None:
    asked = make_request()
    other = {**RECALL, "n": 20, "value": 0.1}
    sliced = {**RECALL, "slice": "cold users", "value": 0.9}
    first = report_of(asked, "2026-01-30", TOLD | {"metrics": [other, sliced, RECALL]})
    report_of(asked, "2026-01-31", TOLD | {"metrics": []})  # nothing held out
    path = Path(write_index(asked))
    html = path.read_text()
    days = re.findall(r'<a href="([^"]*)">([^<]*)</a>', html)
    assert [day for _, day in days] == ["2026-01-31", "2026-01-30"]
    assert (path.parent / days[1][0]).resolve() == first.resolve() / "report.html"
    cells = re.findall(r'data-day="([^"]*)" data-metric="([^"]*)" data-value="([^"]*)">([^<]*)<', html)
    assert cells == [("2026-01-30", "recall", "0.25", percent(0.25))]
    assert "20.0 % to 30.0 %" in html
    assert "1\u202f200" in html


def test_a_damaged_day_hides_no_other(make_request: Callable[..., Request]) -> None:
    asked = make_request()
    report_of(asked, "2026-01-29", "{ half")
    (report_of(asked, "2026-01-30", TOLD) / "report.json").unlink()
    report_of(asked, "2026-01-31", TOLD | {"metrics": [RECALL]})
    html = Path(write_index(asked)).read_text()
    assert len(re.findall("<a href", html)) == 1
    assert "report.json is missing" in html
    assert html.count('<td colspan="7">') == 2


def test_without_a_report_it_says_what_to_run(make_request: Callable[..., Request]) -> None:
    asked = make_request()
    with pytest.raises(NotReadyError, match="trichannel run"):
        write_index(asked)


def test_the_verb_writes_it(make_request: Callable[..., Request], capsys: pytest.CaptureFixture[str]) -> None:
    asked = make_request()
    report_of(asked, "2026-01-31", TOLD | {"metrics": [RECALL]})
    root = asked.settings.storage.root
    assert main(["report", "--index", "--config", "demo", "--set", f"storage.root={root}"]) == 0
    assert capsys.readouterr().out == f"wrote {root}/_reports/main.html\n"


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_without_faults(make_request: Callable[..., Request], tmp_path: Path, dark: bool) -> None:
    asked = make_request()
    report_of(asked, "2026-01-30", "{ half")
    report_of(asked, "2026-01-31", TOLD | {"metrics": [RECALL]})
    assert faults_of(Path(write_index(asked)).read_text(), tmp_path, dark=dark) == []
