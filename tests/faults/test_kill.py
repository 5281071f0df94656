"""Kill -9 at every step of publishing and of rolling back: a reader sees the old tables whole or the new ones whole."""

import json
import subprocess
import sys

import pytest

POINTER = "os.rename ROOT/main/_current/"
KINDS = ["_locks", "create_dir", "_current", "delete_file", "flock"]
WRITING = ["delete_dir_contents", ".txt", "manifest.json", "_SUCCESS", "_records"]


def _run(memory_path, scenario):
    command = [sys.executable, "-m", "tests.faults.kill_every_step", str(memory_path), scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("scenario", "old", "new"), [("first", [], ["new"]), ("replace", ["old"], ["new"]), ("rollback", ["new"], ["old"])]
)
def test_killed_at_any_step_readers_see_old_or_new_whole_and_the_rerun_mends_it(memory_path, scenario, old, new):
    attempts = _run(memory_path, scenario)
    *killed, completed = attempts
    assert completed["exit"] == 0
    assert {line["exit"] for line in killed} == {-9}
    commit = [i for i, line in enumerate(killed) if POINTER in line["step"]]
    assert len(commit) == 1, "one rename is the commit point"
    for i, line in enumerate(attempts):
        assert line["before"] == old, line
        # killed before the rename of the pointer: the old tables, all of them; after it: the new ones, all of them
        assert line["after"] == (old if i <= commit[0] else new), line
        assert line["rerun"] == new, line
        assert len(set(line["hashes"])) == 1, line
        assert not line["lock_after_rerun"], line
        committed = i > commit[0] and scenario != "rollback"
        assert line["rerun_exit"] == (12 if committed else 0), line  # 12: UsageError, this run is already committed
    assert any(line["lock_left"] for line in killed), "none was killed while it held the lock"
    steps = " ".join(line["step"] for line in killed)
    for word in KINDS + WRITING * (scenario != "rollback"):
        assert word in steps, f"no step of this kind was counted: {word}"
