"""Locks between real processes: one writer at a time, the dead make way at once, the lost lock is noticed at the commit."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conf.storage import Store
from tests.faults.publishing import DS, JOB, publish, read, settings_at


@pytest.fixture
def start(tmp_path):
    """start(run_id, content, *timing) -> process that waits before its commit; it goes on when tmp_path/go exists."""
    processes = []

    def start(run_id, content, *timing):
        command = [sys.executable, "-m", "tests.faults.publish_slowly", str(tmp_path / "root"), run_id, content, str(tmp_path / "go")]
        processes.append(subprocess.Popen([*command, *timing], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


def _until_writing(process):
    assert process.stdout.readline() == "writing\n", process.stderr.read()


@pytest.fixture
def settings(tmp_path):
    return settings_at(tmp_path / "root")


def test_two_at_once_one_publishes_and_the_other_ends_with_exit_5(start, tmp_path, settings):
    first = start("r1", "one")
    _until_writing(first)
    second = start("r2", "two")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 5
    assert "held by run r1" in err
    assert f"process {first.pid}" in err
    assert "Traceback" not in err
    (tmp_path / "go").touch()
    assert first.wait(60) == 0
    assert read(Store.of(settings), settings) == {"one"}


def test_a_killed_owner_makes_way_at_once_without_force(start, settings):
    first = start("r1", "one")
    _until_writing(first)
    first.kill()
    # wait until it has ended but do not reap it: a zombie, as under a container's first process
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    store = Store.of(settings)
    publish(store, settings, "r2", "two")
    assert read(store, settings) == {"two"}


def test_terminated_owner_gives_the_lock_back_and_ends_with_143(start, tmp_path, settings):
    first = start("r1", "one")
    _until_writing(first)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 143
    assert not (tmp_path / "root" / "main" / "_locks" / JOB / f"ds={DS}.json").exists()
    store = Store.of(settings)
    assert store.current(JOB, DS) is None
    publish(store, settings, "r1", "again")


def test_a_stopped_owner_loses_its_lock_after_the_expiry_and_notices_at_the_commit(start, tmp_path, settings):
    first = start("r1", "one", "100", "300")  # no heartbeat soon: it must not be stopped in the middle of one
    _until_writing(first)
    first.send_signal(signal.SIGSTOP)
    impatient = settings_at(tmp_path / "root", storage={"lock_expiry_s": 1.0, "heartbeat_s": 0.1})
    time.sleep(1.5)
    store = Store.of(impatient)
    publish(store, impatient, "r2", "two")  # the process lives, but its heartbeat is too old
    first.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 5
    assert "the lock was lost before the commit" in err
    assert read(store, settings) == {"two"}
    assert store.runs(JOB, DS) == ["r2"]


def test_break_lock_makes_the_former_owner_fail_at_its_commit(start, tmp_path, settings):
    first = start("r1", "one")
    _until_writing(first)
    store = Store.of(settings)
    publish(store, settings, "r2", "two", break_lock=True)
    (tmp_path / "go").touch()
    first.communicate(timeout=60)
    assert first.returncode == 5
    assert read(store, settings) == {"two"}


def test_of_many_that_take_one_stale_lock_exactly_one_wins(memory_path):
    num, rounds = 12, 25
    command = [sys.executable, "-m", "tests.faults.race_for_lock", str(memory_path), str(num), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    outcomes = done.stdout.split()
    assert len(outcomes) == rounds
    assert {"".join(sorted(outcome)) for outcome in outcomes} == {"L" * (num - 1) + "W"}


def test_readers_never_see_a_mixture_while_versions_are_published(memory_path):
    """Two outputs of one job, republished as fast as can be: every read finds both of one version, and versions only go on."""
    settings = settings_at(memory_path)
    store = Store.of(settings)
    publish(store, settings, "r000", "0")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for version in range(1, 80):
                publish(store, settings, f"r{version:03}", str(version))
            code = 0
        finally:
            os._exit(code)
    versions, status = [], (0, 0)
    while status == (0, 0):
        (version,) = read(store, settings)
        versions.append(int(version))
        status = os.waitpid(pid, os.WNOHANG)
    assert status == (pid, 0)
    assert versions == sorted(versions)
    assert read(store, settings) == {"79"}
