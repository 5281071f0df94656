"""Retention: which runs are still needed, and which may go. Decides only; `conf.removal` removes.

A run is needed while it is current, while it is one of the latest others of its job and day (what rollback goes back to), and while
a needed run, of whatever variant, names it among its inputs.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs as pafs

from conf.errors import BadDataError, Fault, UsageError
from conf.inventory import Day, Inventory, Run
from conf.jobs import JOBS, upstream


class RetentionError(BadDataError):
    """A file that says which runs are needed cannot be understood; what it might name must not be deleted."""

    closing = "nothing was removed"


@dataclass(frozen=True)
class Rule:
    """keep: runs of each job and day that stay beside the current one. min_age_h: hours. variant, ds: to remove nothing else.

    Raises:
        UsageError: a number is negative.
    """

    keep: int = 2
    min_age_h: float = 24.0
    variant: str | None = None
    ds: str | None = None

    def __post_init__(self) -> None:
        faults = [] if self.keep >= 0 else [Fault(f"--keep {self.keep}", fix="give 0 or more")]
        faults += [] if self.min_age_h >= 0 else [Fault(f"--min-age-h {self.min_age_h}", fix="give 0 or more")]
        if faults:
            raise UsageError("gc", faults)


@dataclass(frozen=True)
class Doomed:
    """What goes together: a run, or the checkpoints of a day (run_id ""). newest: time of its newest file, epoch seconds."""

    day: Day
    run_id: str
    record: str | None
    folders: tuple[str, ...]
    files: int
    bytes: int
    newest: float

    def __str__(self) -> str:
        what = f"run={self.run_id}" if self.run_id else "checkpoints"
        return f"variant={self.day.variant} job={self.day.job} ds={self.day.ds} {what} files={self.files} bytes={self.bytes}"


@dataclass(frozen=True)
class Plan:
    """doomed: in the order in which it goes. kept: needed. young: changed too lately. locked: may be in use."""

    doomed: tuple[Doomed, ...]
    kept: int
    young: int
    locked: int


def plan(stock: Inventory, rule: Rule) -> Plan:
    """What may go by the rule.

    Raises:
        RetentionError: a pointer, a record, or the manifest of a needed run is damaged; every such file is named.
    """
    live = needed(stock, rule.keep)
    if stock.faults:
        raise RetentionError("retention", stock.faults)
    doomed, young, locked = list[Doomed](), 0, 0
    for one in (*_dead_runs(stock, live), *_finished_trainings(stock)):
        if (rule.variant or one.day.variant, rule.ds or one.day.ds) != (one.day.variant, one.day.ds):
            continue
        if in_use(one.day, stock.locked):
            locked += 1
        elif time.time() - one.newest < rule.min_age_h * 3600:
            young += 1
        else:
            doomed.append(one)
    return Plan(tuple(sorted(doomed, key=_order)), len(live), young, locked)


def needed(stock: Inventory, keep: int) -> set[Run]:
    """The runs that must stay; what is damaged among them is noted in `stock.faults`."""
    wanted = [*stock.current.values(), *_latest_others(stock, keep)]
    live, there = set[Run](), stock.records.keys() | stock.folders.keys()
    while wanted:
        run = wanted.pop()
        if run in there and run not in live:
            live.add(run)
            wanted += stock.inputs_of(run)
    return live


def in_use(day: Day, locked: set[Day]) -> bool:
    """Whether a live run writes the day, or writes a later table of it and so may read what is there, in whatever variant."""
    return day in locked or any(other.ds == day.ds and day.job in _before(other.job) for other in locked)


def _latest_others(stock: Inventory, keep: int) -> Iterator[Run]:
    """Of each job and day the `keep` runs committed last, the current one aside."""
    by_day: dict[Day, list[Run]] = {}
    for run in stock.records.keys() - set(stock.current.values()):
        by_day.setdefault(run.day, []).append(run)
    for day, runs in by_day.items():
        runs.sort(key=lambda run: (stock.records[run].committed_at, run.run_id))
        # a job that this version does not know may need anything
        yield from runs[len(runs) - keep if day.job in JOBS and keep < len(runs) else 0 :]


def _dead_runs(stock: Inventory, live: set[Run]) -> Iterator[Doomed]:
    for run in (stock.folders.keys() | stock.files.keys()) - live:
        yield _doomed(stock, run.day, run.run_id, stock.files.get(run), tuple(stock.folders.get(run, ())))


def _finished_trainings(stock: Inventory) -> Iterator[Doomed]:
    for day, folder in stock.work.items():
        if day in stock.current:
            yield _doomed(stock, day, "", None, (folder,))


def _doomed(stock: Inventory, day: Day, run_id: str, record: str | None, folders: tuple[str, ...]) -> Doomed:
    fs = stock.stores[day.variant].fs
    inside = [i for folder in folders for i in fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))]
    files = [info for info in inside if info.type == pafs.FileType.File]
    # an empty folder is as old as itself; where a file system keeps no times, it is taken for new
    dated = files or fs.get_file_info([path for path in (*folders, record) if path])
    newest = max((info.mtime_ns / 1e9 if info.mtime_ns else time.time() for info in dated), default=time.time())
    return Doomed(day, run_id, record, folders, len(files), sum(info.size or 0 for info in files), newest)


def _order(one: Doomed) -> tuple[int, Day, str]:
    """Later jobs first: whenever it is cut short, no run is left without the inputs it names."""
    return -list(JOBS).index(one.day.job), one.day, one.run_id


def _before(job: str) -> set[str]:
    """Every job whose tables it needs, directly or not; none for a job that this version does not know."""
    return {name for direct in (upstream(job) if job in JOBS else ()) for name in (direct, *_before(direct))}
