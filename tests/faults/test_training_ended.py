"""The pipeline is told to end while it trains: the launcher and its workers end with it, politely first."""

import subprocess
import sys
import time

import psutil
import pytest

# Stands for horovodrun: starts a worker in a session of its own, passes SIGTERM on, and waits for it.
LAUNCHER = """
import signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
sys.exit(worker.wait())
"""
POLITE = """
import os, signal, sys, time
def bye(*_):
    open(os.environ["NOTE"], "a").write("gave back\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
open(os.environ["NOTE"], "a").write("working\\n")
time.sleep(300)
"""
STUBBORN = POLITE.replace("signal.signal(signal.SIGTERM, bye)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
PIPELINE = """
import os, sys
from conf.command import guarded
from spark_jobs.launcher import run_tree
command = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
sys.exit(guarded(lambda: run_tree(command, env=os.environ, grace_s=1)))
"""


def started(process, note) -> list[psutil.Process]:
    """What the pipeline started, once the worker works."""
    deadline = time.monotonic() + 60
    while not note.exists():
        assert time.monotonic() < deadline, "the worker never started"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    return family


@pytest.mark.parametrize(("worker", "note"), [(POLITE, "working\ngave back\n"), (STUBBORN, "working\n")], ids=["polite", "stubborn"])
def test_launcher_and_workers_end_with_the_pipeline(tmp_path, monkeypatch, worker, note):
    monkeypatch.setenv("NOTE", str(tmp_path / "note"))
    process = subprocess.Popen([sys.executable, "-c", PIPELINE, LAUNCHER, worker])
    family = []
    try:
        family = started(process, tmp_path / "note")
        process.terminate()
        assert process.wait(timeout=60) == 143
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, "a worker outlived the pipeline"
        assert (tmp_path / "note").read_text() == note
    finally:
        process.kill()
        process.wait()
        for one in family:
            if one.is_running():
                one.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent was killed")
def test_launcher_and_workers_end_when_the_pipeline_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTE", str(tmp_path / "note"))
    process = subprocess.Popen([sys.executable, "-c", PIPELINE, LAUNCHER, POLITE])
    family = started(process, tmp_path / "note")
    try:
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, "a worker outlived the pipeline"
        assert (tmp_path / "note").read_text() == "working\ngave back\n"
    finally:
        for one in family:
            if one.is_running():
                one.kill()


def test_exit_code_of_a_command_that_ends_by_itself():
    from spark_jobs.launcher import run_tree

    assert run_tree([sys.executable, "-c", "raise SystemExit(9)"], env={}) == 9
