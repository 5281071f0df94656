"""Kill -9 at every step of erase: readers see the old run whole or the new one, no run is lost, and the next erase finishes the work."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_at_any_step_no_run_is_lost_and_the_next_one_finishes(memory_path):
    command = [sys.executable, "-m", "tests.faults.kill_erasure", str(memory_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *killed, completed = [json.loads(line) for line in done.stdout.splitlines()]
    assert completed["exit"] == 0
    assert {line["exit"] for line in killed} == {-9}
    erased = {job: ["bob_r2", "ann_bob_r1", "ann_r0", "bob_r2"] for job in ("ingest", "events")}
    assert completed["seen"] == erased
    for line in killed:
        for current, *runs in line["seen"].values():
            assert current in ("eve_bob_r2", "bob_r2"), line
            assert {text.replace("eve_", "").replace("_eve", "") for text in runs} == {"ann_bob_r1", "ann_r0", "bob_r2"}, line
        if "eve_bob_r2" not in line["seen"]["ingest"]:
            assert "eve_bob_r2" not in line["seen"]["events"], f"an earlier job went first: {line}"
        assert (line["rerun_exit"], line["seen_after"]) == (0, erased), line
        assert line["left"] == completed["left"], line
    assert not any("run=killed" in path or "run=r0/" in path or "run=r2/" in path for path in completed["left"])
    steps = " ".join(line["step"] for line in killed)
    for word in ("run=r2.erased-1", "_current/events", "_records/events", "events/ds=2026-01-31/run=r2", "run=killed", "_locks"):
        assert word in steps, f"no step of this kind was counted: {word}"
