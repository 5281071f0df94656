"""What a job reads, and when a run would only repeat what is there."""

import shutil
from pathlib import Path

import pytest

from conf.errors import NotReadyError
from conf.inputs import input_manifests, seen_inputs, unchanged
from conf.storage import Store
from tests.faults.publishing import DS, publish, settings_at


@pytest.fixture
def chain(tmp_path, make_request):
    """make(variant, **sections) -> request, over a root where main holds ingest, vocabulary and events."""

    def make(*, variant="main", run_id="r2", force=False, **sections):
        return make_request(settings_at(tmp_path, **sections), variant=variant, run_id=run_id, force=force)

    asked = make(run_id="r1")
    for job in ("ingest", "vocabulary"):
        publish(asked.store, asked.settings, "r1", job, job=job)
    publish(asked.store, asked.settings, "r1", "events", job="events", inputs=_seen("events", asked))
    return make


def _seen(job, asked):
    return seen_inputs(input_manifests(job, asked.store, asked.ds, asked.settings))


def test_every_missing_input_is_named_at_once(chain):
    with pytest.raises(NotReadyError) as caught:
        input_manifests("cooccurrence", Store.of(chain().settings), "2026-02-01", chain().settings)
    text = str(caught.value)
    assert "job cooccurrence, ds=2026-02-01: 3 faults" in text
    assert "table sessions is not there yet" in text
    assert "table item_feat is not there yet   committed days: 2026-01-31" in text


def test_of_a_later_day_a_job_reads_what_it_declares_and_nothing_else(chain):
    asked = chain()
    with pytest.raises(NotReadyError, match="run: trichannel ingest --ds 2026-02-02"):
        input_manifests("offline_metrics", asked.store, DS, asked.settings, truth_ds="2026-02-02")
    publish(asked.store, asked.settings, "later", "later clicks", job="ingest", ds="2026-02-02")
    for job in ("vocabulary", "events", "embed", "candidates"):
        publish(asked.store, asked.settings, "r9", job, job=job)
    found = input_manifests("offline_metrics", asked.store, DS, asked.settings, truth_ds="2026-02-02")
    assert {manifest.ds for table, manifest in found.items() if table != "clicks"} == {DS}
    assert found["clicks"].identity == "main/2026-02-02/later 1:later clicks"
    assert input_manifests("events", asked.store, DS, asked.settings, truth_ds="2026-02-02")["clicks"].ds == DS


def test_equal_settings_and_inputs_leave_a_run_as_it_is_unless_forced(chain):
    asked = chain()
    record = unchanged("events", asked, _seen("events", asked))
    assert record is not None
    assert record.run_id == "r1"
    assert unchanged("events", chain(force=True), _seen("events", asked)) is None


def test_settings_that_shape_the_job_run_it_again_and_others_do_not(chain):
    for sections, kept in (({"trainer": {"epochs": 9}}, True), ({"session": {"max_user_clicks": 9}}, False)):
        asked = chain(**sections)
        assert (unchanged("events", asked, _seen("events", asked)) is not None) == kept


def test_new_content_of_an_input_runs_it_again_and_a_new_run_of_equal_content_does_not(chain):
    asked = chain()
    publish(asked.store, asked.settings, "r2", "ingest", job="ingest")
    assert unchanged("events", asked, _seen("events", asked)) is not None
    publish(asked.store, asked.settings, "r3", "other clicks", job="ingest")
    assert unchanged("events", asked, _seen("events", asked)) is None


def test_a_variant_keeps_what_main_has_from_equal_settings(chain):
    """A variant must not repeat ingest and all that follows only because its own folder is empty."""
    for sections, kept in (({"trainer": {"epochs": 9}}, True), ({"session": {"max_user_clicks": 9}}, False)):
        asked = chain(variant="exp", **sections)
        assert (unchanged("events", asked, _seen("events", asked)) is not None) == kept


def test_a_chain_in_a_variant_reads_its_own_where_settings_differ_and_main_where_they_do_not(chain):
    asked = chain(variant="exp", session={"max_user_clicks": 9})
    publish(asked.store, asked.settings, "e1", "few events", job="events", inputs=_seen("events", asked))
    assert unchanged("events", asked, _seen("events", asked)).variant == "exp"
    manifests = input_manifests("samples", asked.store, DS, asked.settings)
    assert {table: m.variant for table, m in manifests.items()} == {"events": "exp", "user_feat": "main", "item_feat": "main"}


@pytest.mark.parametrize("damage", ["file", "folder"])
def test_a_damaged_run_counts_as_not_done_and_is_logged(chain, damage, capsys):
    asked = chain()
    manifest = asked.store.manifest("events", DS, asked.settings)
    seen = _seen("events", asked)
    folder = Path(asked.store.folder_of(manifest))
    shutil.rmtree(folder) if damage == "folder" else Path(asked.store.files_of(manifest)[0]).write_text("")
    assert unchanged("events", asked, seen) is None
    assert "damaged" in capsys.readouterr().err
