"""How much memory a stage takes, of this process and all that it started."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


class Peak:
    """The largest resident memory seen, of this process and all below it."""

    def __init__(self) -> None:
        self.megabytes = 0


@contextmanager
def peak_memory(every_s: float = 0.5) -> Iterator[Peak]:
    """Sample the memory of the process tree while the block runs."""
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while True:
            peak.megabytes = max(peak.megabytes, tree_megabytes())
            if stop.wait(every_s):
                return

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def tree_megabytes() -> int:
    """Resident memory of this process and its descendants, MB; pages they share are counted once a process."""
    total = 0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total // 2**20
