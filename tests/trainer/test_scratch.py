"""Folders for files that live for a moment: one maker each, and none left, even by a process that was killed."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from trainer.scratch import PREFIX, scratch

ENDLESS = """
import sys, time
from pathlib import Path
from trainer.scratch import scratch
with scratch(Path(sys.argv[1]), "dead") as (folder, _):
    (folder / "array.npy").write_bytes(bytes(100))
    print("there", flush=True)
    time.sleep(300)
"""


def test_the_first_to_come_writes_and_cleans_up(tmp_path: Path) -> None:
    with scratch(tmp_path, "one") as (folder, writes):
        with scratch(tmp_path, "one") as (again, too):
            assert (again, too, writes) == (folder, False, True)
        assert folder.is_dir()  # the other has left, and it was not its own
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> None:
        with scratch(tmp_path, "one") as (folder, _):
            (folder / "half").write_bytes(b"x")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        breaks()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_up_and_nothing_else(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
        left = tmp_path / f"{PREFIX}dead"
        (tmp_path / "another").mkdir()
        with scratch(tmp_path, "one"):
            assert (left / "array.npy").exists()  # its maker lives
    finally:
        process.kill()
        process.wait()
    assert left.exists()
    with scratch(tmp_path, "two"):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_a_folder_that_was_swept_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training sweeps between mkdir and lock: once the folder is gone when it is opened, once when it is locked."""
    import fcntl

    opened, flock, swept = os.open, fcntl.flock, []

    def opens(path: Path, flags: int, mode: int = 0o777) -> int:
        if len(swept) == 0:
            swept.append(os.rmdir(path))
        return opened(path, flags, mode)

    def locks(lock: int, how: int) -> None:
        if len(swept) == 1 and how == fcntl.LOCK_SH:
            swept.append(os.rmdir(tmp_path / f"{PREFIX}one"))
        flock(lock, how)

    monkeypatch.setattr(os, "open", opens)
    monkeypatch.setattr(fcntl, "flock", locks)
    with scratch(tmp_path, "one") as (folder, writes):
        assert len(swept) == 2
        assert writes
        assert folder.is_dir()


def test_whoever_was_swept_does_not_wait_for_the_one_that_came_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between mkdir and lock the other worker sweeps, makes the folder anew, and waits for this one to come: neither may wait for ever."""
    opened, other, seen = os.open, ExitStack(), list[bool]()

    def opens(path: Path, flags: int) -> int:
        monkeypatch.undo()
        seen.append(other.enter_context(scratch(tmp_path, "one"))[1])
        return opened(path, flags)

    def comes() -> None:
        with scratch(tmp_path, "one") as (_, writes):
            seen.append(writes)

    monkeypatch.setattr(os, "open", opens)
    worker = threading.Thread(target=comes, daemon=True)
    with other:
        worker.start()
        worker.join(timeout=20)
        assert seen == [True, False]
    assert list(tmp_path.iterdir()) == []
