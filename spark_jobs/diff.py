"""The verb diff: what changed from one version of a table to another, one fact a line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import jobs
from conf.command import Request
from conf.errors import Fault, NotReadyError, UsageError
from conf.storage import Manifest
from spark_jobs.session import running

Started = Callable[[], AbstractContextManager[SparkSession]]


def diff(
    asked: Request, table: str, to_ds: str, *, run_id: str | None = None, to_run_id: str | None = None, started: Started | None = None
) -> int:
    """Print how the table of asked.ds differs from that of to_ds; run ids name other runs than the current ones. Returns 0.

    started: gives the Spark session that lists of candidates are compared in; default: one of its own. Nothing else needs Spark.

    Raises:
        UsageError: no such run. NotReadyError: nothing is committed for the day. BadDataError: files are missing or cut.
    """
    old, new = version(asked, table, asked.ds, run_id), version(asked, table, to_ds, to_run_id)
    for line in facts(old, new):
        print(line)
    if table == "candidates" and old.content_hash != new.content_hash:
        store = asked.store
        with (started or partial(running, "diff"))() as spark:
            lists = [lists_of(spark.read.parquet(*store.files_of(manifest))) for manifest in (old, new)]
            for line in list_facts(compare(*lists, at=sorted(set(asked.settings.evaluation.at)))):
                print(line)
    return 0


def version(asked: Request, table: str, ds: str, run_id: str | None) -> Manifest:
    """The manifest of the table's run of that day, the current one unless another is named; its files are there in full size."""
    store, job = asked.store, jobs.producer(table)
    if run_id is None:
        return store.manifest(table, ds, asked.settings)
    if run_id not in store.runs(job, ds):
        known = f"known: {', '.join(store.runs(job, ds)) or 'none'}"
        raise UsageError(f"table {table}, ds={ds}", [Fault(f"no committed run {run_id}", known, f"see: trichannel runs {job} --ds {ds}")])
    record = store.read_record(store.record_path(job, ds, run_id)) or store.current(job, ds)
    if record is None or table not in record.tables:
        raise NotReadyError(f"table {table}, ds={ds}", [Fault(f"run {run_id} has no table {table}")])
    return store.load_manifest(table, record)


# ---- what manifests say ----------------------------------------------------------------------------------------------


def facts(old: Manifest, new: Manifest) -> Iterator[str]:
    """Settings, inputs, rows, content and the counters that changed, one a line."""
    yield f"{old.table}: {_name(old)} -> {_name(new)}"
    yield "settings: " + ("equal" if old.config_hash == new.config_hash else f"changed, {old.config_hash} -> {new.config_hash}")
    for table in sorted({*old.inputs, *new.inputs}):
        before, after = old.inputs.get(table, "none"), new.inputs.get(table, "none")
        if before != after:
            same = before.rsplit(" ", 1)[-1] == after.rsplit(" ", 1)[-1]
            yield f"input {table}: {before.split(' ')[0]} -> {after.split(' ')[0]}, {'equal content' if same else 'other content'}"
    yield f"rows: {old.rows} -> {new.rows}" + (f" ({new.rows - old.rows:+d})" if old.rows != new.rows else "")
    if old.content_hash == new.content_hash:
        yield "content: equal, both hold the same rows"
    else:
        yield f"content: changed, {old.content_hash} -> {new.content_hash}"
    before_, after_ = flat(old.counters), flat(new.counters)
    for name in sorted({*before_, *after_}):
        if before_.get(name) != after_.get(name) and not name.startswith("seconds."):  # how long it took is no fact of the table
            yield f"counter {name}: {before_.get(name, 'none')} -> {after_.get(name, 'none')}"


def flat(counters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Counters within counters by dotted names."""
    found: dict[str, Any] = {}
    for name, value in counters.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _name(manifest: Manifest) -> str:
    return f"variant={manifest.variant} ds={manifest.ds} run={manifest.run_id}"


# ---- what candidates say ---------------------------------------------------------------------------------------------


def lists_of(candidates: DataFrame) -> DataFrame:
    """user string, items array<string> (best first), of either layout and whatever key types."""
    user = F.col("user_key").cast("string").alias("user")
    if "item_keys" in candidates.columns:
        return candidates.select(user, F.col("item_keys").cast("array<string>").alias("items"))
    ranked = candidates.groupBy(user).agg(F.sort_array(F.collect_list(F.struct("rank", "item_key"))).alias("ranked"))
    return ranked.select("user", F.col("ranked.item_key").cast("array<string>").alias("items"))


def compare(old: DataFrame, new: DataFrame, *, at: Sequence[int]) -> dict[str, float | None]:
    """only_old, only_new, both: users; changed: those of both with another list, order counts; overlap@N: mean over both, in [0, 1].

    The overlap of two lists is the share of the longer one's first N that stands in the other's first N; null where no user is in both.
    """
    joined = old.withColumnRenamed("items", "old").join(new.withColumnRenamed("items", "new"), "user", how="full_outer")
    both = F.col("old").isNotNull() & F.col("new").isNotNull()
    row = joined.agg(
        F.count(F.when(F.col("new").isNull(), 1)).alias("only_old"),
        F.count(F.when(F.col("old").isNull(), 1)).alias("only_new"),
        F.count(F.when(both, 1)).alias("both"),
        F.count(F.when(both & (F.col("old") != F.col("new")), 1)).alias("changed"),
        *(F.avg(F.when(both, _overlap(n))).alias(f"overlap@{n}") for n in at),
    ).first()
    assert row is not None
    return row.asDict()


def _overlap(n: int) -> Column:
    old, new = F.slice("old", 1, n), F.slice("new", 1, n)
    longer = F.greatest(F.size(old), F.size(new))
    return F.when(longer == 0, 1.0).otherwise(F.size(F.array_intersect(old, new)) / longer)  # two empty lists are the same


def list_facts(found: Mapping[str, float | None]) -> Iterator[str]:
    """The numbers of `compare`, one a line."""
    yield f"users: {found['only_old']} only in the old, {found['only_new']} only in the new, {found['both']} in both"
    yield f"lists changed: {found['changed']} of {found['both']}"
    for name, value in found.items():
        if name.startswith("overlap@") and value is not None:
            yield f"mean {name}: {value:.4f}"
