"""When processes began: the same by /proc and by psutil, and nothing of those that have ended."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from conf import processes
from conf.processes import start_time


@pytest.fixture(params=["proc", "psutil"])
def _each_way(request, monkeypatch, tmp_path):
    if request.param == "psutil":
        monkeypatch.setattr(processes, "_PROC", tmp_path)


@pytest.mark.usefixtures("_each_way")
def test_a_process_has_a_start_until_it_has_ended():
    assert start_time(os.getpid()) == pytest.approx(psutil.Process().create_time(), abs=1)
    # a name that looks like the fields behind it
    code = "open('/proc/self/comm', 'w').write('x) Z (1 2'); input()" if sys.platform.startswith("linux") else "input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        time.sleep(0.3)
        assert abs(start_time(process.pid) - time.time()) < 60
    finally:
        process.kill()
    deadline = time.monotonic() + 30
    while start_time(process.pid) is not None:  # not reaped: a zombie
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.wait()
    assert start_time(process.pid) is None
