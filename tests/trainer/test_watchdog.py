"""A worker that hangs shows where, and ends with exit code 7."""

import subprocess
import sys
import time

import pytest

HANGS = """
import time
from trainer.watchdog import Watchdog
watchdog = Watchdog(0.5, lambda sentence: print("told:", sentence, flush=True))
watchdog.start()
def stuck_in_here():
    time.sleep(60)
stuck_in_here()
"""

LAST_WORDS_HANG = HANGS.replace('print("told:", sentence, flush=True)', "time.sleep(60)")

BEATS = """
import time
from trainer.watchdog import Watchdog
watchdog = Watchdog(0.5)
watchdog.start()
for _ in range(15):
    time.sleep(0.1)
    watchdog.beat()
watchdog.stop()
time.sleep(1)
print("alive")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)


def test_a_hang_ends_the_process_and_shows_its_stack() -> None:
    done = run(HANGS)
    assert done.returncode == 7
    assert "no progress for" in done.stderr
    assert "stuck_in_here" in done.stderr
    assert "told: no progress for" in done.stdout


@pytest.mark.slow
def test_last_words_that_hang_too_do_not_save_it() -> None:
    start = time.monotonic()
    assert run(LAST_WORDS_HANG).returncode == 7
    assert time.monotonic() - start < 40


def test_progress_keeps_it_alive() -> None:
    done = run(BEATS)
    assert (done.returncode, done.stdout.strip()) == (0, "alive")
