"""Which run of a job is current: the pointers and records of one variant under one root, and where its tables lie."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault
from conf.files import open_root, storage_faults, write_atomic
from conf.lock import Lock
from conf.manifest import Manifest, Record
from conf.names import NAME

MAIN = "main"


class Records:
    """Paths, pointers, records and run status of one variant. `conf.storage` draws the folders; `Store` adds tables and commits."""

    def __init__(self, root: str, variant: str = MAIN) -> None:
        self.fs, self.base = open_root(root)
        self._prefix = root.rstrip("/") if "://" in root else ""
        self.variant = variant

    # ---- paths -------------------------------------------------------------------------------------------------

    def uri(self, path: str) -> str:
        """A path under the root as Spark and other readers take it."""
        return f"{self._prefix}{path.removeprefix(self.base)}" if self._prefix else path

    def run_folder(self, table: str, ds: str, run_id: str, variant: str | None = None) -> str:
        """Where a run of a table lives, a path on `fs`."""
        return f"{self.base}/{variant or self.variant}/{table}/ds={ds}/run={run_id}"

    def folder_of(self, manifest: Manifest) -> str:
        """The run folder of the table, a path on `fs`."""
        return self.run_folder(manifest.table, manifest.ds, manifest.run_id, manifest.variant)

    def _pointer(self, job: str, ds: str, variant: str) -> str:
        return f"{self.base}/{variant}/_current/{job}/ds={ds}.json"

    def record_path(self, job: str, ds: str, run_id: str) -> str:
        """Where the record of a run that once was current lies, a path on `fs`."""
        return f"{self.base}/{self.variant}/_records/{job}/ds={ds}/run={run_id}.json"

    # ---- reading -----------------------------------------------------------------------------------------------

    def current(self, job: str, ds: str, variant: str | None = None) -> Record | None:
        """The committed record of the job for the day in this variant (or the given one), or None."""
        return self.read_record(self._pointer(job, ds, variant or self.variant))

    def variants(self) -> list[str]:
        """Every variant under the root, in order of name; folders that cannot be one are passed over."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.base, allow_not_found=True))
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory and NAME.fullmatch(i.base_name))

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

    def read_status(self, run_id: str) -> dict[str, Any] | None:
        """The status file of a run, or None."""
        return self.read_json(f"{self.base}/_runs/{run_id}.json")

    def read_json(self, path: str) -> dict[str, Any] | None:
        """The JSON object in a file, or None where there is no such file; raises BadDataError if it holds anything else."""
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

    def read_record(self, path: str) -> Record | None:
        """The record in a file, or None where there is no such file; raises BadDataError if it holds anything else."""
        data = self.read_json(path)
        try:
            return Record(**data) if data is not None else None
        except TypeError as error:
            raise BadDataError(path, [Fault("is no record of a run", str(error), "remove it and run the job again")]) from None

    # ---- writing -----------------------------------------------------------------------------------------------

    def make_current(self, record: Record, lock: Lock) -> None:
        """Replace the pointer of the record's job and day, atomically; the one commit point.

        Raises:
            LockedError: the lock is no longer ours. StorageError: the pointer cannot be written; the old one stays.
        """
        with storage_faults(self.base), lock.held():
            replaced = self.current(record.job, record.ds)
            if replaced is not None:
                self._keep_record(replaced)
            write_atomic(self.fs, self._pointer(record.job, record.ds, self.variant), json.dumps(asdict(record), indent=1))
            # Published. A record that cannot be written now is written from the pointer by the next commit.
            with suppress(OSError):
                self._keep_record(record)

    def keep_record(self, record: Record, lock: Lock) -> None:
        """Put a record beside those of earlier runs: rollback can go to it, readers see nothing of it. Errors as `make_current`."""
        with storage_faults(self.base), lock.held():
            self._keep_record(record)

    def _keep_record(self, record: Record) -> None:
        path = self.record_path(record.job, record.ds, record.run_id)
        if self.fs.get_file_info(path).type == pafs.FileType.NotFound:
            write_atomic(self.fs, path, json.dumps(asdict(record), indent=1))

    def write_status(self, run_id: str, status: Mapping[str, Any]) -> None:
        """ROOT/_runs/<run_id>.json: replaced whole at each change of status."""
        with storage_faults(self.base):
            write_atomic(self.fs, f"{self.base}/_runs/{run_id}.json", json.dumps(status, indent=1, default=str))
