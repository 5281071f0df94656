"""Removing what retention found nobody needs, so that whoever is killed or comes in between leaves and finds nothing half there."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby

from conf.errors import LockedError
from conf.files import storage_faults
from conf.inventory import Day, Inventory, Run, survey
from conf.lock import Lock
from conf.retention import Doomed, Plan, Rule, plan
from conf.settings import Settings
from conf.storage import Store

SURVEYS = 5  # each new one was made necessary by a run that was committed meanwhile


@dataclass(frozen=True)
class Removed:
    """What went, and how many runs stayed: kept as needed, young, locked."""

    runs: int = 0
    checkpoints: int = 0
    files: int = 0
    bytes: int = 0
    kept: int = 0
    young: int = 0
    locked: int = 0

    def plus(self, one: Doomed) -> "Removed":
        """This, and one more."""
        runs, checkpoints = self.runs + bool(one.run_id), self.checkpoints + (not one.run_id)
        return replace(self, runs=runs, checkpoints=checkpoints, files=self.files + one.files, bytes=self.bytes + one.bytes)

    def __str__(self) -> str:
        gone = f"runs={self.runs} checkpoints={self.checkpoints} files={self.files} bytes={self.bytes}"
        return f"{gone} kept={self.kept} younger={self.young} locked={self.locked}"


def planned(settings: Settings, rule: Rule) -> tuple[Inventory, Plan]:
    """What lies under the root now, and what of it may go. Raises RetentionError."""
    stock = survey(settings)
    return stock, plan(stock, rule)


def remove(settings: Settings, rule: Rule, run_id: str, told: Callable[[Doomed], None]) -> Removed:
    """Remove what may go, each job's day under its lock; `told` of each when it is gone. Days that are locked are left and counted.

    Raises:
        RetentionError: as `plan`. StorageError: the root cannot be written; what went before stays gone.
    """
    removed = Removed()
    for _ in range(SURVEYS):
        stock, todo = planned(settings, rule)
        removed = replace(removed, kept=todo.kept, young=todo.young, locked=todo.locked)
        for day, group in groupby(todo.doomed, key=lambda one: one.day):
            doomed = list(group)
            store = stock.stores[day.variant]
            try:
                with store.locked(day.job, day.ds, f"gc-{run_id}", settings) as lock:
                    if not _is_as_seen(stock, store, day):
                        break  # what became current may name what was to go
                    for one in doomed:
                        remove_run(store, one.record, one.folders, lock)
                        removed = removed.plus(one)
                        told(one)
            except LockedError:
                removed = replace(removed, locked=removed.locked + len(doomed))
        else:
            break
    return removed


def _is_as_seen(stock: Inventory, store: Store, day: Day) -> bool:
    """Whether nothing was committed or rolled back for the day since the survey."""
    record, seen = store.current(day.job, day.ds), stock.current.get(day)
    known = {run.run_id for run in stock.records if run.day == day}
    return (record and Run(day, record.run_id)) == seen and set(store.runs(day.job, day.ds)) == known


def remove_run(store: Store, record: str | None, folders: Iterable[str], lock: Lock) -> None:
    """The record first: from then on rollback does not know the run, and folders that are left are those of a killed attempt."""
    with storage_faults(store.base):
        if record:
            lock.check()
            store.fs.delete_file(record)
        for folder in folders:
            lock.check()
            with suppress(FileNotFoundError):  # two collections at once: the lock was taken from us by force
                store.fs.delete_dir(folder)
