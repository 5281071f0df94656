"""Where a table lives and which version of it is current; how a run is published whole or not at all.

    ROOT/<variant>/<table>/ds=D/run=R/              files under attempt-unique names, manifest.json, _SUCCESS
    ROOT/<variant>/_current/<job>/ds=D.json         the current record: what one run of a job published, all outputs together;
                                                    replaced atomically, the one commit point
    ROOT/<variant>/_records/<job>/ds=D/run=R.json   every record that ever was current, for rollback
    ROOT/<variant>/_locks/<job>/ds=D.json           held while a job writes: owner, heartbeat
    ROOT/_runs/<run_id>.json                        status of every run, failed ones included

Readers follow the pointer and the manifest and never list a folder, so files of lost attempts are never seen.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Self

from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault, NotReadyError, UsageError
from conf.files import hash_file, open_root, storage_faults, write_atomic
from conf.jobs import JOBS, config_hash, producer
from conf.lock import Lock
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
        """The manifest as read from manifest.json; raises KeyError or TypeError if it is none."""
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
        return self._read_record(self._pointer(job, ds, variant or self.variant))

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
            UsageError: there is no such table. NotReadyError: nothing is committed for the day.
            BadDataError: a file is missing or has another size.
        """
        return self.manifests((table,), ds, settings)[table]

    def manifests(self, tables: Iterable[str], ds: str, settings: Settings) -> dict[str, Manifest]:
        """As `manifest`, for several tables; each job's pointer is read once, so tables of one job are of one run.

        The NotReadyError names every table that is not there.
        """
        records: dict[str, Record | None] = {}
        found: dict[str, Manifest] = {}
        faults: list[Fault] = []
        for table in tables:
            job = _producer(table)
            if job not in records:
                records[job] = self.find(job, ds, settings)
            record = records[job]
            if record is None or table not in record.tables:
                days = self.days(job)
                had = f"committed days: {', '.join(days[-5:])}" if days else "no day is committed"
                faults.append(Fault(f"table {table} is not there yet", had, f"run: trichannel {job} --ds {ds}"))
            else:
                found[table] = self.load_manifest(table, record)
        if faults:
            raise NotReadyError(f"{self.base}/{self.variant}, ds={ds}", faults)
        return found

    def load_manifest(self, table: str, record: Record) -> Manifest:
        """The manifest of a table of this record, its files checked as in `manifest`."""
        folder = self.run_folder(table, record.ds, record.run_id, record.variant)
        where = f"table {table}, ds={record.ds}, run={record.run_id}"
        data = self._read_json(f"{folder}/manifest.json")
        if data is None:
            raise BadDataError(where, [Fault("manifest.json is missing", folder, "roll back or run the job again")])
        if data.get("schema_version", 0) > SCHEMA_VERSION:
            found = f"schema {data['schema_version']}, known: {SCHEMA_VERSION}"
            raise BadDataError(where, [Fault("written by a newer version", found, "update the project")])
        try:
            manifest = Manifest.from_json(data)
        except (KeyError, TypeError) as error:
            raise BadDataError(where, [Fault("manifest.json is damaged", str(error), "roll back or run the job again")]) from None
        if manifest.content_hash != record.tables[table]:
            shown = f"content {manifest.content_hash}, committed {record.tables[table]}"
            raise BadDataError(where, [Fault("manifest.json is not the one committed", shown, "roll back or run the job again")])
        infos = self.fs.get_file_info([f"{folder}/{entry.name}" for entry in manifest.files])
        faults = [
            Fault(f"file {entry.name} is damaged", f"{info.size or 0} bytes, want {entry.bytes}", "roll back or run the job again")
            for entry, info in zip(manifest.files, infos, strict=True)
            if info.size != entry.bytes
        ]
        if faults:
            raise BadDataError(where, faults)
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
        """Every run of the job that was ever current for the day, in order of first publication."""
        folder = f"{self.base}/{self.variant}/_records/{job}/ds={ds}"
        infos = self.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        kept = [i for i in infos if i.base_name.startswith("run=") and i.base_name.endswith(".json")]
        names = [i.base_name[4:-5] for i in sorted(kept, key=lambda i: (i.mtime_ns or 0, i.base_name))]
        current = self.current(job, ds)
        if current is not None and current.run_id not in names:
            names.append(current.run_id)  # killed between pointer and record: the next commit writes the record
        return names

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
        with self._locked(job, ds, run_id, settings, break_lock) as lock:
            # Only under the lock: the same run id may just have been committed by another process.
            if run_id in self.runs(job, ds):
                fault = Fault(f"run {run_id} is already committed", fix="give another --run-id, or none")
                raise UsageError(f"job {job}, ds={ds}", [fault])
            yield Publication(self, job, ds, run_id, config_hash(job, settings), dict(inputs or {}), lock)

    def rollback(self, job: str, ds: str, run_id: str, settings: Settings, *, break_lock: bool = False) -> Record:
        """Make an earlier committed run of the job current again, all its outputs together; refused if its files are damaged."""
        with self._locked(job, ds, f"rollback-{run_id}", settings, break_lock) as lock:
            known = self.runs(job, ds)
            if run_id not in known:
                fault = Fault(f"no committed run {run_id}", f"known: {', '.join(known) or 'none'}")
                raise UsageError(f"rollback {job}, ds={ds}", [fault])
            record = self._read_record(self._record_path(job, ds, run_id)) or self.current(job, ds)
            assert record is not None
            for table in record.tables:
                self.load_manifest(table, record)
            self._make_current(record, lock)
        return record

    def _make_current(self, record: Record, lock: Lock) -> None:
        with storage_faults(self.base), lock.held():
            replaced = self.current(record.job, record.ds)
            if replaced is not None:
                self._keep_record(replaced)
            write_atomic(self.fs, self._pointer(record.job, record.ds, self.variant), json.dumps(asdict(record), indent=1))
            # Published. A record that cannot be written now is written from the pointer by the next commit.
            with suppress(OSError):
                self._keep_record(record)

    def _keep_record(self, record: Record) -> None:
        path = self._record_path(record.job, record.ds, record.run_id)
        if self.fs.get_file_info(path).type == pafs.FileType.NotFound:
            write_atomic(self.fs, path, json.dumps(asdict(record), indent=1))

    @contextmanager
    def _locked(self, job: str, ds: str, run_id: str, settings: Settings, break_lock: bool) -> Iterator[Lock]:
        lock = Lock(self.fs, f"{self.base}/{self.variant}/_locks/{job}/ds={ds}.json", settings)
        with storage_faults(self.base):
            lock.acquire(run_id, break_lock=break_lock)
        try:
            yield lock
        finally:
            lock.release()

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
        if not isinstance(data, dict):
            raise BadDataError(path, [Fault("is no JSON object", str(data)[:80], "remove it and run the job again")])
        return data

    def _read_record(self, path: str) -> Record | None:
        data = self._read_json(path)
        try:
            return Record(**data) if data is not None else None
        except TypeError as error:
            raise BadDataError(path, [Fault("is no record of a run", str(error), "remove it and run the job again")]) from None


class Publication:
    """The outputs of one run while they are written. Use through `Store.publication`."""

    def __init__(self, store: Store, job: str, ds: str, run_id: str, config: str, inputs: dict[str, str], lock: "Lock") -> None:
        self.store, self.job, self.ds, self.run_id, self.config_hash, self.inputs = store, job, ds, run_id, config, inputs
        self._lock, self._tables = lock, dict[str, str]()
        self.attempt = secrets.token_hex(4)  # goes into file names: what a killed attempt still writes is never taken for ours

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
        self.store._make_current(record, self._lock)
        return record


def _producer(table: str) -> str:
    try:
        return producer(table)
    except KeyError:
        known = [name for spec in JOBS.values() for name in spec.outputs]
        near = get_close_matches(table, known, n=1)
        fix = f"did you mean: {near[0]} ?" if near else ""
        raise UsageError("storage", [Fault(f"unknown table {table!r}", f"known: {', '.join(known)}", fix)]) from None


__all__ = [
    "MAIN",
    "FileEntry",
    "Manifest",
    "Publication",
    "Record",
    "Store",
    "hash_file",
    "new_run_id",
    "now",
    "open_root",
    "storage_faults",
    "write_atomic",
]
