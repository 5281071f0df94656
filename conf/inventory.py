"""What lies under a root: pointers, records, run folders, checkpoints and locks of every variant. Reads only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault
from conf.jobs import JOBS, producer
from conf.manifest import Manifest, Record
from conf.names import NAME, is_day
from conf.settings import Settings
from conf.storage import Store


class Day(NamedTuple):
    """What one lock guards: a job's runs of one day in one variant."""

    variant: str
    job: str
    ds: str


class Run(NamedTuple):
    """One run of a job."""

    day: Day
    run_id: str


@dataclass
class Inventory:
    """All that lies under a root. Folders and files that are not ours are not in it.

    current: the run that each pointer names. records: every committed run, the current ones too. files: the record file of a run,
    where there is one. folders: the run folders of its tables, committed or left by an attempt that was killed. work: checkpoints.
    locked: held by a live run. faults: what could not be understood; who decides by this inventory must not pass over them.
    """

    stores: dict[str, Store]
    current: dict[Day, Run] = field(default_factory=dict)
    records: dict[Run, Record] = field(default_factory=dict)
    files: dict[Run, str] = field(default_factory=dict)
    folders: dict[Run, list[str]] = field(default_factory=dict)
    work: dict[Day, str] = field(default_factory=dict)
    locked: set[Day] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def inputs_of(self, run: Run) -> set[Run]:
        """The runs that this one names, in its record and in the manifests of its tables; faults are noted."""
        record, folders = self.records.get(run), self.folders.get(run, [])
        known = [(self.files.get(run, str(run)), record.inputs)] if record else []
        for path in (f"{folder}/manifest.json" for folder in folders):
            with self.noting(path):
                data = self.stores[run.day.variant].read_json(path)
                if data is not None:  # None: removed by hand, and the record says the same
                    known.append((path, Manifest.from_json(data).inputs))
        if folders and not known:
            self.faults.append(Fault(f"{folders[0]} is needed", "it has neither record nor manifest", _FIX))
        found: set[Run] = set()
        for path, inputs in known:
            with self.noting(path):
                found.update(runs_named(inputs))
        return found

    @contextmanager
    def noting(self, path: str) -> Iterator[None]:
        """A block that reads the file: damage becomes a fault, so that all faults are named at once."""
        try:
            yield
        except (BadDataError, KeyError, TypeError, ValueError, AttributeError) as error:
            found = str(error.faults[0]) if isinstance(error, BadDataError) else f"{type(error).__name__}: {error}"
            self.faults.append(Fault(f"{path} is damaged", found, _FIX))


_FIX = "roll back or run the job again, so that nothing needs it; or move the file away"


def runs_named(inputs: Mapping[str, str]) -> list[Run]:
    """The runs in table -> "variant/ds/run content_hash", as records and manifests keep it. Raises ValueError for what is no such thing.

    What stands under a name that is no table's may be of any job, so the run of that name of each of them is meant.
    """
    runs = []
    for table, identity in inputs.items():
        if table == "source":  # the state of the raw files, which are not ours
            continue
        variant, ds, run_id = identity.split(" ")[0].split("/")
        makers = [producer(table)] if _is_known(table) else [*JOBS]
        runs += [Run(Day(variant, job, ds), run_id) for job in makers]
    return runs


def _is_known(table: str) -> bool:
    try:
        return bool(producer(table))
    except KeyError:
        return False


# ---- looking ---------------------------------------------------------------------------------------------------------


def survey(settings: Settings) -> Inventory:
    """Look at every variant under settings.storage.root; run folders are found, but not opened."""
    root = Store.of(settings)
    stock = Inventory({name: Store.of(settings, name) for name in root.variants()})
    for variant, store in stock.stores.items():
        base = f"{store.base}/{variant}"
        # Locks first: who commits while we look is then seen at work, or else its pointer is.
        for job in _folders(store, f"{base}/_locks"):
            _look_at_locks(stock, store, job.base_name, settings)
        for table in _folders(store, base):
            if _is_known(table.base_name):
                _look_at_table(stock, store, table.base_name)
        for job in _folders(store, f"{base}/_current"):
            _look_at_pointers(stock, store, job.base_name)
        for job in _folders(store, f"{base}/_records"):
            _look_at_records(stock, store, job.base_name)
        for ds, info in _named(store, f"{base}/_work/train", "ds="):
            if is_day(ds):
                stock.work[Day(variant, "train", ds)] = info.path
    return stock


def _folders(store: Store, path: str) -> list[pafs.FileInfo]:
    infos = store.fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return [info for info in infos if info.type == pafs.FileType.Directory]


def _named(store: Store, path: str, prefix: str, suffix: str = "") -> list[tuple[str, pafs.FileInfo]]:
    """(name without prefix and suffix, info) of what lies in the folder; [] where there is none."""
    infos = store.fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    kept = [i for i in infos if i.base_name.startswith(prefix) and i.base_name.endswith(suffix)]
    return [(i.base_name.removeprefix(prefix).removesuffix(suffix), i) for i in sorted(kept, key=lambda i: str(i.path))]


def _look_at_table(stock: Inventory, store: Store, table: str) -> None:
    for ds, day in _named(store, f"{store.base}/{store.variant}/{table}", "ds="):
        for run_id, info in _named(store, day.path, "run="):
            if is_day(ds) and NAME.fullmatch(run_id) and info.type == pafs.FileType.Directory:
                stock.folders.setdefault(Run(Day(store.variant, producer(table), ds), run_id), []).append(info.path)


def _look_at_pointers(stock: Inventory, store: Store, job: str) -> None:
    for ds, info in _named(store, f"{store.base}/{store.variant}/_current/{job}", "ds=", ".json"):
        record = _record(stock, store, info.path)
        if record:
            run = Run(Day(store.variant, job, ds), record.run_id)
            stock.current[run.day], stock.records[run] = run, record


def _look_at_records(stock: Inventory, store: Store, job: str) -> None:
    for ds, day in _named(store, f"{store.base}/{store.variant}/_records/{job}", "ds="):
        for run_id, info in _named(store, day.path, "run=", ".json"):
            run, record = Run(Day(store.variant, job, ds), run_id), _record(stock, store, info.path)
            if record:
                stock.files[run] = info.path
                stock.records.setdefault(run, record)


def _look_at_locks(stock: Inventory, store: Store, job: str, settings: Settings) -> None:
    for ds, _ in _named(store, f"{store.base}/{store.variant}/_locks/{job}", "ds=", ".json"):
        if store.lock(job, ds, settings).is_taken:
            stock.locked.add(Day(store.variant, job, ds))


def _record(stock: Inventory, store: Store, path: str) -> Record | None:
    """The record in the file; None, and a fault noted, if it is damaged."""
    with stock.noting(path):
        record = store.read_record(path)
        if record is not None and not (isinstance(record.run_id, str) and isinstance(record.committed_at, str)):
            raise TypeError("run_id or committed_at is no text")
        return record
    return None
