"""Storage: what is published is found again whole; what is damaged, older, or of other settings is not taken for it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from conf.errors import BadDataError, NotReadyError, UsageError
from conf.manifest import new_run_id
from conf.storage import MAIN, FileEntry, Manifest, Store
from tests.faults.publishing import DS, JOB, publish, read, settings_at


@pytest.fixture
def settings(tmp_path):
    return settings_at(tmp_path / "root")


@pytest.fixture
def store(settings):
    return Store.of(settings)


def _pointer(store: Store, ds: str = DS) -> Path:
    return Path(store.base) / MAIN / "_current" / JOB / f"ds={ds}.json"


def _record(store: Store, run_id: str) -> Path:
    return Path(store.base) / MAIN / "_records" / JOB / f"ds={DS}" / f"run={run_id}.json"


# ---- reading ---------------------------------------------------------------------------------------------------


def test_published_tables_are_found_with_their_files(store, settings):
    record = publish(store, settings, "r1", "one", inputs={"clicks": "main/d/r c"})
    manifest = store.manifest("user_state", DS, settings)
    assert (manifest.run_id, manifest.rows, manifest.content_hash) == ("r1", 1, "1:one")
    assert manifest.inputs == {"clicks": "main/d/r c"}
    assert store.current(JOB, DS) == record
    assert store.folder_of(manifest) == f"{store.base}/main/user_state/ds={DS}/run=r1"
    assert (Path(store.folder_of(manifest)) / "_SUCCESS").exists()
    assert read(store, settings) == {"one"}


def test_files_that_the_manifest_does_not_name_are_never_seen(store, settings):
    publish(store, settings, "r1", "one")
    manifest = store.manifest("events", DS, settings)
    (Path(store.folder_of(manifest)) / "part-lost-attempt.parquet").write_text("stray")
    assert store.manifest("events", DS, settings) == manifest
    assert read(store, settings) == {"one"}


def test_what_is_missing_names_table_days_and_command(store, settings):
    publish(store, settings, "r1", "one", ds="2026-01-30")
    with pytest.raises(NotReadyError) as caught:
        store.manifests(("events", "sessions"), DS, settings)
    text = str(caught.value)
    assert "2 faults" in text
    assert "table events is not there yet   committed days: 2026-01-30   run: trichannel events --ds 2026-01-31" in text
    assert "table sessions is not there yet   no day is committed" in text


@pytest.mark.parametrize("table", ["event", "../../x", "vocab", "'; DROP TABLE x"])
def test_unknown_tables_are_refused(store, settings, table):
    with pytest.raises(UsageError, match="unknown table"):
        store.manifest(table, DS, settings)


def test_a_vocabulary_of_no_field_is_not_there(store, settings):
    with pytest.raises(NotReadyError):
        store.manifest("vocab_../../x", DS, settings)


def test_latest_is_the_greatest_day_whatever_was_committed_last(store, settings):
    publish(store, settings, "r1", "one", ds="2026-01-31")
    publish(store, settings, "r2", "two", ds="2026-01-15")
    assert store.days(JOB) == ["2026-01-15", "2026-01-31"]


def test_tables_of_one_job_are_read_from_one_run(store, settings, monkeypatch):
    """A publication between the reading of two tables must not mix them: the pointer is followed once."""
    publish(store, settings, "r1", "one")
    load, published = store.load_manifest, []

    def load_then_publish(table, record):
        manifest = load(table, record)
        if not published:
            published.append(publish(Store.of(settings), settings, "r2", "two"))
        return manifest

    monkeypatch.setattr(store, "load_manifest", load_then_publish)
    assert {m.run_id for m in store.manifests(("events", "user_state"), DS, settings).values()} == {"r1"}
    assert {m.run_id for m in store.manifests(("events", "user_state"), DS, settings).values()} == {"r2"}


# ---- damage ----------------------------------------------------------------------------------------------------


def _one_file(store, settings) -> Path:
    return Path(store.files_of(store.manifest("events", DS, settings))[0])


@pytest.mark.parametrize("damage", ["longer", "shorter", "gone", "folder gone"])
def test_a_damaged_file_is_named(store, settings, damage):
    publish(store, settings, "r1", "one")
    file = _one_file(store, settings)
    if damage == "longer":
        file.write_text("one more")
    elif damage == "shorter":
        file.write_text("")
    elif damage == "gone":
        file.unlink()
    else:
        shutil.rmtree(file.parent)
    with pytest.raises(BadDataError, match=r"events, ds=2026-01-31, run=r1.*\n.*(damaged|missing)"):
        store.manifest("events", DS, settings)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", '{"job": 1}', "\x00\xff"])
def test_a_damaged_pointer_or_manifest_is_bad_data_not_a_trace(store, settings, text):
    publish(store, settings, "r1", "one")
    manifest = _one_file(store, settings).parent / "manifest.json"
    for path in (manifest, _pointer(store)):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(BadDataError, match=r"(json|manifest)"):
            store.manifest("events", DS, settings)


def test_a_manifest_of_another_run_is_refused(store, settings):
    publish(store, settings, "r1", "one")
    manifest = _one_file(store, settings).parent / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1:one", "1:two"))
    with pytest.raises(BadDataError, match="not the one committed"):
        store.manifest("events", DS, settings)


def test_a_manifest_of_a_newer_version_is_refused(store, settings):
    publish(store, settings, "r1", "one")
    path = _one_file(store, settings).parent / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(BadDataError, match="newer version"):
        store.manifest("events", DS, settings)


# ---- publishing ------------------------------------------------------------------------------------------------


def test_nothing_is_visible_before_the_commit(store, settings):
    publish(store, settings, "r1", "one")
    with pytest.raises(RuntimeError, match="stop"):
        publish(store, settings, "r2", "two", before_commit=_stop)
    assert read(store, settings) == {"one"}
    assert store.runs(JOB, DS) == ["r1"]


def _stop():
    raise RuntimeError("stop")


def test_a_run_that_failed_may_run_again_under_its_name(store, settings):
    with pytest.raises(RuntimeError):
        publish(store, settings, "r1", "one", before_commit=_stop)
    publish(store, settings, "r1", "two")
    folder = Path(store.folder_of(store.manifest("events", DS, settings)))
    assert read(store, settings) == {"two"}
    assert len(list(folder.glob("*.txt"))) == 1, "what the failed attempt left was not removed"


def test_a_committed_run_id_is_refused_also_when_it_was_committed_meanwhile(store, settings, monkeypatch):
    """The check is made under the lock: before it, another process may just be committing the same run id."""
    from conf.lock import Lock

    acquire = Lock.acquire

    def late(lock, run_id, **kwargs):
        monkeypatch.setattr(Lock, "acquire", acquire)
        publish(Store.of(settings), settings, "r1", "one")
        acquire(lock, run_id, **kwargs)

    monkeypatch.setattr(Lock, "acquire", late)
    with pytest.raises(UsageError, match="already committed"):
        publish(store, settings, "r1", "two")
    assert read(store, settings) == {"one"}


def test_a_run_that_lost_its_record_still_counts_as_committed(store, settings):
    """Killed between pointer and record: the run is current, may be rolled back to, and gets its record from the next commit."""
    publish(store, settings, "r1", "one")
    _record(store, "r1").unlink()
    assert store.runs(JOB, DS) == ["r1"]
    with pytest.raises(UsageError, match="already committed"):
        publish(store, settings, "r1", "two")
    publish(store, settings, "r2", "two")
    assert store.runs(JOB, DS) == ["r1", "r2"]
    store.rollback(JOB, DS, "r1", settings)
    assert read(store, settings) == {"one"}


def test_a_record_that_cannot_be_written_does_not_fail_what_is_published(store, settings):
    folder = _record(store, "r1").parent

    def a_file_where_the_folder_should_be():
        folder.parent.mkdir(parents=True)
        folder.write_text("")

    publish(store, settings, "r1", "one", before_commit=a_file_where_the_folder_should_be)
    folder.unlink()
    assert read(store, settings) == {"one"}


def test_runs_are_in_order_of_publication_not_of_name(store, settings):
    for run_id in ("z", "m", "a"):
        publish(store, settings, run_id, run_id)
    assert store.runs(JOB, DS) == ["z", "m", "a"]


def test_run_ids_do_not_repeat():
    assert len({new_run_id() for _ in range(100)}) == 100


def test_a_folder_outside_local_disks_is_published_by_the_same_protocol(tmp_path, monkeypatch):
    """A file system that is not recognised as local takes the path of hdfs and s3: no exclusive create, no rename of ours."""
    monkeypatch.setattr("conf.lock.SETTLE_S", 0.01)
    settings = settings_at(tmp_path / "root")
    store = Store.of(settings)
    store.fs = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
    publish(store, settings, "r1", "one")
    publish(store, settings, "r2", "two")
    store.rollback(JOB, DS, "r1", settings)
    assert read(store, settings) == {"one"}
    assert not list(Path(store.base).rglob("*.tmp-*"))


# ---- roots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_root_may_be_a_uri(tmp_path, slash):
    settings = settings_at(f"file://{tmp_path}/root{slash}")
    store = Store.of(settings)
    publish(store, settings, "r1", "one")
    manifest = store.manifest("events", DS, settings)
    assert store.files_of(manifest)[0].startswith(f"file://{tmp_path}/root/main/events/")
    assert Path(store.files_of(manifest)[0].removeprefix("file://")).read_text() == "one"


def test_a_relative_root_does_not_follow_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("data")
    monkeypatch.chdir("/")
    assert store.base == str(tmp_path / "data")


@pytest.mark.parametrize("name", ["with space", "quo'te", 'dou"ble', "semi;colon", "ümlaut", "a=b", "100%"])
def test_odd_roots_work(tmp_path, name):
    settings = settings_at(tmp_path / name)
    publish(Store.of(settings), settings, "r1", "one")
    assert read(Store.of(settings), settings) == {"one"}


# ---- rollback --------------------------------------------------------------------------------------------------


def test_rollback_takes_all_tables_of_the_job_back_and_forth(store, settings):
    publish(store, settings, "r1", "one")
    publish(store, settings, "r2", "two")
    assert store.rollback(JOB, DS, "r1", settings).run_id == "r1"
    assert read(store, settings) == {"one"}
    assert store.runs(JOB, DS) == ["r1", "r2"]
    store.rollback(JOB, DS, "r2", settings)
    assert read(store, settings) == {"two"}


def test_rollback_to_a_damaged_run_is_refused(store, settings):
    publish(store, settings, "r1", "one")
    _one_file(store, settings).write_text("longer")
    publish(store, settings, "r2", "two")
    with pytest.raises(BadDataError, match="damaged"):
        store.rollback(JOB, DS, "r1", settings)
    assert read(store, settings) == {"two"}


@pytest.mark.parametrize("run_id", ["r9", "../../x", "", "r1.json"])
def test_rollback_to_an_unknown_run_names_those_there_are(store, settings, run_id):
    publish(store, settings, "r1", "one")
    with pytest.raises(UsageError, match="known: r1"):
        store.rollback(JOB, DS, run_id, settings)


def test_rollback_to_a_run_that_never_was_current_is_refused(store, settings):
    publish(store, settings, "r1", "one")
    with pytest.raises(RuntimeError):
        publish(store, settings, "r2", "two", before_commit=_stop)
    with pytest.raises(UsageError, match="no committed run r2"):
        store.rollback(JOB, DS, "r2", settings)


# ---- variants --------------------------------------------------------------------------------------------------


def test_a_variant_reads_main_only_where_equal_settings_shaped_the_table(tmp_path):
    main = settings_at(tmp_path)
    publish(Store.of(main), main, "r1", "main")
    for sections, found in (
        ({"trainer": {"epochs": 9}}, True),
        ({"session": {"max_user_clicks": 9}}, False),
        ({"source": {"min_user_events": 2}}, False),
    ):
        settings = settings_at(tmp_path, **sections)
        record = Store.of(settings, "exp").find(JOB, DS, settings)
        assert (record is not None) == found, sections


def test_a_variant_prefers_its_own_and_main_never_sees_it(tmp_path):
    settings = settings_at(tmp_path)
    publish(Store.of(settings, "exp"), settings, "r1", "exp")
    with pytest.raises(NotReadyError):
        read(Store.of(settings), settings)
    publish(Store.of(settings), settings, "r2", "main")
    assert read(Store.of(settings, "exp"), settings) == {"exp"}
    assert read(Store.of(settings, "other"), settings) == {"main"}


# ---- status and manifests --------------------------------------------------------------------------------------


def test_status_is_replaced_whole(store):
    assert store.read_status("r1") is None
    store.write_status("r1", {"status": "running"})
    store.write_status("r1", {"status": "ok"})
    assert store.read_status("r1") == {"status": "ok"}
    assert [p.name for p in (Path(store.base) / "_runs").iterdir()] == ["r1.json"]


def test_manifest_survives_json():
    files = (FileEntry("a.parquet", 3, 100, "ff", (2, 1)),)
    manifest = Manifest("events", "events", "main", DS, "r1", 3, "3:aa", files, "cc", {"clicks": "x"}, {"has_clock": True}, {"dropped": 2})
    assert Manifest.from_json(json.loads(json.dumps(asdict(manifest)))) == manifest
