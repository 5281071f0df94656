"""A script: publish, and be killed (SIGKILL) before the n-th step that touches the disk, for n = 1, 2, ... until a run completes.

    python -m tests.faults.kill_every_step FOLDER first|replace|rollback

After each kill it notes, as one JSON line, what a reader sees, how a rerun of the same run goes, and what is seen then.
Each attempt is a forked process of its own, so that locks are really left by the dead.
"""

import json
import os
import signal
import sys
from pathlib import Path

from pyarrow import fs as pafs

from conf.errors import NotReadyError, TrichannelError
from conf.storage import Store
from tests.faults.publishing import DS, JOB, publish, read, settings_at

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock")


class Steps:
    """Counts what touches the disk, from Python by audit events and from pyarrow by its calls, and kills at the n-th."""

    def __init__(self, kill_at: int, note: Path) -> None:
        self.kill_at, self.note, self.count = kill_at, note, 0
        sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple) -> None:
        if event in _CHANGES or (event == "open" and isinstance(arguments[0], str) and arguments[2] & _WRITING):
            self.step(f"{event} {' '.join(str(a) for a in arguments[:2])}")

    def step(self, what: str) -> None:
        self.count += 1
        if self.count == self.kill_at:
            descriptor = os.open(self.note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # counted, but past kill_at
            os.write(descriptor, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)


class SteppingFileSystem(pafs.LocalFileSystem):
    """pyarrow's file system, whose changes count as steps."""

    steps: Steps

    def create_dir(self, *args, **kwargs):
        self.steps.step(f"create_dir {args[0]}")
        return super().create_dir(*args, **kwargs)

    def delete_dir_contents(self, *args, **kwargs):
        self.steps.step(f"delete_dir_contents {args[0]}")
        return super().delete_dir_contents(*args, **kwargs)

    def delete_file(self, *args, **kwargs):
        self.steps.step(f"delete_file {args[0]}")
        return super().delete_file(*args, **kwargs)


def attempt(root: Path, scenario: str, *, kill_at: int, note: Path) -> int:
    """Publish run r1 (or roll back to r0) in a forked process; returns its wait status, exit code 10 + that of a known error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            settings = settings_at(root)
            store = Store.of(settings)
            store.fs = SteppingFileSystem()
            store.fs.steps = Steps(kill_at, note)
            if scenario == "rollback":
                store.rollback(JOB, DS, "r0", settings)
            else:
                publish(store, settings, "r1", "new")
            code = 0
        except TrichannelError as error:
            code = 10 + error.exit_code
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def seen(root: Path) -> list[str] | str:
    """What a reader sees: contents, or the error."""
    settings = settings_at(root)
    try:
        return sorted(read(Store.of(settings), settings))
    except NotReadyError:
        return []
    except (TrichannelError, AssertionError, OSError) as error:
        return repr(error)


def main(folder: str, scenario: str) -> None:
    """Try every step: publish the first version ever, replace an old one, or roll back to it."""
    note, kill_at, killed = Path(folder) / "note", 0, True
    while killed:
        kill_at += 1
        root = Path(folder) / f"{scenario}-{kill_at}"
        settings = settings_at(root)
        store = Store.of(settings)
        for run_id, content in {"first": [], "replace": [("r0", "old")], "rollback": [("r0", "old"), ("r1", "new")]}[scenario]:
            publish(store, settings, run_id, content)
        lock = root / "main" / "_locks" / JOB / f"ds={DS}.json"
        line: dict = {"before": seen(root)}
        status = attempt(root, scenario, kill_at=kill_at, note=note)
        killed = os.WIFSIGNALED(status)
        line |= {"exit": os.waitstatus_to_exitcode(status), "after": seen(root), "lock_left": lock.exists()}
        line["step"] = f"{kill_at}: {note.read_text().replace(str(root), 'ROOT')}" if killed else "none"
        line["rerun_exit"] = os.waitstatus_to_exitcode(attempt(root, scenario, kill_at=0, note=note))
        record = store.current(JOB, DS)
        line |= {"rerun": seen(root), "hashes": sorted(record.tables.values()) if record else []}
        line |= {"runs": store.runs(JOB, DS), "lock_after_rerun": lock.exists()}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
