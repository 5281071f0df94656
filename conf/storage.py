"""Where a table lives and which version of it is current; how a run is published whole or not at all.

    ROOT/<variant>/<table>/ds=D/run=R/          files under attempt-unique names, manifest.json, _SUCCESS
    ROOT/<variant>/_records/<job>/ds=D/run=R.json   what one run of a job committed, all outputs together
    ROOT/<variant>/_current/<job>/ds=D.json     the current record: replaced atomically, the one commit point
    ROOT/<variant>/_locks/<job>/ds=D.json       held while a job writes: owner, heartbeat
    ROOT/_runs/<run_id>.json                    status of every run, failed ones included

Readers follow the pointer and the manifest and never list a folder, so files of lost attempts are never seen.
"""

import errno
import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from pyarrow import fs as pafs

from conf.errors import USAGE, BadDataError, Fault, LockedError, NotReadyError, StorageError, UsageError
from conf.jobs import config_hash, producer
from conf.settings import Settings
from conf.tables import SCHEMA_VERSION

MAIN = "main"


@dataclass(frozen=True)
class FileEntry:
    """name: relative to the run folder. rows: 0 where the file holds none (indexes, models). row_group_rows: of a Parquet file."""

    name: str
    rows: int
    bytes: int
    sha256: str
    row_group_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The truth about one run of one table.

    content_hash: "rows:hex", independent of file and row order. facts: what later stages need to know of the data (has_clock,
    user_key_type, item_key_type ...). counters: what was kept, dropped and why. inputs: table -> "variant/ds/run content_hash".
    """

    table: str
    job: str
    variant: str
    ds: str
    run_id: str
    rows: int
    content_hash: str
    files: tuple[FileEntry, ...]
    config_hash: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def identity(self) -> str:
        """How a run that reads this one names it among its inputs."""
        return f"{self.variant}/{self.ds}/{self.run_id} {self.content_hash}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The manifest as read from manifest.json."""
        files = tuple(FileEntry(**{**f, "row_group_rows": tuple(f["row_group_rows"])}) for f in data["files"])
        return cls(**{**data, "files": files})


@dataclass(frozen=True)
class Record:
    """What one run of a job committed: the unit that becomes current."""

    job: str
    variant: str
    ds: str
    run_id: str
    config_hash: str
    tables: Mapping[str, str]  # table -> content_hash
    inputs: Mapping[str, str]
    committed_at: str


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """Sorts by time, unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def open_root(root: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `root` and the path in it; a path without a scheme is local and made absolute."""
    if "://" in root:
        filesystem, path = pafs.FileSystem.from_uri(root)
        return filesystem, path
    return pafs.LocalFileSystem(), str(Path(root).expanduser().resolve())


class Store:
    """The tables of one variant under one root. Reading falls back to `main` where the settings that shaped a table are equal."""

    def __init__(self, root: str, variant: str = MAIN) -> None:
        self.fs, self.base = open_root(root)
        self._prefix = root.rstrip("/") if "://" in root else ""
        self.variant = variant

    @classmethod
    def of(cls, settings: Settings, variant: str = MAIN) -> Self:
        """The store under settings.storage.root."""
        return cls(settings.storage.root, variant)

    # ---- paths -------------------------------------------------------------------------------------------------

    def uri(self, path: str) -> str:
        """A path under the root as Spark and other readers take it."""
        return f"{self._prefix}{path.removeprefix(self.base)}" if self._prefix else path

    def run_folder(self, table: str, ds: str, run_id: str, variant: str | None = None) -> str:
        """Where a run of a table lives, a path on `fs`."""
        return f"{self.base}/{variant or self.variant}/{table}/ds={ds}/run={run_id}"

    def _pointer(self, job: str, ds: str, variant: str) -> str:
        return f"{self.base}/{variant}/_current/{job}/ds={ds}.json"

    def _record_path(self, job: str, ds: str, run_id: str) -> str:
        return f"{self.base}/{self.variant}/_records/{job}/ds={ds}/run={run_id}.json"

    # ---- reading -----------------------------------------------------------------------------------------------

    def current(self, job: str, ds: str, variant: str | None = None) -> Record | None:
        """The committed record of the job for the day in this variant (or the given one), or None."""
        data = self._read_json(self._pointer(job, ds, variant or self.variant))
        return Record(**data) if data else None

    def find(self, job: str, ds: str, settings: Settings) -> Record | None:
        """The record that a reader with these settings uses: this variant's, else main's if shaped by equal settings."""
        own = self.current(job, ds)
        if own is not None or self.variant == MAIN:
            return own
        shared = self.current(job, ds, MAIN)
        return shared if shared is not None and shared.config_hash == config_hash(job, settings) else None

    def manifest(self, table: str, ds: str, settings: Settings) -> Manifest:
        """The manifest of the table's current run, its files checked to be there in full size.

        Raises:
            NotReadyError: nothing is committed for the day. BadDataError: a file is missing or has another size.
        """
        job = producer(table)
        record = self.find(job, ds, settings)
        if record is None or table not in record.tables:
            days = self.days(job)
            had = f"committed days: {', '.join(days[-5:])}" if days else "no day is committed"
            raise NotReadyError(f"table {table}, ds={ds}", [Fault("is not there yet", had, f"run: trichannel {job} --ds {ds}")])
        return self.load_manifest(table, record)

    def load_manifest(self, table: str, record: Record) -> Manifest:
        """The manifest of a table of this record, its files checked as in `manifest`."""
        folder = self.run_folder(table, record.ds, record.run_id, record.variant)
        data = self._read_json(f"{folder}/manifest.json")
        if data is None:
            raise BadDataError(f"table {table}, ds={record.ds}", [Fault("manifest.json is missing", folder, "roll back or run it again")])
        manifest = Manifest.from_json(data)
        infos = self.fs.get_file_info([f"{folder}/{entry.name}" for entry in manifest.files])
        faults = [
            Fault(f"file {entry.name} is damaged", f"{info.size} bytes, want {entry.bytes}", "roll back or run the job again")
            for entry, info in zip(manifest.files, infos, strict=True)
            if info.size != entry.bytes
        ]
        if faults:
            raise BadDataError(f"table {table}, ds={record.ds}, run={record.run_id}", faults)
        return manifest

    def folder_of(self, manifest: Manifest) -> str:
        """The run folder of the table, a path on `fs`."""
        return self.run_folder(manifest.table, manifest.ds, manifest.run_id, manifest.variant)

    def files_of(self, manifest: Manifest) -> list[str]:
        """The data files, as paths or URIs that Spark and pyarrow open."""
        return [self.uri(f"{self.folder_of(manifest)}/{entry.name}") for entry in manifest.files]

    def days(self, job: str, variant: str | None = None) -> list[str]:
        """Committed days of the job, oldest first; the last one is "latest"."""
        folder = f"{self.base}/{variant or self.variant}/_current/{job}"
        infos = self.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        return sorted(i.base_name[3:-5] for i in infos if i.base_name.startswith("ds=") and i.base_name.endswith(".json"))

    def runs(self, job: str, ds: str) -> list[str]:
        """Every run of the job that was ever committed for the day, oldest first."""
        folder = f"{self.base}/{self.variant}/_records/{job}/ds={ds}"
        infos = self.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        return sorted(i.base_name[4:-5] for i in infos if i.base_name.startswith("run=") and i.base_name.endswith(".json"))

    # ---- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def publication(
        self, job: str, ds: str, run_id: str, settings: Settings, *, inputs: Mapping[str, str] | None = None, break_lock: bool = False
    ) -> Iterator["Publication"]:
        """Hold the job's lock for the day while its outputs are written; nothing is visible before `Publication.commit`.

        Raises:
            LockedError: another live run holds the lock. UsageError: `run_id` was committed before.
            StorageError: the root cannot be written, or is full.
        """
        if run_id in self.runs(job, ds):
            raise UsageError(f"job {job}, ds={ds}", [Fault(f"run {run_id} is already committed", fix="give another --run-id, or none")])
        with storage_faults(self.base):
            lock = Lock(self.fs, f"{self.base}/{self.variant}/_locks/{job}/ds={ds}.json", settings)
            lock.acquire(run_id, break_lock=break_lock)
        try:
            yield Publication(self, job, ds, run_id, config_hash(job, settings), dict(inputs or {}), lock)
        finally:
            lock.release()

    def rollback(self, job: str, ds: str, run_id: str, settings: Settings) -> Record:
        """Make an earlier committed run of the job current again, all its outputs together."""
        known = self.runs(job, ds)
        if run_id not in known:
            raise UsageError(f"rollback {job}, ds={ds}", [Fault(f"no committed run {run_id}", f"known: {', '.join(known) or 'none'}")])
        data = self._read_json(self._record_path(job, ds, run_id))
        assert data is not None
        record = Record(**data)
        for table in record.tables:
            self.load_manifest(table, record)
        with storage_faults(self.base):
            lock = Lock(self.fs, f"{self.base}/{self.variant}/_locks/{job}/ds={ds}.json", settings)
            lock.acquire(f"rollback-{run_id}")
            try:
                write_atomic(self.fs, self._pointer(job, ds, self.variant), json.dumps(asdict(record), indent=1))
            finally:
                lock.release()
        return record

    def write_status(self, run_id: str, status: Mapping[str, Any]) -> None:
        """ROOT/_runs/<run_id>.json: replaced whole at each change of status."""
        with storage_faults(self.base):
            write_atomic(self.fs, f"{self.base}/_runs/{run_id}.json", json.dumps(status, indent=1, default=str))

    def read_status(self, run_id: str) -> dict[str, Any] | None:
        """The status file of a run, or None."""
        return self._read_json(f"{self.base}/_runs/{run_id}.json")

    def _read_json(self, path: str) -> dict[str, Any] | None:
        try:
            with self.fs.open_input_stream(path) as stream:
                data = json.loads(stream.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadDataError(path, [Fault("is not valid JSON", str(error), "remove it and run the job again")]) from None
        return dict(data)


class Publication:
    """The outputs of one run while they are written. Use through `Store.publication`."""

    def __init__(self, store: Store, job: str, ds: str, run_id: str, config: str, inputs: dict[str, str], lock: "Lock") -> None:
        self.store, self.job, self.ds, self.run_id, self.config_hash, self.inputs = store, job, ds, run_id, config, inputs
        self._lock, self._tables = lock, dict[str, str]()
        self.attempt = secrets.token_hex(4)  # goes into file names, so that a rerun never overwrites what an earlier attempt left

    def folder(self, table: str) -> str:
        """The run folder of the table, created and emptied of what a killed attempt of the same run left behind."""
        folder = self.store.run_folder(table, self.ds, self.run_id)
        with storage_faults(folder):
            self.store.fs.create_dir(folder)
            self.store.fs.delete_dir_contents(folder)
        return folder

    def seal(
        self,
        table: str,
        files: Sequence[FileEntry],
        *,
        rows: int,
        content_hash: str,
        facts: Mapping[str, Any] | None = None,
        counters: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Write manifest.json, then _SUCCESS; the table is complete but not yet current."""
        manifest = Manifest(
            table=table,
            job=self.job,
            variant=self.store.variant,
            ds=self.ds,
            run_id=self.run_id,
            rows=rows,
            content_hash=content_hash,
            files=tuple(sorted(files, key=lambda f: f.name)),
            config_hash=self.config_hash,
            inputs=self.inputs,
            facts=dict(facts or {}),
            counters=dict(counters or {}),
            versions=dict(versions or {}),
            created_at=now(),
        )
        folder = self.store.folder_of(manifest)
        with storage_faults(folder):
            write_atomic(self.store.fs, f"{folder}/manifest.json", json.dumps(asdict(manifest), indent=1))
            write_atomic(self.store.fs, f"{folder}/_SUCCESS", "")
        self._tables[table] = content_hash
        return manifest

    def commit(self) -> Record:
        """Make every sealed output current at once; the lock must still be ours."""
        record = Record(
            self.job, self.store.variant, self.ds, self.run_id, self.config_hash, dict(self._tables), self.inputs, committed_at=now()
        )
        text = json.dumps(asdict(record), indent=1)
        with storage_faults(self.store.base):
            write_atomic(self.store.fs, self.store._record_path(self.job, self.ds, self.run_id), text)
            self._lock.check()
            write_atomic(self.store.fs, self.store._pointer(self.job, self.ds, self.store.variant), text)
        return record


class Lock:
    """A lock file created if absent, with a heartbeat. Stale when its process is gone (same host) or its heartbeat is too old."""

    def __init__(self, filesystem: pafs.FileSystem, path: str, settings: Settings) -> None:
        self.fs, self.path = filesystem, path
        self.expiry_s, self.heartbeat_s = settings.storage.lock_expiry_s, settings.storage.heartbeat_s
        self._token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._owner: dict[str, Any] = {}

    def acquire(self, run_id: str, *, break_lock: bool = False) -> None:
        """Take the lock, or raise LockedError naming who holds it."""
        process = psutil.Process()
        self._owner = {
            "token": self._token,
            "run_id": run_id,
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_start": process.create_time(),
        }
        self.fs.create_dir(os.path.dirname(self.path))
        for _ in range(10):
            if create_if_absent(self.fs, self.path, self._body()):
                self._thread = threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True)
                self._thread.start()
                return
            holder = self._holder()
            if holder is None:
                continue
            if not (break_lock or self._is_stale(holder)):
                raise LockedError(
                    self.path,
                    [
                        Fault(
                            f"held by run {holder['run_id']}, process {holder['pid']} on {holder['host']}",
                            f"last heartbeat {time.time() - holder['heartbeat']:.0f} s ago",
                            "wait for it, or take it with --break-lock if you know that run is dead",
                        )
                    ],
                )
            self._remove(holder)
        raise LockedError(self.path, ["others keep taking the lock first"])

    def check(self) -> None:
        """Raise LockedError unless the lock is still ours."""
        holder = self._holder()
        if holder is None or holder["token"] != self._token:
            now_held = "it is gone" if holder is None else f"now held by run {holder['run_id']}"
            raise LockedError(self.path, [Fault("the lock was lost before the commit", now_held, "run the job again")])

    def release(self) -> None:
        """Give the lock back if it is ours; safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        holder = self._holder()
        if holder is not None and holder["token"] == self._token:
            self.fs.delete_file(self.path)

    def _body(self) -> str:
        return json.dumps({**self._owner, "heartbeat": time.time()})

    def _holder(self) -> dict[str, Any] | None:
        try:
            with self.fs.open_input_stream(self.path) as stream:
                return dict(json.loads(stream.read()))
        except FileNotFoundError:
            return None
        except ValueError:
            # Created but not yet filled: its owner died between the two, or is about to write. Age decides.
            info = self.fs.get_file_info(self.path)
            born = info.mtime.timestamp() if info.mtime else time.time()
            return {"token": "", "run_id": "unknown", "host": "", "pid": 0, "process_start": 0, "heartbeat": born}

    def _is_stale(self, holder: Mapping[str, Any]) -> bool:
        if holder["host"] == socket.gethostname():
            try:
                alive = abs(psutil.Process(holder["pid"]).create_time() - holder["process_start"]) < 1
            except psutil.NoSuchProcess:
                alive = False
            if not alive:
                return True
        return time.time() - float(holder["heartbeat"]) > self.expiry_s

    def _remove(self, holder: Mapping[str, Any]) -> None:
        """Take a stale lock away. Two may try: only one rename works, and what was renamed must be what was judged."""
        aside = f"{self.path}.stale-{self._token}"
        try:
            self.fs.move(self.path, aside)
        except FileNotFoundError:
            return
        with self.fs.open_input_stream(aside) as stream:
            body = stream.read()
        token = json.loads(body)["token"] if body else ""
        if token != holder["token"]:
            create_if_absent(self.fs, self.path, body.decode())
        self.fs.delete_file(aside)

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat_s):
            holder = self._holder()
            if holder is None or holder["token"] != self._token:
                return  # lost: commit() finds out
            try:
                write_atomic(self.fs, self.path, self._body())
            except OSError:
                continue  # a full disk must not kill the thread; an old heartbeat only makes the lock look older


def create_if_absent(filesystem: pafs.FileSystem, path: str, text: str) -> bool:
    """Create the file with this text, or return False if it is there. Exact on local disks.

    Elsewhere pyarrow offers no exclusive create: the file is written and read back, so two that race see one winner.
    """
    if isinstance(filesystem, pafs.LocalFileSystem):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text)
        return True
    if filesystem.get_file_info(path).type != pafs.FileType.NotFound:
        return False
    write_atomic(filesystem, path, text)
    time.sleep(1)  # let a racing writer finish, then see whose text stayed
    with filesystem.open_input_stream(path) as stream:
        return bool(stream.read().decode() == text)


def write_atomic(filesystem: pafs.FileSystem, path: str, text: str) -> None:
    """Write the whole file or leave the old one: under another name first, synced to disk, then renamed over it."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        filesystem.create_dir(os.path.dirname(path))
        temporary = f"{path}.tmp-{secrets.token_hex(4)}"
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(text.encode())
        filesystem.move(temporary, path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.tmp-{secrets.token_hex(4)}"
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def hash_file(filesystem: pafs.FileSystem, path: str) -> tuple[int, str]:
    """(bytes, sha256 hex) of a file."""
    digest, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def storage_faults(where: str) -> Iterator[None]:
    """Turn a full disk or a refused write into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(where, [Fault("the disk is full", fix="free space or change storage.root, then run again")]) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            fault = Fault("cannot be written", error.strerror or str(error), "set storage.root to a folder you can write")
            raise StorageError(where, [fault], exit_code=USAGE) from error
        raise
