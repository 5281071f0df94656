"""The tables of kept runs: which row numbers erased users have, how many rows are theirs, and one table written anew without them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.files import hash_file
from conf.inventory import Run
from conf.manifest import FileEntry, Manifest
from conf.publication import Publication
from conf.schemas.table import Column
from conf.settings import Settings
from conf.storage import Store
from conf.tables import resolve
from spark_jobs import report
from spark_jobs.output import inspect_file
from spark_jobs.schema import hash_sums, row_hash, total_of, type_name
from spark_jobs.without_users import clean_file, numbers_of

Tables = Mapping[tuple[Run, str], Manifest]
Gone = Mapping[tuple[Run, str], pa.Array]  # whom a table must not hold: their keys, or their row numbers by its own numbering


def numbers_by(spark: SparkSession, stores: Mapping[str, Store], indexes: Mapping[Run, Manifest], keys: pa.Array) -> dict[Run, pa.Array]:
    """The row numbers that each user_index gave the users."""
    files = [(run, file) for run, manifest in indexes.items() for file in stores[run.day.variant].files_of(manifest)]
    found = _spread(spark, lambda file: numbers_of(file, keys), [file for _, file in files])
    numbers: dict[Run, list[int]] = {run: [] for run in indexes}
    for (run, _), some in zip(files, found, strict=True):
        numbers[run] += some
    return {run: pa.array(sorted(some), pa.int32()) for run, some in numbers.items()}


def count_rows(spark: SparkSession, stores: Mapping[str, Store], tables: Tables, gone: Gone) -> dict[Run, dict[str, int]]:
    """run -> table -> rows of the users, where there are any; of a report the users that it shows."""
    rows: dict[Run, dict[str, int]] = {}
    files = [(pair, file) for pair in gone if pair[1] != "report" for file in stores[pair[0].day.variant].files_of(tables[pair])]
    arrays = {id(array): array for array in gone.values()}  # few, and shared by many tables: they travel once
    asked = [(file, pair[1], id(gone[pair])) for pair, file in files if len(gone[pair])]
    counts = iter(_spread(spark, lambda one: clean_file(one[0], one[1], arrays[one[2]]), asked))
    found = [(pair, next(counts)) for pair, _ in files if len(gone[pair])]
    for pair in gone:
        if pair[1] == "report":
            store = stores[pair[0].day.variant]
            found.append((pair, len(_shown(store, tables[pair])["users"]) - len(_report(store, tables[pair], gone[pair])["users"])))
    for (run, table), num in found:
        if num:
            rows.setdefault(run, {})[table] = rows.get(run, {}).get(table, 0) + num
    return rows


def write_table(spark: SparkSession, settings: Settings, publication: Publication, old: Manifest, gone: pa.Array | None) -> None:
    """Seal in the new run the table of the old one without the users; None = it holds none, and its files are copied as they are."""
    store, folder = publication.store, publication.folder(old.table)
    assert isinstance(store, Store)
    files, rows, content_hash = old.files, old.rows, old.content_hash
    if gone is None:
        for entry in files:
            store.fs.copy_file(f"{store.folder_of(old)}/{entry.name}", f"{folder}/{entry.name}")
    elif old.table == "report":
        made = report.write(store, folder, _report(store, old, gone))
        files = tuple(FileEntry(name, 0, *hash_file(store.fs, f"{folder}/{name}")) for name in made.names)
        rows, content_hash = made.rows, f"{made.rows}:{made.identity}"
    else:
        source, target, table = store.uri(store.folder_of(old)), store.uri(folder), old.table
        names = [entry.name for entry in files]
        files = tuple(_spread(spark, lambda name: _cleaned(source, target, name, table, gone), names))
        rows = sum(entry.rows for entry in files)
        content_hash = _content_hash(spark, settings, table, [f"{target}/{name}" for name in names])
    counters = {**old.counters, "erased_rows": old.counters.get("erased_rows", 0) + old.rows - rows}
    publication.seal(old.table, files, rows=rows, content_hash=content_hash, facts=old.facts, counters=counters, versions=old.versions)


def _cleaned(source: str, target: str, name: str, table: str, gone: pa.Array) -> FileEntry:
    clean_file(f"{source}/{name}", table, gone, f"{target}/{name}")
    return inspect_file(target, name)


def _content_hash(spark: SparkSession, settings: Settings, name: str, files: Sequence[str]) -> str:
    """As of a table that a job writes; of the columns that the files have, for an older run may have others than are declared now."""
    df = spark.read.parquet(*files)
    declared = resolve(name, settings.registry(), settings.shape())
    nullable = {column.name for column in declared.columns if column.nullable}
    columns = tuple(Column(f.name, type_name(f.dataType), "", f.name in nullable) for f in df.schema.fields)
    row = df.agg(F.count("*").alias("rows"), *hash_sums(row_hash(replace(declared, columns=columns)))).first()
    assert row is not None
    return f"{row['rows']}:{total_of(row):016x}"


def _shown(store: Store, manifest: Manifest) -> dict[str, Any]:
    return store.read_json(f"{store.folder_of(manifest)}/report.json") or {"users": []}


def _report(store: Store, manifest: Manifest, keys: pa.Array) -> dict[str, Any]:
    """What the report shows, without those of its users."""
    content, gone = _shown(store, manifest), set(keys.to_pylist())
    return {**content, "users": [user for user in content["users"] if user["key"] not in gone]}


def _spread(spark: SparkSession, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """function of each item, in order, by Spark's tasks."""
    if not items:
        return []
    return list(spark.sparkContext.parallelize(items, min(len(items), 1_000)).map(function).collect())
