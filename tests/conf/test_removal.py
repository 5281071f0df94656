"""Removing: what goes goes whole, under the lock of its day, and never on a survey that is out of date."""

import shutil

import pytest

from conf import removal
from conf.errors import UsageError
from conf.removal import Removed, remove
from conf.retention import Rule
from conf.storage import MAIN, Store
from tests.faults.publishing import DS, everything_under, publish, read, settings_at

ALL = Rule(keep=0, min_age_h=0)


@pytest.fixture
def settings(tmp_path):
    return settings_at(tmp_path / "root")


@pytest.fixture
def store(settings):
    return Store.of(settings)


def publish_runs(store: Store, settings, *run_ids: str, **kwargs) -> None:
    for run_id in run_ids:
        publish(store, settings, run_id, run_id, **kwargs)


def test_what_goes_is_gone_and_the_rest_is_as_if_it_had_never_been(store, settings, tmp_path):
    publish_runs(store, settings, "r0", "r1", "r2")
    told = []
    removed = remove(settings, ALL, "g", told.append)
    assert [str(one) for one in told] == [f"variant=main job=events ds={DS} run={run} files=6 bytes={one.bytes}" for run, one in
                                          zip(("r0", "r1"), told, strict=True)]  # fmt: skip
    assert removed == Removed(runs=2, files=12, bytes=sum(one.bytes for one in told), kept=1)
    assert read(store, settings) == {"r2"}
    assert store.runs("events", DS) == ["r2"]
    with pytest.raises(UsageError, match="no committed run r1"):
        store.rollback("events", DS, "r1", settings)

    other = settings_at(tmp_path / "other")
    publish_runs(Store.of(other), other, "r2")
    left, wanted = (everything_under(tmp_path / name) for name in ("root", "other"))

    def names(paths: set[str]) -> set[str]:
        return {path for path in paths if not path.endswith(".txt")}  # data files have names of their own

    # a run's record is also written when the next one takes its place, so both have it
    assert names(left) == names(wanted)
    assert remove(settings, ALL, "g2", told.append) == Removed(kept=1)


def test_kept_runs_can_be_rolled_back_to(store, settings):
    publish_runs(store, settings, "r0", "r1", "r2", "r3")
    assert remove(settings, Rule(keep=2, min_age_h=0), "g", lambda _: None).runs == 1
    for run_id in ("r1", "r2", "r3"):
        store.rollback("events", DS, run_id, settings)
        assert read(store, settings) == {run_id}


def test_a_locked_day_is_left_and_counted(store, settings):
    publish_runs(store, settings, "r0", "r1")
    with store.locked("events", DS, "at-work", settings):
        assert remove(settings, ALL, "g", lambda _: None) == Removed(kept=1, locked=1)
    assert remove(settings, ALL, "g", lambda _: None).runs == 1


def test_a_lock_taken_after_the_survey_is_respected_too(store, settings, monkeypatch):
    publish_runs(store, settings, "r0", "r1")
    holding = store.locked("events", DS, "at-work", settings)
    planned = removal.planned

    def then_locked(*given):
        found = planned(*given)
        holding.__enter__()
        return found

    monkeypatch.setattr(removal, "planned", then_locked)
    assert remove(settings, ALL, "g", lambda _: None) == Removed(kept=1, locked=1)
    holding.__exit__(None, None, None)
    assert store.runs("events", DS) == ["r0", "r1"]


@pytest.mark.parametrize("meanwhile", ["rollback", "commit"])
def test_what_becomes_current_after_the_survey_stays_with_what_it_names(store, settings, monkeypatch, meanwhile):
    for run_id in ("r0", "r1"):
        publish(store, settings, run_id, run_id, job="ingest")
        publish(store, settings, run_id, run_id, inputs={"clicks": f"{MAIN}/{DS}/{run_id} 1:{run_id}"})
    # an attempt whose files are there already when we look, and which commits before we remove
    attempt = f"{store.base}/{MAIN}/events/ds={DS}/run=r2"
    shutil.copytree(f"{store.base}/{MAIN}/events/ds={DS}/run=r0", attempt)
    planned, surveys = removal.planned, []

    def then_changed(*given):
        found = planned(*given)
        surveys.append([f"{one.day.job}/{one.run_id}" for one in found[1].doomed])
        if len(surveys) == 1 and meanwhile == "rollback":
            store.rollback("events", DS, "r0", settings)
        elif len(surveys) == 1:
            publish(store, settings, "r2", "r2", inputs={"clicks": f"{MAIN}/{DS}/r0 1:r0"})
        return found

    monkeypatch.setattr(removal, "planned", then_changed)
    remove(settings, ALL, "g", lambda _: None)
    assert surveys[0] == ["events/r0", "events/r2", "ingest/r0"]
    assert surveys[1] == (["events/r1", "events/r2"] if meanwhile == "rollback" else ["events/r0", "events/r1"])
    assert read(store, settings) == {"r0" if meanwhile == "rollback" else "r2"}
    assert store.runs("ingest", DS) == ["r0", "r1"]


def test_checkpoints_of_a_published_model_go(store, settings, tmp_path):
    publish_runs(store, settings, "r1", job="train")
    work = tmp_path / "root" / MAIN / "_work" / "train" / f"ds={DS}"
    work.mkdir(parents=True)
    (work / "step-10.pt").write_bytes(b"12345")
    assert remove(settings, ALL, "g", lambda _: None) == Removed(checkpoints=1, files=1, bytes=5, kept=1)
    assert not work.exists()
    assert read(store, settings, job="train") == {"r1"}
