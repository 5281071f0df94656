"""One writer at a time: a lock file that names its owner and shows a heartbeat, and that outlives no dead process for long."""

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Self

from pyarrow import fs as pafs

from conf.errors import Fault, LockedError
from conf.files import write_atomic
from conf.processes import start_time
from conf.settings import Settings

GUARD_TIMEOUT_S = 60.0  # a guard is held for milliseconds; only a process stopped in just that moment holds it longer
SETTLE_S = 1.0  # where no exclusive create exists: how long another writer may be at it still
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. host, namespace, pid, process_start: tell its process from any other. heartbeat: epoch seconds."""

    token: str
    run_id: str
    host: str
    namespace: str
    pid: int
    process_start: float
    heartbeat: float

    @classmethod
    def here(cls, token: str, run_id: str) -> Self:
        """This process, now."""
        pid = os.getpid()
        return cls(token, run_id, socket.gethostname(), _namespace(), pid, start_time(pid) or 0.0, time.time())

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended; never of a process that cannot be seen from here."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return False
        try:
            began = start_time(self.pid)
        except PermissionError:
            return False
        return began is None or abs(began - self.process_start) > 5  # s: start times follow steps of the clock


class Lock:
    """A lock file. Stale when its process is gone (seen on the same machine) or its heartbeat is too old.

    The file is looked at and changed under an operating-system lock beside it, which dies with its process: on local disks, of
    two that take a stale lock, exactly one wins, and no late heartbeat or release touches the lock of the next owner. Elsewhere
    (hdfs, s3) no exclusive create is offered: the file is written and read back, and checked again at the commit.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, settings: Settings) -> None:
        self.fs, self.path = filesystem, path
        self.expiry_s, self.heartbeat_s = settings.storage.lock_expiry_s, settings.storage.heartbeat_s
        self._token = secrets.token_hex(8)
        self._run_id = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, run_id: str, *, break_lock: bool = False) -> None:
        """Take the lock, or raise LockedError naming who holds it."""
        self._run_id = run_id
        self.fs.create_dir(os.path.dirname(self.path))
        with self._guard() as exact:
            holder = self.holder()
            if holder is not None and not break_lock and not self._is_stale(holder):
                raise self._refusal(holder)
            self._write()
        if not exact:
            time.sleep(SETTLE_S)
            self.check()
        self._thread = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LockedError unless the lock is still ours."""
        holder = self.holder()
        if holder is None or holder.token != self._token:
            now_held = "it is gone" if holder is None else f"now held by run {holder.run_id}"
            raise LockedError(self.path, [Fault("the lock was lost before the commit", now_held, "run the job again")])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run the block while the lock is ours and, on local disks, nobody can take it; raises LockedError if it was lost."""
        with self._guard():
            self.check()
            yield

    @property
    def is_taken(self) -> bool:
        """Whether a live run holds it, this one or another."""
        holder = self.holder()
        return holder is not None and not self._is_stale(holder)

    def release(self) -> None:
        """Give the lock back if it is ours; safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        # A lock that cannot be deleted now is stale once this process has ended; it must not hide the error that brought us here.
        with suppress(OSError, LockedError), self._guard():
            if self._is_ours():
                self.fs.delete_file(self.path)

    def holder(self) -> Holder | None:
        """Who holds the lock, or None."""
        try:
            with self.fs.open_input_stream(self.path) as stream:
                return Holder(**json.loads(stream.read()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            # Written by hand or damaged: its age decides, as if it were its heartbeat.
            born = self.fs.get_file_info(self.path).mtime
            return Holder("", "unknown", "unknown", "", 0, 0, born.timestamp() if born else time.time())

    def _is_ours(self) -> bool:
        holder = self.holder()
        return holder is not None and holder.token == self._token

    def _is_stale(self, holder: Holder) -> bool:
        return holder.is_gone or time.time() - holder.heartbeat > self.expiry_s

    def _write(self) -> None:
        write_atomic(self.fs, self.path, json.dumps(asdict(Holder.here(self._token, self._run_id))))

    def _refusal(self, holder: Holder) -> LockedError:
        who = f"held by run {holder.run_id}, process {holder.pid} on {holder.host}"
        age = f"last heartbeat {time.time() - holder.heartbeat:.0f} s ago"
        return LockedError(self.path, [Fault(who, age, "wait for it, or take it with --break-lock if you know that run is dead")])

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat_s):
            # A full disk must not end the heartbeats: one that fails only makes the lock look older.
            with suppress(OSError, LockedError), self._guard():
                if not self._is_ours():
                    return  # lost: the commit finds out
                self._write()

    @contextmanager
    def _guard(self) -> Iterator[bool]:
        """Run the block alone among all that use this lock; yields False where that cannot be had."""
        if not isinstance(self.fs, pafs.LocalFileSystem):
            yield False
            return
        descriptor = os.open(f"{self.path}.guard", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            exact = self._flock(descriptor)
            try:
                yield exact
            finally:
                if exact:
                    # not left to close(): a child forked meanwhile would keep it
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _flock(self, descriptor: int) -> bool:
        deadline = time.monotonic() + GUARD_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LockedError(self.path, [Fault(f"{self.path}.guard is held", fix="find and end the process that hangs")]) from None
                time.sleep(0.01)
            except OSError as error:
                if error.errno in _NO_FLOCK:
                    return False
                raise


def _namespace() -> str:
    """Tells containers of one host name apart: process ids mean nothing across them; "" where the system has no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
