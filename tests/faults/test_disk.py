"""Full and read-only disks: the message says so, the exit code is the documented one, what was published stays readable."""

import errno
import os
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from conf.command import RunStatus, exit_code, guarded
from conf.errors import StorageError
from conf.storage import Store
from spark_jobs.job import run_job
from tests.faults.publishing import everything_under, publish, read, settings_at
from tests.faults.spark_events_job import DS, events_job, publish_inputs


@contextmanager
def mounted(folder, options):
    """A tmpfs; skips where it cannot be had."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    with mounted(tmp_path / "disk", "size=2m"):
        yield tmp_path / "disk"


def fill(folder, *, leave: int) -> None:
    """Use up the disk but for about `leave` bytes."""
    with open(folder / "ballast", "wb", buffering=0) as handle, suppress(OSError):
        while handle.write(b"x" * 4096):
            pass
    os.truncate(folder / "ballast", max(0, (folder / "ballast").stat().st_size - leave))


def test_full_disk_at_every_step_publishes_nothing_or_all_and_says_what_to_do(small_disk):
    """With ever more room the publication gets ever further, until it fits; until then the old version stays."""
    settings = settings_at(small_disk / "root")
    store = Store.of(settings)
    publish(store, settings, "r0", "old")
    errors = []
    for pages in range(40):
        fill(small_disk, leave=4096 * pages)
        try:
            publish(store, settings, f"r{pages + 1}", "new")
            break
        except (StorageError, OSError) as error:  # OSError: from the test's own data files
            errors.append(error)
        assert read(store, settings) == {"old"}
    ours = [error for error in errors if isinstance(error, StorageError)]
    assert ours
    assert all("the disk is full   free space or change storage.root" in str(error) for error in ours)
    assert {exit_code(error) for error in ours} == {1}
    assert {error.errno for error in errors if isinstance(error, OSError)} <= {errno.ENOSPC}
    assert len(errors) > 5, "the disk was never full"
    assert read(store, settings) == {"new"}
    assert not list((small_disk / "root").rglob("*.tmp-*")), "half-written files were left"


def test_spark_job_on_a_full_disk_ends_with_the_storage_error_and_the_old_version_stays(small_disk, spark, make_request, capsys):
    settings = settings_at(small_disk / "root")
    asked = replace(make_request(run_id="r1"), settings=settings)
    publish_inputs(asked.store, settings)
    publish(asked.store, settings, "r0", "old")
    fill(small_disk, leave=40_000)  # room for lock and status, not for the Parquet files

    def command():
        with RunStatus(asked, "events") as status:
            run_job(events_job(), spark, asked, status)
        return 0

    assert guarded(command) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert read(asked.store, settings) == {"old"}
    os.truncate(small_disk / "ballast", 0)
    assert asked.store.read_status("r1")["status"] in ("failed", "running")  # the file itself may not have found room
    assert not list((small_disk / "root" / "main" / "_locks").rglob("*.json"))
    assert not run_job(events_job(), spark, asked).skipped


@pytest.fixture
def read_only_root(tmp_path):
    """A root with one version in it that was then mounted read-only: root itself is not stopped by permission bits."""
    with mounted(tmp_path / "disk", "size=2m"):
        settings = settings_at(tmp_path / "disk" / "root")
        publish(Store.of(settings), settings, "r0", "old")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        yield settings


def test_read_only_root_is_a_setting_to_mend_and_stays_readable(read_only_root, make_request, capsys):
    settings = read_only_root
    store = Store.of(settings)
    with pytest.raises(StorageError, match="cannot be written") as caught:
        publish(store, settings, "r1", "new")
    assert (caught.value.exit_code, "set storage.root to a folder you can write" in str(caught.value)) == (2, True)
    with pytest.raises(StorageError, match="cannot be written"):
        store.rollback("events", DS, "r0", settings)
    assert read(store, settings) == {"old"}

    asked = replace(make_request(run_id="r1"), settings=settings)

    def command():
        with RunStatus(asked, "events"):
            pytest.fail("nothing may run where its status cannot be written")

    assert guarded(command) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_root_that_is_a_file_is_a_setting_to_mend(tmp_path, capsys):
    (tmp_path / "root").write_text("not a folder")
    settings = settings_at(tmp_path / "root")
    with pytest.raises(StorageError, match="cannot be written"):
        publish(Store.of(settings), settings, "r1", "new")
    assert everything_under(tmp_path) == {"root"}
