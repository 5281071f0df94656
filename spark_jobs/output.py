"""Tables of a job read and written: columns checked, files hashed, keys and nulls verified on what was written."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from importlib import metadata
from operator import or_

import pyarrow.parquet as pq
import pyspark
from pyarrow import fs as pafs
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from conf.errors import BadDataError, Fault, GateError, SchemaError
from conf.files import hash_file, open_root
from conf.manifest import FileEntry, Manifest
from conf.schemas.table import Table
from conf.tables import check_columns, resolve, with_key_types
from spark_jobs.context import Artefact, Context, Made, Output, Written
from spark_jobs.schema import hash_sums, row_hash, spark_schema, total_of, type_name


def table_of(context: Context, name: str) -> Table:
    """The declared table, with the key types and the columns of this run."""
    table = resolve(name, context.registry, context.settings.shape())
    return with_key_types(table, context.facts.get("user_key_type", "string"), context.facts.get("item_key_type", "string"))


def read(context: Context, name: str, manifest: Manifest | None = None) -> DataFrame:
    """The current version of an input table, or the one given; columns checked (SchemaError) and in the declared order."""
    table = table_of(context, name)
    files = context.store.files_of(manifest or context.manifests[name])
    _check(table, file_schema(files[0]), context, "read")
    return context.spark.read.schema(spark_schema(table)).parquet(*files)


def file_schema(uri: str) -> StructType:
    """The columns of a Parquet file, from its footer. Spark would start a job to learn them, of each table it opens."""
    filesystem, path = open_root(uri)
    with filesystem.open_input_file(path) as handle:
        return from_arrow_schema(pq.read_schema(handle))


def _check(table: Table, found: StructType, context: Context, doing: str) -> None:
    faults = check_columns(table, {f.name: type_name(f.dataType) for f in found.fields})
    if faults:
        raise SchemaError(f"table {table.name}, ds={context.ds}, {doing}", faults)


def write_all(context: Context, made: Mapping[str, Made]) -> dict[str, int]:
    """Write, verify and seal every output; the rows of each.

    Raises:
        SchemaError: other columns than declared. GateError: too few rows. BadDataError: nulls or keys that are not unique.
    """
    # Small tables wait for Spark's scheduling more than they compute, so they are written side by side.
    with ThreadPoolExecutor(max_workers=min(4, len(made))) as pool:
        try:
            written = {name: pool.submit(_write, context, name, table) for name, table in made.items()}
            return {name: future.result().rows for name, future in written.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            with suppress(Exception):  # Spark itself may be what died
                context.spark.sparkContext.cancelAllJobs()
            raise


def _write(context: Context, name: str, made: Made) -> Manifest:
    if isinstance(made, Artefact):
        return _seal_artefact(context, name, made)
    written = made if isinstance(made, Written) else write_now(context, name, made if isinstance(made, Output) else Output(made))
    rows = sum(entry.rows for entry in written.files)
    return _seal_table(context, table_of(context, name), written.files, f"{rows}:{written.total:016x}")


def write_now(context: Context, name: str, output: Output) -> Written:
    """Write and verify a table while its job still runs, so that the rest of the job can read what was written (`read_back`).

    Raises:
        SchemaError: other columns than declared. BadDataError: nulls or keys that are not unique.
    """
    table = table_of(context, name)
    _check(table, output.df.schema, context, "written")
    folder = context.publication.folder(name)
    df = output.df.select(*table.names)
    if output.num_files is not None and output.cluster_by:
        df = df.repartition(output.num_files, *output.cluster_by)
    elif output.cluster_by:
        df = df.repartition(*output.cluster_by)
    elif output.num_files is not None:
        df = df.coalesce(output.num_files)
    if output.sort_by:
        df = df.sortWithinPartitions(*output.sort_by)
    prefix = f"part-{context.publication.attempt}"
    (
        df.write.mode("append")
        .options(**output.options)
        .option("mapreduce.output.basename", prefix)
        # Spark's own _SUCCESS would come before our manifest: ours is written last.
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
        .parquet(context.store.uri(folder))
    )
    files = _inspect_files(context, folder, prefix)
    return Written(tuple(files), _verify(context, table, uris(context, name, files)), {})


def read_back(context: Context, name: str, written: Written) -> DataFrame:
    """The table as it was written by this run, which has not published it yet."""
    return context.spark.read.schema(spark_schema(table_of(context, name))).parquet(*uris(context, name, written.files))


def uris(context: Context, name: str, files: Sequence[FileEntry]) -> list[str]:
    """Files of an output of this run, which it has not published yet, as `open_root` and Spark take them."""
    folder = context.store.run_folder(name, context.ds, context.run_id)
    return [context.store.uri(f"{folder}/{entry.name}") for entry in files]


def _seal_table(context: Context, table: Table, files: Sequence[FileEntry], content_hash: str) -> Manifest:
    rows = sum(entry.rows for entry in files)
    if rows < context.settings.gates.min_rows and not table.may_be_empty:
        raise GateError(
            f"table {table.name}, ds={context.ds}", [Fault(f"{rows} rows", f"gates.min_rows is {context.settings.gates.min_rows}")]
        )
    return context.publication.seal(
        table.name, files, rows=rows, content_hash=content_hash, facts=context.facts, counters=context.counters, versions=versions()
    )


def _seal_artefact(context: Context, name: str, made: Artefact) -> Manifest:
    folder = context.store.run_folder(name, context.ds, context.run_id)
    files = []
    for file_name in made.names:
        size, sha256 = hash_file(context.store.fs, f"{folder}/{file_name}")
        files.append(FileEntry(file_name, 0, size, sha256))
    identity = made.identity or hashlib.sha256(" ".join(sorted(f.sha256 for f in files)).encode()).hexdigest()[:16]
    return context.publication.seal(
        name,
        files,
        rows=made.rows,
        content_hash=f"{made.rows}:{identity}",
        facts=context.facts,
        counters=context.counters,
        versions=versions(),
    )


DRIVER_READS_BYTES = 64 * 2**20  # the driver reads this much faster than Spark starts tasks


def _inspect_files(context: Context, folder: str, prefix: str) -> list[FileEntry]:
    infos = context.store.fs.get_file_info(pafs.FileSelector(folder))
    # By prefix: the Spark of a killed attempt of the same run may outlive its Python and still write into the folder.
    names = sorted(i.base_name for i in infos if i.base_name.startswith(f"{prefix}-") and i.base_name.endswith(".parquet"))
    root = context.store.uri(folder)
    if sum(i.size for i in infos if i.base_name in names) < DRIVER_READS_BYTES:
        return [inspect_file(root, name) for name in names]
    spread = context.spark.sparkContext.parallelize(names, max(1, min(len(names), 64)))
    return sorted(spread.map(lambda name: inspect_file(root, name)).collect(), key=lambda entry: entry.name)


def inspect_file(root: str, name: str) -> FileEntry:
    """Rows, bytes, sha256 and row groups of one Parquet file (on an executor where the table is large)."""
    filesystem, folder = open_root(root)
    path = f"{folder}/{name}"
    size, sha256 = hash_file(filesystem, path)
    with filesystem.open_input_file(path) as handle:
        footer = pq.ParquetFile(handle).metadata
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    return FileEntry(name, footer.num_rows, size, sha256, groups)


def _verify(context: Context, table: Table, files: Sequence[str]) -> int:
    """Read the written files back: no nulls where none may be, keys unique; the sum of the hashes of the rows, modulo 2^64."""
    df = context.spark.read.schema(spark_schema(table)).parquet(*files)
    keyed = bool(table.key) and context.settings.gates.unique_keys
    required = [column.name for column in table.columns if not column.nullable]
    incomplete = reduce(or_, [F.col(name).isNull() for name in required], F.lit(False))
    summed = [F.count("*").alias("rows"), F.sum(incomplete.cast("long")).alias("incomplete"), *hash_sums(row_hash(table))]
    if keyed:  # one pass for all: sums by key, then the sums of sums and the largest count
        by_key = df.groupBy(*[F.col(name).alias(f"key_{name}") for name in table.key]).agg(*summed)
        row = by_key.agg(F.max("rows").alias("most"), *[F.sum(name).alias(name) for name in by_key.columns[len(table.key) :]]).first()
    else:
        row = df.agg(F.lit(1).alias("most"), *summed).first()
    assert row is not None
    faults = []
    if row["incomplete"]:
        found = df.agg(*[F.sum(F.col(name).isNull().cast("long")).alias(name) for name in required]).first()
        assert found is not None
        faults = [Fault(f"column {name!r} has {found[name]} nulls") for name in required if found[name]]
    if keyed and (row["most"] or 0) > 1:
        twice = df.groupBy(*table.key).count().where("count > 1").limit(3).collect()
        faults += [Fault(f"key {table.key} is not unique", f"found {r['count']} times: {tuple(r[k] for k in table.key)}") for r in twice]
    if faults:
        raise BadDataError(f"table {table.name}, ds={context.ds}", faults)
    return total_of(row)


def versions() -> dict[str, str]:
    """Versions that shaped a run, for its manifests."""
    try:
        own = metadata.version("trichannel")
    except metadata.PackageNotFoundError:  # shipped by --py-files, not installed
        own = "unpackaged"
    return {"trichannel": own, "pyspark": pyspark.__version__, "python": platform.python_version()}
