"""A folder of one host for files that live for a moment; what a killed process left of its own goes when the next one needs a folder.

The one that made a folder holds a lock on it, which ends with the process, however that ends: a folder that nobody locks is nobody's.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conf.files import storage_faults

PREFIX = "trichannel-shared-"
WHERE = "TMPDIR"  # the variable that says where temporary files go: system disks are often small


@contextmanager
def scratch(base: Path, name: str) -> Iterator[tuple[Path, bool]]:
    """The folder of this name below `base`, and whether this process writes there: the first to come. It removes the folder at the end.

    Raises:
        StorageError: the disk is full or not writable, whoever finds that in the block.
    """
    folder = base / f"{PREFIX}{name}"
    with storage_faults(str(folder), place=WHERE):
        _sweep(base)
        lock = _made(folder)
        try:
            yield folder, lock is not None
        finally:
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _made(folder: Path) -> int | None:
    """The lock on the folder, of the process that came first; None for the others."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # swept away before it was locked: again
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: nobody can sweep there, either
                # Shared: whoever sweeps is waited for, never the one that came first, who may be waiting for this process.
                fcntl.flock(lock, fcntl.LOCK_SH)
            if _is(folder, lock):
                if _is_first(folder):
                    return lock
                os.close(lock)
                return None
            os.close(lock)


def _is_first(folder: Path) -> bool:
    """Whether no other process has said so of the folder before."""
    try:
        (folder / "writer").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _is(folder: Path, lock: int) -> bool:
    """Whether the locked folder is the one of that name still, or again."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _sweep(base: Path) -> None:
    """Remove what killed processes left."""
    for left in base.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or just gone
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)
