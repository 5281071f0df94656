"""The verb erase: rewrites every run that is kept without the users on the erasure list, or says which those are.

A run that holds such a user gets a successor `<run id>.erased-N`, without the user, of the same settings and the same time, current if
the run is; then the run is removed. Later jobs go first: row numbers are looked up in the user_index that a run was numbered by, so it
must be there until nothing holds them any more. Killed at any step, every run is there in its old or its new form, and the next erase
goes on. A successor names the new forms of its inputs, with the content that they had when they were read: so the next
`trichannel run` of the day sees that they changed and makes the day anew, the model included.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.command import Request, RunStatus, Timer
from conf.errors import BadDataError, Fault, LockedError, UsageError
from conf.inventory import Inventory, Run, runs_named, survey
from conf.jobs import JOBS
from conf.lock import Lock
from conf.manifest import Manifest, Record
from conf.names import NAME
from conf.publication import Publication
from conf.removal import remove_run
from conf.retention import in_use
from conf.settings import Settings
from spark_jobs.erased_runs import Found, find, one, shown, successor
from spark_jobs.erased_tables import write_table
from spark_jobs.session import known, running

Started = Callable[[], AbstractContextManager[SparkSession]]
Write = Callable[[Publication, Manifest, pa.Array | None], None]  # a table of the old run -> sealed in the new one; None: copied
LEARNED: Final = ("train", "index")  # their artefacts hold numbers learned of a user, and no row to take out


def erase(asked: Request, *, started: Started | None = None) -> int:
    """Rewrite what holds a user of source.erasure, all days and variants; with --dry-run one line for each such run instead.

    started: gives the Spark session; default: one of its own.

    Raises:
        UsageError: no list is set. OtherKeyError: runs are pseudonymised by another key; the others are done.
        LockedError: a live run writes, or may read, what is to change. BadDataError: damaged files.
    """
    if asked.settings.source.erasure is None:
        raise UsageError("trichannel erase", [Fault("source.erasure names no list of users", fix="--set source.erasure=FILE")])
    begun = partial(_spark, started or partial(running, "erase"))
    if asked.dry_run:
        with begun() as spark:
            found = find(spark, survey(asked.settings), asked.settings)
        for run, rows in sorted(found.rows.items(), key=order):
            print(f"would rewrite {shown(run)} rows: {' '.join(f'{table}={num}' for table, num in sorted(rows.items()))}")
        for run in sorted(found.left):
            print(f"would remove {shown(run)}: no record names it")
        print(f"would rewrite {summed(found)}", flush=True)
        found.check_keys()
        return 0
    with RunStatus(asked, "erase") as status, begun() as spark:
        timer, stock = Timer(), survey(asked.settings)
        found = find(spark, stock, asked.settings)
        write = partial(write_table, spark, asked.settings)
        apply(asked.settings, stock, found, write, lambda run, rows: asked.log("erased", **one(run), rows=dict(sorted(rows.items()))))
        status.stage("erase", "ok", timer.seconds, runs=len(found.rows), removed=len(found.left))
        for run in learned_from(stock, found):
            print(f"still learned from them: {shown(run)}; only training anew takes that out: trichannel run --ds {run.day.ds}, then gc")
        print(f"rewrote {summed(found)}", flush=True)
        found.check_keys()
    return 0


@contextmanager
def _spark(started: Started) -> Iterator[SparkSession]:
    """The session; what fails in its tasks is an error of ours where the cause is known."""
    with started() as spark:
        try:
            yield spark
        except Exception as error:
            cause = known(error, "erase")
            if cause is error:
                raise
            raise cause from error


def learned_from(stock: Inventory, found: Found) -> list[Run]:
    """Runs whose artefacts were learned, in part, from rows that are erased; and the checkpoints of such days."""
    days = {(run.day.variant, run.day.ds) for run in found.rows}
    known = [run for run in stock.records if run.day.job in LEARNED] + [Run(day, "checkpoints") for day in stock.work]
    return sorted(run for run in known if (run.day.variant, run.day.ds) in days)


# ---- what is done ----------------------------------------------------------------------------------------------------


def apply(settings: Settings, stock: Inventory, found: Found, write: Write, done: Callable[[Run, Mapping[str, int]], None]) -> None:
    """Replace each run by its successor, later jobs first; then remove the folders that no record names. `done` of each when it is."""
    touched = {run.day for run in (*found.rows, *found.left)}
    faults = [Fault(f"a live run uses {shown(Run(day, '*'))}", fix="wait for it") for day in sorted(touched) if in_use(day, stock.locked)]
    if faults:
        raise LockedError("trichannel erase", faults)
    named = [successor(run) for run in found.rows]
    if long := [Fault(f"{shown(run)}: too long a name", fix="remove the run before") for run in named if not NAME.fullmatch(run.run_id)]:
        raise BadDataError("run ids", long)
    for run, rows in sorted(found.rows.items(), key=order):
        _replace(settings, stock, found, run, write)
        done(run, rows)
    for run in sorted(found.left):
        variant, job, ds = run.day
        store = stock.stores[variant]
        with store.locked(job, ds, f"erase-{run.run_id}", settings) as lock:
            if run.run_id in store.runs(job, ds):  # committed just now, by us or by another
                continue
            remove_run(store, None, stock.folders[run], lock)
        done(run, {})


def _replace(settings: Settings, stock: Inventory, found: Found, run: Run, write: Write) -> None:
    store, new, record = stock.stores[run.day.variant], successor(run), stock.records[run]
    _, job, ds = run.day
    if new in stock.records:  # an erase before this one was killed, or somebody rolled back since
        with store.locked(job, ds, new.run_id, settings) as lock:
            store.keep_record(stock.records[new], lock)
            current = store.current(job, ds)
            if current is not None and current.run_id == run.run_id:
                store.make_current(stock.records[new], lock)
            _remove_old(stock, run, lock)
        return
    with store.publication(job, ds, new.run_id, settings, inputs=renamed(record, found.rows)) as publication:
        publication.config_hash = record.config_hash
        for table in record.tables:
            write(publication, found.manifests[run, table], found.gone[run, table] if table in found.rows[run] else None)
        publication.commit_for(record)
        _remove_old(stock, run, publication.lock)


def _remove_old(stock: Inventory, run: Run, lock: Lock) -> None:
    store = stock.stores[run.day.variant]
    remove_run(store, store.record_path(run.day.job, run.day.ds, run.run_id), stock.folders.get(run, ()), lock)


def renamed(record: Record, replaced: Collection[Run]) -> dict[str, str]:
    """The inputs of a run, those that are replaced by the names of their successors; with the content that was read, as it was."""
    inputs = dict(record.inputs)
    for table, identity in record.inputs.items():
        for run in runs_named({table: identity}):
            if run in replaced:
                content = identity.rsplit(" ", 1)[-1]
                inputs[table] = f"{run.day.variant}/{run.day.ds}/{successor(run).run_id} {content}"
    return inputs


# ---- what is said ----------------------------------------------------------------------------------------------------


def order(item: tuple[Run, Any]) -> tuple[int, Run]:
    """Later jobs first."""
    return -list(JOBS).index(item[0].day.job), item[0]


def summed(found: Found) -> str:
    """The line that ends the command."""
    rows = sum(num for tables in found.rows.values() for num in tables.values())
    days = len({(run.day.variant, run.day.ds) for run in found.rows})
    return f"runs={len(found.rows)} days={days} rows={rows} unrecorded={len(found.left)} other_key={len(found.unknown)}"
