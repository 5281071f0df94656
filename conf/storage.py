"""Where a table lives and which version of it is current; how a run is published whole or not at all.

    ROOT/<variant>/<table>/ds=D/run=R/              files under attempt-unique names, manifest.json, _SUCCESS
    ROOT/<variant>/_current/<job>/ds=D.json         the current record: what one run of a job published, all outputs together;
                                                    replaced atomically, the one commit point
    ROOT/<variant>/_records/<job>/ds=D/run=R.json   every record that ever was current, for rollback
    ROOT/<variant>/_locks/<job>/ds=D.json           held while a job writes: owner, heartbeat
    ROOT/_runs/<run_id>.json                        status of every run, failed ones included

Readers follow the pointer and the manifest and never list a folder, so files of lost attempts are never seen.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Self

from conf.errors import BadDataError, Fault, NotReadyError, UsageError
from conf.files import storage_faults
from conf.jobs import JOBS, config_hash, producer
from conf.lock import Lock
from conf.manifest import FileEntry, Manifest, Record
from conf.publication import Publication
from conf.records import MAIN, Records
from conf.settings import Settings
from conf.tables import SCHEMA_VERSION


class Store(Records):
    """The tables of one variant under one root. Reading falls back to `main` where the settings that shaped a table are equal."""

    @classmethod
    def of(cls, settings: Settings, variant: str = MAIN) -> Self:
        """The store under settings.storage.root."""
        return cls(settings.storage.root, variant)

    # ---- reading -----------------------------------------------------------------------------------------------

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
        data = self.read_json(f"{folder}/manifest.json")
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

    def files_of(self, manifest: Manifest) -> list[str]:
        """The data files, as paths or URIs that Spark and pyarrow open."""
        return [self.uri(f"{self.folder_of(manifest)}/{entry.name}") for entry in manifest.files]

    # ---- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def publication(
        self, job: str, ds: str, run_id: str, settings: Settings, *, inputs: Mapping[str, str] | None = None, break_lock: bool = False
    ) -> Iterator[Publication]:
        """Hold the job's lock for the day while its outputs are written; nothing is visible before `Publication.commit`.

        Raises:
            LockedError: another live run holds the lock. UsageError: `run_id` was committed before.
            StorageError: the root cannot be written, or is full.
        """
        with self.locked(job, ds, run_id, settings, break_lock) as lock:
            # Only under the lock: the same run id may just have been committed by another process.
            if run_id in self.runs(job, ds):
                fault = Fault(f"run {run_id} is already committed", fix="give another --run-id, or none")
                raise UsageError(f"job {job}, ds={ds}", [fault])
            yield Publication(self, job, ds, run_id, config_hash(job, settings), dict(inputs or {}), lock)

    def rollback(self, job: str, ds: str, run_id: str, settings: Settings, *, break_lock: bool = False) -> Record:
        """Make an earlier committed run of the job current again, all its outputs together; refused if its files are damaged."""
        with self.locked(job, ds, f"rollback-{run_id}", settings, break_lock) as lock:
            known = self.runs(job, ds)
            if run_id not in known:
                fault = Fault(f"no committed run {run_id}", f"known: {', '.join(known) or 'none'}")
                raise UsageError(f"rollback {job}, ds={ds}", [fault])
            record = self.read_record(self.record_path(job, ds, run_id)) or self.current(job, ds)
            assert record is not None
            for table in record.tables:
                self.load_manifest(table, record)
            self.make_current(record, lock)
        return record

    def lock(self, job: str, ds: str, settings: Settings) -> Lock:
        """The lock of one job and day, not taken."""
        return Lock(self.fs, f"{self.base}/{self.variant}/_locks/{job}/ds={ds}.json", settings)

    @contextmanager
    def locked(self, job: str, ds: str, run_id: str, settings: Settings, break_lock: bool = False) -> Iterator[Lock]:
        """Hold the job's lock for the day. Raises LockedError: another live run holds it. StorageError: the root cannot be written."""
        lock = self.lock(job, ds, settings)
        with storage_faults(self.base):
            lock.acquire(run_id, break_lock=break_lock)
        try:
            yield lock
        finally:
            lock.release()


def _producer(table: str) -> str:
    try:
        return producer(table)
    except KeyError:
        known = [name for spec in JOBS.values() for name in spec.outputs]
        near = get_close_matches(table, known, n=1)
        fix = f"did you mean: {near[0]} ?" if near else ""
        raise UsageError("storage", [Fault(f"unknown table {table!r}", f"known: {', '.join(known)}", fix)]) from None


__all__ = ["MAIN", "FileEntry", "Manifest", "Publication", "Record", "Store"]
