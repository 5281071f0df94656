"""Published tables as views of a Hive catalogue, each day read from the files of its current run; made anew after publishing and rollback.

Views and not partitions: a partition is a whole folder, and what reads one would take manifest.json for data. A day is a constant of its
part of the view, so a query of one day reads that day's files alone.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from pyspark.sql import SparkSession

from conf import jobs
from conf.command import Request
from conf.errors import Fault, NotReadyError, UsageError
from conf.settings import Settings
from conf.storage import MAIN, Store
from spark_jobs.output import file_schema
from spark_jobs.session import running

PUBLISHED: Final = ("candidates", "candidates_delta", "similar_users", "similar_items")


def register_alone(asked: Request) -> int:
    """Make the views anew, in a Spark session of their own; returns 0. Raises UsageError where the settings ask for none."""
    if not is_asked(asked):
        fault = Fault("no views are asked for", f"variant {asked.variant}", "set publish.hive to a database; only main has views")
        raise UsageError("publish.hive", [fault])
    with running("register", hive=True) as spark:
        for line in register(spark, asked.store, asked.settings):
            print(line)
    return 0


def is_asked(asked: Request) -> bool:
    """Whether this request's tables stand as views: those of production do, where a database is named."""
    return asked.settings.publish.hive is not None and asked.variant == MAIN


def register(spark: SparkSession, store: Store, settings: Settings) -> list[str]:
    """Create the database and the view of each published table, or replace it; one line a view.

    Raises:
        NotReadyError: the catalogue cannot be written. Tables stay as they are.
    """
    database, made = settings.publish.hive, list[str]()
    try:
        spark.sql(f"CREATE DATABASE IF NOT EXISTS `{database}`")
        for table in PUBLISHED:
            files = current_files(store, table, settings.publish.hive_days)
            if files:
                spark.sql(view_of(f"`{database}`.`{table}`", files, columns_of(files)))
                made.append(f"view {database}.{table} days={len(files)} latest={max(files)}")
    except Exception as error:
        found = str(error).splitlines()[0][:300]
        fault = Fault("the views are not renewed; the tables themselves are published", found, "trichannel register, once it answers")
        raise NotReadyError(f"catalogue database {database}", [fault]) from error
    return made


def current_files(store: Store, table: str, num: int) -> dict[str, list[str]]:
    """day -> the files of the table's current run, of the last `num` days that have any and whose columns are those of the last."""
    found = dict[str, list[str]]()
    job = jobs.producer(table)
    for ds in reversed(store.days(job)):
        record = store.current(job, ds)
        if len(found) == num:
            break
        if record is not None and table in record.tables:
            files = store.files_of(store.load_manifest(table, record))
            if files and (not found or columns_of({ds: files}) == columns_of(found)):
                found[ds] = files
    return found


def columns_of(files: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of the last day, without its own `ds`."""
    return [name for name in file_schema(files[max(files)][0]).names if name != "ds"]


def view_of(name: str, files: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    """The statement that makes the view: ds and the columns, one part a day."""
    listed = ", ".join(f"`{column}`" for column in columns)
    parts = [f"SELECT '{ds}' AS ds, {listed} FROM parquet.`{_one_path(paths)}`" for ds, paths in sorted(files.items())]
    return f"CREATE OR REPLACE VIEW {name} AS\n" + "\nUNION ALL\n".join(parts)


def _one_path(paths: Sequence[str]) -> str:
    """All files of one folder as one path of Hadoop's globs."""
    folder, names = paths[0].rsplit("/", 1)[0], [path.rsplit("/", 1)[1] for path in paths]
    return f"{folder}/{{{','.join(names)}}}" if len(names) > 1 else paths[0]
