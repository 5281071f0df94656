"""Input drift: measured each day, compared with the last days of the same settings, refused with range and setting named."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import GateError
from conf.sections.evaluation import Drift
from conf.settings import Settings
from spark_jobs import ingest
from spark_jobs.drift import strayed, undecided
from spark_jobs.job import run_job

MIDNIGHT = 1_769_817_600  # 2026-01-31T00:00:00Z
DAY = 86_400
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def day_of(spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path) -> Run:
    """day_of("2026-01-28", ["u1 a", "u1 b", ...]) -> counters of the published day: each pair one click, each day its own log file.

    colours: the catalogue, item -> colour, "" = unknown.
    """

    def run(ds: str, pairs: Sequence[str], colours: dict[str, str] | None = None, gates: Any = None, **given: Any) -> dict[str, Any]:
        noon = MIDNIGHT + (int(ds[-2:]) - 31) * DAY + DAY // 2
        lines = [f"{pair.replace(' ', ',')},{noon + n}\n" for n, pair in enumerate(pairs)]
        (tmp_path / f"{ds}.csv").write_text("user_key,item_key,ts\n" + "".join(lines))
        source = {"kind": "generic", "path": str(tmp_path / f"{ds}.csv"), "train_days": 1, **given}
        if colours is not None:
            (tmp_path / f"{ds}-items.csv").write_text("key,colour\n" + "".join(f"{item},{c}\n" for item, c in colours.items()))
            source |= {"items": {"path": str(tmp_path / f"{ds}-items.csv")}, "fields": {"item": {"colour": "single"}}}
        asked = make_request(Settings.model_validate({"source": source, "gates": {"drift": gates or {}}}), ds=ds, force=True)
        run_job(ingest.JOB, spark, asked)
        return dict(asked.store.manifest("clicks", ds, asked.settings).counters)

    return run


def clicks(users: int, each: int, items: str = "abcdef") -> list[str]:
    return [f"u{user} {items[n % len(items)]}" for user in range(users) for n in range(each)]


@pytest.mark.slow
def test_measures_of_a_day_by_hand(day_of: Run) -> None:
    """Day one has nothing to compare with, and pays for nothing; day two clicks a, b, c, d, of which c and d are new."""
    first = day_of("2026-01-28", clicks(2, 4, "ab"), {"a": "red", "b": ""})["drift"]
    assert first["measures"] == {"clicks_per_user": 4.0}
    assert first["compared_days"] == []
    second = day_of("2026-01-29", clicks(2, 4, "abcd"), {"a": "red", "b": "", "z": "blue"})["drift"]
    # items: a red, b unknown, z blue, and c and d of the log, unknown: three of five
    assert second["measures"] == {"clicks_per_user": 4.0, "new_items": 0.5, "nulls.items.colour": 0.6}
    assert second["compared_days"] == ["2026-01-28"]
    assert second["no_verdict"] == {
        "clicks_per_user": "1 of at least 3 earlier days",
        "new_items": "0 of at least 3 earlier days",
        "nulls.items.colour": "0 of at least 3 earlier days",
    }


@pytest.mark.slow
def test_a_day_unlike_the_last_three_is_refused_and_the_next_one_is_not(day_of: Run, tmp_path: Path) -> None:
    for ds, each in (("2026-01-27", 4), ("2026-01-28", 5), ("2026-01-29", 6)):
        day_of(ds, clicks(2, each))
    with pytest.raises(GateError) as caught:
        day_of("2026-01-30", clicks(2, 10))  # the most was 6: 9 is the limit
    assert caught.value.exit_code == 4
    (fault,) = caught.value.faults
    assert (fault.what, fault.found) == ("clicks per user: 10.00", "3 days from 2026-01-27 to 2026-01-29: 4.00 to 6.00")
    assert "--set gates.drift.clicks_per_user=null" in fault.fix
    assert not (tmp_path / "root/main/_current/ingest/ds=2026-01-30.json").exists()
    assert day_of("2026-01-31", clicks(2, 9))["drift"]["compared_days"] == ["2026-01-27", "2026-01-28", "2026-01-29"]
    passed = day_of("2026-01-30", clicks(2, 10), gates={"clicks_per_user": None})["drift"]
    assert passed["measures"]["clicks_per_user"] == 10.0
    assert "clicks_per_user" not in passed["no_verdict"]  # nobody asked for one


@pytest.mark.slow
def test_days_of_other_settings_are_not_compared(day_of: Run) -> None:
    for ds in ("2026-01-27", "2026-01-28", "2026-01-29"):
        day_of(ds, clicks(2, 4))
    assert day_of("2026-01-30", clicks(2, 40), min_item_events=2)["drift"]["compared_days"] == []


def test_days_0_measures_nothing(day_of: Run) -> None:
    assert "drift" not in day_of("2026-01-28", clicks(2, 4), gates={"days": 0})


@pytest.mark.slow
def test_an_earlier_day_that_is_damaged_is_left_out_and_named(day_of: Run, tmp_path: Path) -> None:
    day_of("2026-01-28", clicks(2, 4))
    (manifest,) = (tmp_path / "root/main/clicks/ds=2026-01-28").glob("*/manifest.json")
    manifest.unlink()
    drift = day_of("2026-01-29", clicks(2, 4))["drift"]
    assert (drift["compared_days"], drift["damaged_days"]) == ([], ["2026-01-28"])


LAST = {f"2026-01-0{n}": {"clicks_per_user": 9.0 + n, "new_items": 0.1, "nulls.users.city": n / 10} for n in (1, 2, 3)}


@pytest.mark.parametrize(
    ("measures", "faults"),
    [
        ({"clicks_per_user": 5.0, "new_items": 0.3, "nulls.users.city": 0.5}, []),  # each just at its limit: 10 - 5, 0.1 + 0.2, 0.3 + 0.2
        ({"clicks_per_user": 18.0, "new_items": 0.0, "nulls.users.city": 0.0}, []),  # 12 + 6; shares may fall
        ({"clicks_per_user": 4.9}, ["clicks per user: 4.90"]),
        ({"clicks_per_user": 18.1, "new_items": 0.31}, ["clicks per user: 18.10", "clicked items that the day before did not know: 31.0%"]),
        ({"nulls.users.city": 0.51}, ["users without city: 51.0%"]),
        ({"nulls.users.job": 1.0}, []),  # no earlier day has the field
    ],
)
def test_limits_by_hand(measures: dict[str, float], faults: list[str]) -> None:
    limits = Drift(new_items=0.2 + 1e-9, nulls=0.2 + 1e-9)
    assert [fault.what for fault in strayed(measures, LAST, limits)] == faults


def test_too_few_days_give_no_verdict() -> None:
    two = dict(list(LAST.items())[:2])
    measures = {"clicks_per_user": 900.0, "nulls.users.city": 1.0}
    assert list(strayed(measures, two, Drift())) == []
    assert undecided(measures, two, Drift()) == {"clicks_per_user": 2, "nulls.users.city": 2}
    assert undecided(measures, two, Drift(nulls=None)) == {"clicks_per_user": 2}
    assert [fault.what for fault in strayed(measures, two, Drift(min_days=2))] == ["clicks per user: 900.00", "users without city: 100.0%"]
