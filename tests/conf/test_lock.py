"""The lock: who holds it, when it is stale, and that it is never taken from, or given back for, somebody else."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from pyarrow import fs as pafs

from conf.errors import LockedError
from conf.files import write_atomic
from conf.lock import Holder, Lock
from tests.faults.publishing import settings_at

LOCAL = pafs.LocalFileSystem()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "locks" / "ds=2026-01-31.json")


@pytest.fixture
def make(path):
    """make(lock_expiry_s=..., heartbeat_s=...) -> Lock on one and the same file; released at the end."""
    locks = []

    def make(filesystem=LOCAL, **storage):
        locks.append(Lock(filesystem, path, settings_at("unused", storage={"lock_expiry_s": 300, "heartbeat_s": 100, **storage})))
        return locks[-1]

    yield make
    for lock in locks:
        lock.release()


def _write(path: str, holder: Holder) -> None:
    write_atomic(LOCAL, path, json.dumps(asdict(holder)))


def _here(**changes) -> Holder:
    return replace(Holder.here("other", "r-other"), **changes)


def _ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_second_taker_is_told_who_holds_it(make, path):
    make().acquire("r1")
    with pytest.raises(LockedError) as caught:
        make().acquire("r2")
    text = str(caught.value)
    assert caught.value.exit_code == 5
    for word in ("held by run r1", f"process {os.getpid()}", "last heartbeat 0 s ago", "--break-lock", path):
        assert word in text


def test_released_lock_is_free_and_releasing_twice_is_harmless(make, path):
    first, second = make(), make()
    first.acquire("r1")
    first.release()
    assert not Path(path).exists()
    second.acquire("r2")
    first.release()
    assert second.holder().run_id == "r2"


def test_break_lock_takes_it_and_the_former_owner_notices(make):
    first, second = make(), make()
    first.acquire("r1")
    second.acquire("r2", break_lock=True)
    second.check()
    with pytest.raises(LockedError, match=r"lost before the commit.*now held by run r2"):
        first.check()
    first.release()
    assert second.holder().run_id == "r2", "the former owner gave back what was not its own"


def test_a_lock_that_is_gone_is_noticed(make, path):
    lock = make()
    lock.acquire("r1")
    os.unlink(path)
    with pytest.raises(LockedError, match="it is gone"), lock.held():
        pytest.fail("the block must not run")


def test_lock_of_an_ended_process_is_taken_at_once(make, path):
    _write(path, _here(pid=_ended_process()))
    make().acquire("r1")


def test_lock_of_a_killed_process_that_nobody_reaped_is_taken_at_once(make, path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        process.kill()
        _wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "it does not end")
        _write(path, _here(pid=process.pid, process_start=time.time()))
        make().acquire("r1")
    finally:
        process.wait()


def test_lock_of_an_earlier_process_of_the_same_id_is_taken_at_once(make, path):
    _write(path, _here(process_start=Holder.here("", "").process_start - 3600))
    make().acquire("r1")


@pytest.mark.parametrize("elsewhere", [{"host": "another-host"}, {"namespace": "pid:[1]"}])
def test_processes_that_cannot_be_seen_from_here_are_judged_by_their_heartbeat_alone(make, path, elsewhere):
    _write(path, _here(pid=_ended_process(), **elsewhere))
    with pytest.raises(LockedError):
        make().acquire("r1")
    _write(path, _here(heartbeat=time.time() - 301, **elsewhere))
    make().acquire("r1")


def test_living_process_with_an_old_heartbeat_loses_the_lock(make, path):
    _write(path, _here(heartbeat=time.time() - 301))
    make().acquire("r1")


def test_heartbeat_keeps_the_lock_alive(make, path):
    owner = make(heartbeat_s=0.05)
    owner.acquire("r1")
    _write(path, replace(owner.holder(), heartbeat=time.time() - 1000))  # as if it had not beaten for long: anybody could take it
    _wait_until(lambda: owner.holder().heartbeat > time.time() - 10, "the heartbeat never came")
    with pytest.raises(LockedError):
        make().acquire("r2")
    owner.check()


def _wait_until(condition, message):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.01)


def test_heartbeat_survives_a_disk_that_refuses_for_a_while(make, monkeypatch):
    owner = make(heartbeat_s=0.02)
    owner.acquire("r1")
    refused = threading.Event()

    def refuse(*_):
        refused.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("conf.lock.write_atomic", refuse)
    assert refused.wait(10)
    monkeypatch.undo()
    before = owner.holder().heartbeat
    _wait_until(lambda: owner.holder().heartbeat > before, "the heartbeat ended with the first refusal")


def test_heartbeat_ends_when_the_lock_is_lost_and_never_writes_over_the_next_owner(make):
    first, second = make(heartbeat_s=0.01), make()
    first.acquire("r1")
    second.acquire("r2", break_lock=True)
    time.sleep(0.1)
    assert second.holder().run_id == "r2"
    first._thread.join(10)
    assert not first._thread.is_alive()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": "x"}', "\x00\x00"])
def test_a_damaged_lock_file_counts_by_its_age(make, path, text):
    Path(path).parent.mkdir()
    Path(path).write_text(text)
    with pytest.raises(LockedError, match="held by run unknown"):
        make().acquire("r1")
    os.utime(path, (time.time() - 301, time.time() - 301))
    lock = make()
    lock.acquire("r1")
    lock.release()
    Path(path).write_text(text)
    make().acquire("r2", break_lock=True)


def test_while_held_nobody_takes_it_not_even_by_force(make, monkeypatch):
    """Between the last look at the lock and the pointer nobody can slip in."""
    monkeypatch.setattr("conf.lock.GUARD_TIMEOUT_S", 0.1)
    first, second = make(), make()
    first.acquire("r1")
    with first.held(), pytest.raises(LockedError, match="guard is held"):
        second.acquire("r2", break_lock=True)
    first.check()


def test_two_who_race_on_a_file_system_without_exclusive_create_see_one_winner(make, monkeypatch):
    monkeypatch.setattr("conf.lock.SETTLE_S", 0.5)
    monkeypatch.setattr("conf.lock.Lock._is_stale", lambda *_: True)  # both have just seen it free
    other = pafs.SubTreeFileSystem("/", LOCAL)
    locks, outcomes = [make(other), make(other)], []

    def take(lock):
        try:
            lock.acquire("r")
            outcomes.append("won")
        except LockedError:
            outcomes.append("lost")

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost", "won"]
