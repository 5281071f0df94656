"""The verb erase: rewrites every run that is kept without the users on the erasure list, or says which those are.

A run that holds such a user gets a successor `<run id>.erased-N`, without the user, of the same settings and the same time, current if
the run is; then the run is removed. Later jobs go first: row numbers are looked up in the user_index that a run was numbered by, so it
must be there until nothing holds them any more. Killed at any step, every run is there in its old or its new form, and the next erase
goes on. A successor names the new forms of its inputs, with the content that they had when they were read: so the next
`trichannel run` of the day sees that they changed and makes the day anew, the model included.
"""

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.command import Request, RunStatus, Timer
from conf.errors import BadDataError, Fault, LockedError, SettingsError, UsageError
from conf.inventory import Inventory, Run, runs_named, survey
from conf.jobs import JOBS, producer
from conf.lock import Lock
from conf.manifest import Manifest, Record
from conf.names import NAME
from conf.publication import Publication
from conf.removal import remove_run
from conf.retention import in_use
from conf.settings import Settings
from spark_jobs.erased_tables import Gone, Tables, count_rows, numbers_by, write_table
from spark_jobs.erasure import erased_keys
from spark_jobs.pseudonyms import pseudonyms
from spark_jobs.secret_key import key_of
from spark_jobs.session import running
from spark_jobs.without_users import BY_NUMBER, USER_TABLES

Started = Callable[[], AbstractContextManager[SparkSession]]
Write = Callable[[Publication, Manifest, pa.Array | None], None]  # a table of the old run -> sealed in the new one; None: copied
HOLDERS: Final = frozenset({*map(producer, USER_TABLES), "report"})  # the report shows a few users
LEARNED: Final = ("train", "index")  # their artefacts hold numbers learned of a user, and no row to take out


@dataclass(frozen=True)
class Found:
    """rows: run -> table -> rows of erased users, of runs that have any. left: folders that no record names. unknown: runs whose
    pseudonyms are by another key, so that nobody can be looked up in them."""

    rows: Mapping[Run, Mapping[str, int]]
    left: Collection[Run]
    unknown: Collection[Run]
    manifests: Tables
    gone: Gone


def erase(asked: Request, *, started: Started | None = None) -> int:
    """Rewrite what holds a user of source.erasure, all days and variants; with --dry-run one line for each such run instead.

    started: gives the Spark session; default: one of its own.

    Raises:
        UsageError: no list is set. SettingsError: runs are pseudonymised by another key; the others are done.
        LockedError: a live run writes, or may read, what is to change. BadDataError: damaged files.
    """
    if asked.settings.source.erasure is None:
        raise UsageError("trichannel erase", [Fault("source.erasure names no list of users", fix="--set source.erasure=FILE")])
    if asked.dry_run:
        with (started or partial(running, "erase"))() as spark:
            found = find(spark, survey(asked.settings), asked.settings)
        for run, rows in sorted(found.rows.items(), key=order):
            print(f"would rewrite {shown(run)} rows: {told(rows)}")
        for run in sorted(found.left):
            print(f"would remove {shown(run)}: no record names it")
        print(f"would rewrite {summed(found)}", flush=True)
    else:
        with RunStatus(asked, "erase") as status, (started or partial(running, "erase"))() as spark:
            timer, stock = Timer(), survey(asked.settings)
            found = find(spark, stock, asked.settings)
            learned = learned_from(stock, found)
            write = partial(write_table, spark, asked.settings)
            apply(asked.settings, stock, found, write, lambda run, rows: asked.log("erased", erased=shown(run), rows=dict(rows)))
            status.stage("erase", "ok", timer.seconds, runs=len(found.rows), removed=len(found.left))
        for run in learned:
            print(f"still learned from them: {shown(run)}; only training anew takes that out: trichannel run --ds {run.day.ds}, then gc")
        print(f"rewrote {summed(found)}", flush=True)
    if found.unknown:
        fix = "erase again under the key of those days (source.pseudonyms, the environment), or remove them"
        faults = [Fault(f"{shown(run)} has pseudonyms by another key", fix=fix) for run in sorted(found.unknown)]
        raise OtherKeyError("trichannel erase", faults)
    return 0


class OtherKeyError(SettingsError):
    """Some runs have pseudonyms by another key than the settings give."""

    closing = "these runs were left as they are, all others are done"


# ---- what is there ---------------------------------------------------------------------------------------------------


def find(spark: SparkSession, stock: Inventory, settings: Settings) -> Found:
    """The kept runs that hold a user of the list, by tables. Raises BadDataError: a file that says what is kept is damaged."""
    listed = erased_keys(spark, settings.source)
    assert listed is not None
    keys = pa.array([row["user_key"] for row in listed.collect()], pa.string())
    key = key_of(settings.source)
    if key is not None:  # days before source.pseudonyms.since hold plain keys, so both are looked for
        keys = pa.concat_arrays([keys, pseudonyms(keys, key.secret)])
    manifests, unknown = dict[tuple[Run, str], Manifest](), set[Run]()
    for run, record in stock.records.items():
        for table in record.tables if run.day.job in HOLDERS else ():
            with stock.noting(f"{shown(run)}, table {table}"):
                manifests[run, table] = manifest = stock.stores[run.day.variant].load_manifest(table, record)
                made = manifest.facts.get("pseudonyms") or {}
                if made.get("users") and (key is None or made["key"] != key.fingerprint):
                    unknown.add(run)
    held = [pair for pair in manifests if pair[0] not in unknown and (pair[1] in USER_TABLES or pair[1] == "report")]
    numbered = {pair: vocabularies(stock, pair[0]) for pair in held if pair[1] in BY_NUMBER}
    for (run, table), numbering in numbered.items():
        if not numbering:
            stock.faults.append(Fault(f"{shown(run)}: table {table} was numbered by a user_index that is gone", fix="remove the run"))
    if stock.faults:
        raise BadDataError("what is kept", stock.faults)
    numbers = numbers_by(spark, stock.stores, {run: m for (run, table), m in manifests.items() if table == "user_index"}, keys)
    theirs = {runs: pa.concat_arrays([numbers[run] for run in runs]) for runs in set(numbered.values())}
    gone = {pair: theirs[numbered[pair]] if pair in numbered else keys for pair in held}
    rows = count_rows(spark, stock.stores, manifests, gone)
    left = {run for run in stock.folders.keys() - stock.records.keys() if run.day.job in HOLDERS}
    return Found(rows, left, unknown, manifests, gone)


def vocabularies(stock: Inventory, run: Run) -> frozenset[Run]:
    """The runs of `vocabulary` that gave the row numbers in the run's tables: nearest among its inputs, in whatever form they are now."""
    wanted, seen, found = [run], set[Run](), set[Run]()
    while wanted:
        one = wanted.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.day.job == "vocabulary":
            found.add(one)  # and no further: the day that it goes on from numbers the tables of its own day
        else:
            named = runs_named(stock.records[one].inputs)
            wanted += [form for other in named for form in stock.records if (form.day, first(form)) == (other.day, first(other))]
    return frozenset(found)


def first(run: Run) -> str:
    """The id of the run before anything was erased from it."""
    return re.sub(r"\.erased-\d+$", "", run.run_id)


def successor(run: Run) -> Run:
    """The run in its next form."""
    number = run.run_id.removeprefix(first(run)).removeprefix(".erased-")
    return Run(run.day, f"{first(run)}.erased-{int(number or 0) + 1}")


def learned_from(stock: Inventory, found: Found) -> list[Run]:
    """Runs whose artefacts were learned, in part, from rows that are erased."""
    days = {(run.day.variant, run.day.ds) for run in found.rows}
    return sorted(run for run in stock.records if run.day.job in LEARNED and (run.day.variant, run.day.ds) in days)


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


def shown(run: Run) -> str:
    """The run as log lines name it."""
    return f"variant={run.day.variant} job={run.day.job} ds={run.day.ds} run={run.run_id}"


def told(rows: Mapping[str, int]) -> str:
    """Rows by table."""
    return " ".join(f"{table}={num}" for table, num in rows.items())


def summed(found: Found) -> str:
    """The line that ends the command."""
    rows = sum(num for tables in found.rows.values() for num in tables.values())
    days = len({(run.day.variant, run.day.ds) for run in found.rows})
    return f"runs={len(found.rows)} days={days} rows={rows} unrecorded={len(found.left)} other_key={len(found.unknown)}"
