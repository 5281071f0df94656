"""Retention: what anything still needs stays, what cannot be understood stops it, the rest goes."""

import json
import os
import time
from pathlib import Path

import pytest

from conf.errors import UsageError
from conf.inventory import Day, Run, runs_named, survey
from conf.jobs import JOBS
from conf.retention import RetentionError, Rule, in_use, plan
from conf.storage import MAIN, Record, Store
from tests.faults.publishing import DS, publish, settings_at

ALL = Rule(keep=0, min_age_h=0)
EVENTS, INGEST = Day(MAIN, "events", DS), Day(MAIN, "ingest", DS)


@pytest.fixture
def settings(tmp_path):
    return settings_at(tmp_path / "root")


@pytest.fixture
def make(settings):
    """make(job, run_id, reads={table: record}, variant=, ds=) -> the record of a published run that names these inputs."""

    def make(job: str, run_id: str, *, reads: dict[str, Record] | None = None, variant: str = MAIN, ds: str = DS) -> Record:
        inputs = {table: f"{r.variant}/{r.ds}/{r.run_id} {r.tables[table]}" for table, r in (reads or {}).items()}
        return publish(Store.of(settings, variant), settings, run_id, run_id, job=job, ds=ds, inputs=inputs or {"source": "5c3a"})

    return make


def doomed(settings, rule: Rule = ALL) -> list[str]:
    """job/run of what may go, in its order; checkpoints as job/."""
    return [f"{one.day.job}/{one.run_id}" for one in plan(survey(settings), rule).doomed]


def path_of(settings, *parts: str) -> Path:
    return Path(settings.storage.root, *parts)


def age(folder: Path, hours: float) -> None:
    """Every file in the folder was written this long ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - hours * 3600,) * 2)


def test_of_a_day_the_current_run_and_the_latest_others_stay(settings, make):
    for number in range(5):
        make("events", f"r{number}")
    assert doomed(settings, Rule(keep=2, min_age_h=0)) == ["events/r0", "events/r1"]
    assert doomed(settings, Rule(keep=0, min_age_h=0)) == [f"events/r{n}" for n in range(4)]
    assert doomed(settings, Rule(keep=9, min_age_h=0)) == []
    # after a rollback the newest run is one of the others
    Store.of(settings).rollback("events", DS, "r0", settings)
    assert doomed(settings, Rule(keep=2, min_age_h=0)) == ["events/r1", "events/r2"]


def test_days_and_jobs_are_counted_apart(settings, make):
    for ds in ("2026-01-30", DS):
        for run_id in ("r0", "r1"):
            make("events", run_id, ds=ds)
            make("sessions", run_id, ds=ds)
    assert doomed(settings, Rule(keep=1, min_age_h=0)) == []
    assert len(doomed(settings)) == 4
    assert len(doomed(settings, Rule(keep=0, min_age_h=0, ds=DS))) == 2
    assert doomed(settings, Rule(keep=0, min_age_h=0, variant="exp")) == []


def test_what_a_needed_run_names_stays_however_far_back_and_in_another_variant(settings, make):
    old = make("ingest", "i0")
    events = make("events", "e0", reads={"clicks": old})
    make("sessions", "s0", reads={"events": events}, variant="exp")
    new = make("ingest", "i1")
    make("events", "e1", reads={"clicks": new})
    make("ingest", "i2")
    make("events", "e2")
    # exp's sessions came from e0, and e0 from i0: only the pair between is needed by nobody
    assert doomed(settings) == ["events/e1", "ingest/i1"]
    # rolled back to, e1 is needed, and i1 with it
    Store.of(settings).rollback("events", DS, "e1", settings)
    assert doomed(settings) == ["events/e2"]


def test_a_run_that_only_the_manifest_of_a_needed_one_names_stays(settings, make):
    make("ingest", "i0")
    make("ingest", "i1")
    record = make("events", "e0", reads={"clicks": make("ingest", "i2")})
    make("ingest", "i3")
    manifest = path_of(settings, MAIN, "user_state", f"ds={DS}", "run=e0", "manifest.json")
    data = json.loads(manifest.read_text())
    data["inputs"]["clicks"] = f"main/{DS}/i1 1:i1"
    manifest.write_text(json.dumps(data))
    assert record.inputs["clicks"].startswith(f"main/{DS}/i2 ")
    assert doomed(settings) == ["ingest/i0"]


def test_attempts_that_were_killed_go_when_they_are_old(settings, make):
    make("events", "r1")
    attempt = path_of(settings, MAIN, "events", f"ds={DS}", "run=r-killed")
    attempt.mkdir()
    (attempt / "part-0.parquet").write_text("half")
    assert doomed(settings, Rule()) == []
    age(attempt, 23)
    assert doomed(settings, Rule()) == []
    age(attempt, 25)
    assert doomed(settings, Rule()) == ["events/r-killed"]
    (attempt / "part-1.parquet").write_text("its Spark outlived it")
    assert doomed(settings, Rule()) == []
    found = plan(survey(settings), ALL).doomed[0]
    assert (found.files, found.bytes, found.record) == (2, 4 + 21, None)


def test_a_run_is_as_young_as_the_newest_file_of_all_its_tables(settings, make):
    make("events", "r0")
    make("events", "r1")
    age(path_of(settings, MAIN), 30)
    assert doomed(settings, Rule(keep=0)) == ["events/r0"]
    (path_of(settings, MAIN, "user_state", f"ds={DS}", "run=r0") / "a.txt").write_text("new")
    stock = survey(settings)
    assert plan(stock, Rule(keep=0)).young == 1
    assert not plan(stock, Rule(keep=0)).doomed


def test_later_jobs_go_before_what_they_read(settings, make):
    for run_id in ("r0", "r1"):
        clicks = make("ingest", run_id)
        events = make("events", run_id, reads={"clicks": clicks})
        make("sessions", run_id, reads={"events": events}, variant="exp")
    assert doomed(settings) == ["sessions/r0", "events/r0", "ingest/r0"]


def test_a_locked_day_and_what_it_may_be_reading_stay(settings, make):
    for run_id in ("r0", "r1"):
        make("ingest", run_id)
        make("events", run_id)
        make("events", run_id, ds="2026-01-30")
    with Store.of(settings, "exp").locked("events", DS, "at-work", settings):
        found = plan(survey(settings), ALL)
        # exp's events read main's clicks; main's events of the day are not read by it
        assert [one.day for one in found.doomed] == [Day(MAIN, "events", "2026-01-30"), EVENTS]
        assert found.locked == 1
    assert plan(survey(settings), ALL).locked == 0


def test_in_use_follows_the_jobs_back_to_the_raw_clicks():
    locked = {Day("exp", "candidates", DS)}
    assert in_use(Day(MAIN, "ingest", DS), locked)
    assert not in_use(Day(MAIN, "report", DS), locked)
    assert not in_use(Day(MAIN, "ingest", "2026-01-30"), locked)


def test_checkpoints_go_once_the_model_of_the_day_is_there(settings, make):
    for ds in ("2026-01-30", DS):
        work = path_of(settings, MAIN, "_work", "train", f"ds={ds}")
        work.mkdir(parents=True)
        (work / "checkpoints.json").write_text("{}")
    make("train", "r1")
    assert doomed(settings) == ["train/"]
    assert doomed(settings, Rule()) == []
    with Store.of(settings).locked("train", DS, "at-work", settings):
        assert doomed(settings) == []


@pytest.mark.parametrize("what", ["pointer", "record", "manifest", "manifest of an input", "not JSON's manifest", "wrong inputs"])
def test_damage_stops_it_and_names_every_file(settings, make, what):
    old = make("ingest", "i0")
    make("events", "e0", reads={"clicks": old})
    make("ingest", "i1")
    make("events", "e1", reads={"clicks": old})
    path = {
        "pointer": path_of(settings, MAIN, "_current", "events", f"ds={DS}.json"),
        "record": path_of(settings, MAIN, "_records", "events", f"ds={DS}", "run=e0.json"),
        "manifest of an input": path_of(settings, MAIN, "clicks", f"ds={DS}", "run=i0", "manifest.json"),
    }.get(what, path_of(settings, MAIN, "events", f"ds={DS}", "run=e1", "manifest.json"))
    data = json.loads(path.read_text())
    texts = {"not JSON's manifest": "[]", "wrong inputs": json.dumps({**data, "inputs": {"clicks": "nowhere"}})}
    path.write_text(texts.get(what, path.read_text()[:40]))
    other = path_of(settings, MAIN, "_current", "ingest", f"ds={DS}.json")
    other.write_text('{"job": "ingest"}')
    with pytest.raises(RetentionError) as caught:
        plan(survey(settings), ALL)
    assert caught.value.exit_code == 6
    for file in (path, other):
        assert f"{file} is damaged" in str(caught.value)
    assert str(caught.value).endswith("nothing was removed; exit 6")


def test_a_needed_run_with_neither_record_nor_manifest_stops_it(settings, make):
    old = make("ingest", "i0")
    make("events", "e0", reads={"clicks": old})
    make("ingest", "i1")
    path_of(settings, MAIN, "_records", "ingest", f"ds={DS}", "run=i0.json").unlink()
    assert doomed(settings) == []  # its manifests still say what it needs
    for manifest in path_of(settings, MAIN).glob("*/ds=*/run=i0/manifest.json"):
        manifest.unlink()
    with pytest.raises(RetentionError, match="run=i0 is needed   it has neither record nor manifest"):
        plan(survey(settings), ALL)


def test_the_damaged_manifest_of_what_nobody_needs_is_no_hindrance(settings, make):
    make("events", "r0")
    make("events", "r1")
    path_of(settings, MAIN, "events", f"ds={DS}", "run=r0", "manifest.json").write_text("{")
    assert doomed(settings) == ["events/r0"]


def test_what_is_not_ours_is_left_alone(settings, make):
    make("events", "r1")
    root = path_of(settings)
    strange = ["other/data/x.txt", "main/notes/ds=2026-01-31/run=r9/x.txt", "main/events/ds=today/run=r9/x.txt", "_runs/x.txt"]
    strange += [f"main/events/ds={DS}/x.txt", f"main/events/ds={DS}/run=-/x.txt", "main/x.txt"]
    for name in strange:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    assert doomed(settings) == []


def test_jobs_of_a_newer_version_lose_nothing(settings, make):
    old = make("ingest", "i0")
    make("ingest", "i1")
    record = {"job": "trending", "variant": MAIN, "ds": DS, "run_id": "t0", "config_hash": "", "tables": {"trending": "1:1"}}
    record |= {"inputs": {"clicks": f"main/{DS}/{old.run_id} x", "later": f"main/{DS}/z x"}, "committed_at": ""}
    path = path_of(settings, MAIN, "_records", "trending", f"ds={DS}", "run=t0.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    assert doomed(settings) == []


def test_an_input_under_a_name_that_is_no_table_keeps_whatever_run_it_may_mean(settings, make):
    make("vocabulary", "v0")
    make("events", "v1")
    publish(Store.of(settings), settings, "e1", "e1", inputs={"previous_user_index": f"{MAIN}/{DS}/v0 1:v0"})
    make("vocabulary", "v2")
    assert doomed(settings) == ["events/v1"]
    assert plan(survey(settings), ALL).kept == 3


def test_no_root_is_an_empty_one(settings):
    assert not plan(survey(settings), ALL).doomed


def test_names_of_inputs():
    assert runs_named({"clicks": f"exp/{DS}/r1 5:ab", "source": "5c3a"}) == [Run(Day("exp", "ingest", DS), "r1")]
    assert {run.day.job for run in runs_named({"of_later_versions": f"exp/{DS}/r1 5:ab"})} == {*JOBS}
    with pytest.raises(ValueError, match="unpack"):
        runs_named({"clicks": "r1"})


@pytest.mark.parametrize("given", [{"keep": -1}, {"min_age_h": -0.5}, {"min_age_h": float("nan")}])
def test_negative_numbers_are_refused(given):
    with pytest.raises(UsageError, match="give 0 or more"):
        Rule(**given)
