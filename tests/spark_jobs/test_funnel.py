"""The data funnel: what each stage kept and left out, of the day and of the days before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.command import Request
from conf.storage import Manifest, Store
from spark_jobs.funnel import funnel, recent_days


def manifest(table: str, rows: int, **counters: Any) -> Manifest:
    return Manifest(table, "job", "main", "2026-01-06", "r1", rows, "0:0", (), "0", counters=counters)


def test_the_funnel_tells_what_was_left_out_and_skips_what_is_not_known() -> None:
    manifests = {name: manifest(name, 10) for name in ("clicks", "events", "sessions", "cooc", "samples")}
    counters = {"raw_rows": 14, "rejected": {"no user": 1}, "dropped": {"after ds": 2}, "duplicates": 1, "inactive": 0}
    manifests["clicks"] = manifest("clicks", 10, **counters)
    steps = {step["label"]: step for step in funnel(manifests)}
    assert list(steps) == ["raw rows", "clicks", "events", "sessions"]  # no counters of pairs and samples
    assert steps["raw rows"]["notes"] == [{"what": "refused: no user", "rows": 1}, {"what": "left out: after ds", "rows": 2}]
    assert [note["rows"] for note in steps["clicks"]["notes"]] == [1]  # zeros are not shown


def test_the_funnel_goes_on_to_the_candidates() -> None:
    manifests = {
        "model": manifest("model", 0, train_rows=100, dropped_rows_per_epoch=4),
        "index": manifest("index", 9, index_items={"catalogue": 12, "indexed": 9, "not_eligible": 2, "nothing_known": 0, "blocked": 1}),
        "candidates": manifest("candidates", 90, candidates={"users": 9, "fallback_users": 3}),
    }
    steps = {step["label"]: (step["rows"], [note["rows"] for note in step["notes"]]) for step in funnel(manifests)}
    assert steps == {"rows of an epoch": (100, [4]), "items to recommend": (9, [2, 1]), "users with candidates": (9, [3])}


def test_the_days_before_stand_beside_the_day(copy_of_day: Callable[..., Request]) -> None:
    asked = copy_of_day()
    own = asked.store.manifests(("clicks", "samples", "candidates"), asked.ds, asked.settings)
    (today,) = recent_days(asked.store, asked.ds, own, num=7)
    assert today["rows"]["clicks"] == own["clicks"].rows
    assert today["rows"]["training samples"] == own["samples"].counters["train_samples"]
    assert today["rows"]["users served"] == own["candidates"].counters["users"]
    # as seen from a later day that has published clicks alone
    later, before = recent_days(asked.store, "2026-01-09", {"clicks": own["clicks"]}, num=7)
    assert (later["ds"], before) == ("2026-01-09", today)
    assert later["rows"]["users served"] is None
    assert recent_days(asked.store, "2026-01-09", {}, num=0) == [{"ds": "2026-01-09", "rows": dict.fromkeys(today["rows"])}]


def test_counters_of_a_day_are_found_as_the_jobs_write_them(tmp_path: Path) -> None:
    """ingest counts `clicks` beside its other numbers, candidates counts under its own name."""
    own = {
        "clicks": manifest("clicks", 7, clicks=7, duplicates=2, rejected={"no user": 1, "no item": 3}),
        "candidates": manifest("candidates", 90, candidates={"users": 9}),
    }
    (day,) = recent_days(Store(str(tmp_path), "main"), "2026-01-09", own, num=0)
    wanted = {"clicks": 7, "duplicates": 2, "users served": 9}
    assert {name: rows for name, rows in day["rows"].items() if name in wanted} == wanted
