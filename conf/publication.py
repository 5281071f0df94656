"""One run's outputs while they are written: each sealed by its manifest, all made current at once."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from conf.files import storage_faults, write_atomic
from conf.lock import Lock
from conf.manifest import FileEntry, Manifest, Record, now
from conf.records import Records


class Publication:
    """The outputs of one run while they are written. Use through `Store.publication`."""

    def __init__(self, store: Records, job: str, ds: str, run_id: str, config: str, inputs: dict[str, str], lock: Lock) -> None:
        self.store, self.job, self.ds, self.run_id, self.config_hash, self.inputs = store, job, ds, run_id, config, inputs
        self.lock, self._tables = lock, dict[str, str]()
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
        self.store.make_current(record, self.lock)
        return record

    def commit_for(self, old: Record) -> Record:
        """Commit what is sealed as the run that `old` was, its settings and its time kept: current if that is, else beside the others."""
        record = replace(old, run_id=self.run_id, tables=dict(self._tables), inputs=self.inputs)
        current = self.store.current(self.job, self.ds)
        if current is not None and current.run_id == old.run_id:
            self.store.make_current(record, self.lock)
        else:
            self.store.keep_record(record, self.lock)
        return record
