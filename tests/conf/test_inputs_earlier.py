"""The earlier day a job goes on from: which one is meant, when there is none, and that a run made from it is seen to be outdated."""

import json
from datetime import date
from pathlib import Path

import pytest

from conf.errors import NotReadyError, SettingsError
from conf.inputs import epoch_day, is_current, previous_manifests, seen_inputs
from tests.faults.publishing import publish, settings_at

JOB = "vocabulary"
DAYS = ("2026-01-28", "2026-01-30", "2026-02-01")


@pytest.fixture
def chain(tmp_path, make_request):
    """make(variant, **vocabulary) -> request, over a root where main holds the vocabularies of three days."""

    def make(variant="main", trained=1, **vocabulary):
        sections = {"vocabulary": vocabulary} if vocabulary else {}
        return make_request(settings_at(tmp_path, **sections, split={"k": trained}), variant=variant)

    asked = make(previous_ds="latest")
    for ds in DAYS:
        publish(asked.store, asked.settings, f"of-{ds}", f"content of {ds}", job=JOB, ds=ds)
    return make


def found(asked, ds, job=JOB):
    """(tables, run) of the earlier day."""
    manifests = previous_manifests(job, asked.store, ds, asked.settings)
    assert len({manifest.run_id for manifest in manifests.values()}) <= 1
    return set(manifests), next((manifest.run_id for manifest in manifests.values()), None)


@pytest.mark.parametrize(
    ("chosen", "ds", "run"),
    [
        ({}, "2026-02-01", None),
        ({"previous_ds": "latest"}, "2026-02-01", "of-2026-01-30"),
        ({"previous_ds": "latest"}, "2026-01-31", "of-2026-01-30"),  # never a later day, so a backfill goes on from what was
        ({"previous_ds": "latest"}, "2026-01-28", None),  # the first day starts anew
        ({"previous_ds": "2026-01-28"}, "2026-02-01", "of-2026-01-28"),
        ({"previous_ds": "latest", "rebuild_every_days": 2}, "2026-02-01", None),
        ({"previous_ds": "latest", "rebuild_every_days": 3}, "2026-02-01", "of-2026-01-30"),
    ],
)
def test_the_day_that_is_meant(chain, chosen, ds, run):
    asked = chain(**chosen)
    assert found(asked, ds)[1] == run
    if run is not None:
        assert found(asked, ds)[0] >= {"user_index", "item_index"}


def test_jobs_that_go_on_from_nothing_read_no_earlier_day(chain):
    assert found(chain(previous_ds="latest"), "2026-02-01", job="events") == (set(), None)


def test_what_only_spares_work_is_read_where_it_is_there(tmp_path, make_request):
    """No earlier day, one that kept no pairs, or a rebuild that is due: the job does without."""
    cooc = {"keep_pairs": True, "increment": True}

    def asked(**vocabulary):
        return make_request(settings_at(tmp_path, cooc=cooc, vocabulary={"previous_ds": "latest", **vocabulary}))

    assert found(asked(), "2026-01-30", "cooccurrence") == (set(), None)
    publish(asked().store, asked().settings, "of-29", "pairs", job="cooccurrence", ds="2026-01-29")
    assert found(asked(), "2026-01-30", "cooccurrence") == ({"cooc_pairs"}, "of-29")
    assert found(asked(previous_ds="2026-01-28"), "2026-01-30", "cooccurrence") == (set(), None)
    assert found(asked(rebuild_every_days=1), "2026-01-30", "cooccurrence") == (set(), None)
    off = make_request(settings_at(tmp_path, cooc={"keep_pairs": True}, vocabulary={"previous_ds": "latest"}))
    assert found(off, "2026-01-30", "cooccurrence") == (set(), None)
    path = Path(asked().store.base) / "main/_current/cooccurrence/ds=2026-01-29.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "tables": {"cooc": record["tables"]["cooc"]}}))
    assert found(asked(), "2026-01-30", "cooccurrence") == (set(), None)


def test_a_named_day_that_is_not_there_is_not_ready(chain):
    asked = chain(previous_ds="2026-01-29")
    with pytest.raises(NotReadyError, match=r"nothing is committed for 2026-01-29.*2026-01-30.*run: trichannel vocabulary --ds 2026-01-29"):
        found(asked, "2026-02-01")


@pytest.mark.parametrize("ds", ["2026-01-30", "2026-01-29"])
def test_a_named_day_must_lie_before(chain, ds):
    with pytest.raises(SettingsError, match="2026-01-30 does not lie before the day that is run"):
        found(chain(previous_ds="2026-01-30"), ds)


def test_a_variant_goes_on_from_its_own_day_else_from_mains_of_equal_settings(chain):
    asked = chain("exp", previous_ds="latest")
    assert found(asked, "2026-02-02")[1] == "of-2026-02-01"
    publish(asked.store, asked.settings, "own", "own", job=JOB, ds="2026-01-31")
    assert found(asked, "2026-02-01")[1] == "own"
    assert found(chain("other", trained=2, previous_ds="latest"), "2026-02-02")[1] is None


def test_a_day_redone_makes_what_was_made_from_it_outdated(chain):
    asked = chain(previous_ds="latest")

    def seen():
        return seen_inputs(previous_manifests(JOB, asked.store, "2026-02-02", asked.settings))

    record = publish(asked.store, asked.settings, "made", "made", job=JOB, ds="2026-02-02", inputs=seen())
    assert is_current(record, JOB, asked.settings, seen())
    publish(asked.store, asked.settings, "again", "content of 2026-02-01", job=JOB, ds="2026-02-01")
    assert is_current(record, JOB, asked.settings, seen()), "a new run of equal content changes nothing"
    publish(asked.store, asked.settings, "other", "other content", job=JOB, ds="2026-02-01")
    assert not is_current(record, JOB, asked.settings, seen())


def test_numbers_are_as_old_as_their_epoch(chain):
    """Not as old as the last day: a chain of short steps would never be rebuilt."""
    asked = chain(previous_ds="latest", rebuild_every_days=5)
    manifest = asked.store.manifest("user_index", "2026-02-01", asked.settings)
    path = Path(asked.store.folder_of(manifest)) / "manifest.json"
    assert epoch_day(manifest) == date(2026, 2, 1)
    assert found(asked, "2026-02-02")[1] is not None
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "facts": {"vocabulary_epoch": "2026-01-28/of-2026-01-28"}}))
    assert found(asked, "2026-02-02")[1] is None
