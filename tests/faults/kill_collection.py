"""A script: collect what nobody needs, and be killed (SIGKILL) before the n-th step that touches the disk, for n = 1, 2, ...

    python -m tests.faults.kill_collection FOLDER

After each kill it notes, as one JSON line, what readers see, which runs can be rolled back to with all that they name in place, and
whether collecting again leaves what one collection that nobody killed leaves.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import conf.records
from conf.inventory import runs_named
from conf.removal import remove
from conf.retention import Rule
from conf.storage import Store
from tests.faults.kill_every_step import SteppingFileSystem, Steps
from tests.faults.publishing import DS, JOB, everything_under, publish, read, settings_at


class OneByOne(SteppingFileSystem):
    """Removes a folder file by file, each a step: where a real one may be cut."""

    def delete_dir(self, path):
        for name in sorted(Path(path).rglob("*")):
            self.steps.step(f"delete in {path}")
            os.unlink(name)
        os.rmdir(path)


def build(root: Path) -> None:
    """Three versions of clicks and events, the last current; a killed attempt; a model with checkpoints."""
    settings = settings_at(root)
    store = Store.of(settings)
    for run_id in ("r0", "r1", "r2"):
        publish(store, settings, run_id, run_id, job="ingest")
        publish(store, settings, run_id, run_id, inputs={"clicks": f"main/{DS}/{run_id} 1:{run_id}"})
    publish(store, settings, "r2", "r2", job="train")
    for left in (f"events/ds={DS}/run=killed", f"_work/train/ds={DS}"):
        (root / "main" / left).mkdir(parents=True)
        (root / "main" / left / "half.txt").write_text("half")


def attempt(root: Path, *, kill_at: int, note: Path) -> int:
    """Collect in a forked process; returns its exit code, -9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            stepping = OneByOne()
            stepping.steps = Steps(kill_at, note)
            conf.records.open_root = lambda given: (stepping, given)
            remove(settings_at(root), Rule(keep=1, min_age_h=0), "g", lambda _: None)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sound(root: Path) -> dict[str, list[str]]:
    """job -> the runs that are whole: they can be rolled back to, and every run they name is on record and whole too."""
    settings = settings_at(root)
    store = Store.of(settings)
    for job in (JOB, "ingest", "train"):
        assert read(store, settings, job=job) == {"r2"}
    found = {job: store.runs(job, DS) for job in (JOB, "ingest", "train")}
    for job in (JOB, "ingest", "train"):
        for run_id in found[job]:
            record = store.read_record(store.record_path(job, DS, run_id))
            assert record is not None
            for table in record.tables:
                store.load_manifest(table, record)
            for named in runs_named(record.inputs):
                assert named.run_id in found[named.day.job], f"{job}/{run_id} names {named}, which is gone"
    return found


def left(root: Path) -> list[str]:
    """What lies under the root, the guards of locks aside."""
    return sorted(path for path in everything_under(root) if "_locks" not in path)


def main(folder: str) -> None:
    """Try every step."""
    note, kill_at, killed, whole = Path(folder) / "note", 0, True, Path(folder) / "whole"
    build(whole)
    while killed:
        kill_at += 1
        root = Path(folder) / f"killed-{kill_at}"
        shutil.copytree(whole, root)
        code = attempt(root, kill_at=kill_at, note=note)
        killed = code == -9
        line = {"exit": code, "step": note.read_text().replace(str(root), "ROOT") if killed else "none", "sound": sound(root)}
        line |= {"rerun_exit": attempt(root, kill_at=0, note=note), "sound_after": sound(root), "left": left(root)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
