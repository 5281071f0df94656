"""A script: many processes take one stale lock at the same moment, round after round; prints how many won each round.

python -m tests.faults.race_for_lock FOLDER PROCESSES ROUNDS
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from pyarrow import fs as pafs

from conf.errors import LockedError
from conf.lock import Holder, Lock
from tests.faults.publishing import settings_at


def leave_stale_lock(path: Path) -> None:
    """A lock whose process has ended."""
    pid = os.fork()
    if pid == 0:
        path.write_text(json.dumps(asdict(Holder.here("dead", "r-dead"))))
        os._exit(0)
    os.waitpid(pid, 0)


def contend(path: Path, start: float, results: int, release: int) -> None:
    """Take the lock at `start`; report W or L; a winner keeps it until `release` is closed, so that winners would overlap."""
    lock = Lock(pafs.LocalFileSystem(), str(path), settings_at("unused"))
    time.sleep(max(0.0, start - time.time()))
    try:
        lock.acquire(f"r{os.getpid()}")
    except LockedError:
        os.write(results, b"L")
        return
    os.write(results, b"W")
    os.read(release, 1)
    lock.check()
    lock.release()


def race(path: Path, num: int) -> str:
    """One letter a process: W won, L lost."""
    results_in, results_out = os.pipe()
    release_in, release_out = os.pipe()
    start = time.time() + 0.02 + 0.002 * num
    children = []
    for _ in range(num):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(release_out)
                contend(path, start, results_out, release_in)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    outcome = b""
    while len(outcome) < num:
        outcome += os.read(results_in, num)
    os.close(release_out)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1] != 0]
    for descriptor in (results_in, results_out, release_in):
        os.close(descriptor)
    return outcome.decode() + "X" * len(failed)


def main(folder: str, num: int, rounds: int) -> None:
    """Print the outcome of each round."""
    path = Path(folder) / "lock.json"
    for _ in range(rounds):
        leave_stale_lock(path)
        print(race(path, num), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
