"""Kill -9 at every step of gc: no reader notices, no run that rollback knows is half gone, and the next gc finishes the work."""

import json
import subprocess
import sys


def test_killed_at_any_step_nothing_wrong_is_left_and_the_next_one_finishes(memory_path):
    command = [sys.executable, "-m", "tests.faults.kill_collection", str(memory_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *killed, completed = [json.loads(line) for line in done.stdout.splitlines()]
    assert completed["exit"] == 0
    assert {line["exit"] for line in killed} == {-9}
    whole, wanted = ["r0", "r1", "r2"], {"events": ["r1", "r2"], "ingest": ["r1", "r2"], "train": ["r2"]}
    assert killed[0]["sound"] == wanted | {"events": whole, "ingest": whole}
    assert completed["sound"] == wanted
    for line in killed:
        assert line["rerun_exit"] == 0, line
        assert line["sound_after"] == wanted, line
        assert line["left"] == completed["left"], line
    assert not any("r0" in path or "killed" in path or "half" in path for path in completed["left"])
    steps = " ".join(line["step"] for line in killed)
    words = [f"{table}/ds=2026-01-31/run=r0" for table in ("events", "user_state", "clicks", "rejects")]
    for word in [*words, "_records/events", "_records/ingest", "run=killed", "_work/train", "_locks"]:
        assert word in steps, f"no step of this kind was counted: {word}"
