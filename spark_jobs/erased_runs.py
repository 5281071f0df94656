"""Which of the runs that are kept hold users of the erasure list, and in how many rows of which tables."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from pyspark.sql import SparkSession

from conf.errors import BadDataError, Fault, SettingsError
from conf.inventory import Inventory, Run, runs_named
from conf.jobs import producer
from conf.manifest import Manifest
from conf.settings import Settings
from spark_jobs.erased_tables import Gone, Tables, count_rows, numbers_by
from spark_jobs.erasure import erased_keys
from spark_jobs.pseudonyms import pseudonyms
from spark_jobs.secret_key import key_of
from spark_jobs.without_users import BY_NUMBER, USER_TABLES

HOLDERS: Final = frozenset({*map(producer, USER_TABLES), "report"})  # the report shows a few users


class OtherKeyError(SettingsError):
    """Some runs have pseudonyms by another key than the settings give."""

    closing = "these runs were left as they are, all others are done"


@dataclass(frozen=True)
class Found:
    """What the kept runs hold of the erased users.

    rows: run -> table -> rows of theirs, where there are any. left: folders that no record names. unknown: runs whose pseudonyms are by
    another key, so that nobody can be looked up in them. manifests: of all tables of the jobs that hold users. gone: see `Gone`.
    """

    rows: Mapping[Run, Mapping[str, int]]
    left: Collection[Run]
    unknown: Collection[Run]
    manifests: Tables
    gone: Gone

    def check_keys(self) -> None:
        """Raise OtherKeyError naming all the unknown runs, if there are any."""
        if self.unknown:
            fix = "erase again under the key of those days (source.pseudonyms, the environment), or remove them"
            faults = [Fault(f"{shown(run)} has pseudonyms by another key", fix=fix) for run in sorted(self.unknown)]
            raise OtherKeyError("trichannel erase", faults)


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
    by_run = vocabularies(stock, {run for run, table in held if table in BY_NUMBER})
    numbered = {(run, table): by_run[run] for run, table in held if table in BY_NUMBER}
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


def vocabularies(stock: Inventory, runs: Collection[Run]) -> dict[Run, frozenset[Run]]:
    """Of each run the runs of `vocabulary` that numbered its users: the nearest ones before it, in whatever form they are now."""
    forms: dict[Run, list[Run]] = {}
    for run in stock.records:
        forms.setdefault(first(run), []).append(run)
    found: dict[Run, frozenset[Run]] = {}

    def look(run: Run) -> frozenset[Run]:
        if run.day.job == "vocabulary":
            return frozenset({run})  # and no further: the day that it goes on from numbers the tables of its own day
        if run not in found:
            # A run of an earlier day that it goes on from was numbered by that day's users, and holds none of its rows.
            named = [one for one in runs_named(stock.records[run].inputs) if one.day.ds >= run.day.ds]
            before = [form for one in named for form in forms.get(first(one), ())]
            found[run] = frozenset().union(*map(look, before))
        return found[run]

    return {run: look(run) for run in runs}


def first(run: Run) -> Run:
    """The run as it was named before anything was erased from it."""
    return Run(run.day, re.sub(r"\.erased-\d+$", "", run.run_id))


def successor(run: Run) -> Run:
    """The run in its next form."""
    name = first(run).run_id
    return Run(run.day, f"{name}.erased-{int(run.run_id.removeprefix(name).removeprefix('.erased-') or 0) + 1}")


def one(run: Run) -> dict[str, str]:
    """The run as log lines name it."""
    return {**run.day._asdict(), "run": run.run_id}


def shown(run: Run) -> str:
    """The same as text."""
    return " ".join(f"{name}={value}" for name, value in one(run).items())
