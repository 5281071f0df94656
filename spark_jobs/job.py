"""What every Spark job shares: arguments, settings, session; read, transform, check, publish; exit code.

A job is a `Job` with a pure transform. Master, memory and cores are never set here: they belong to spark-submit, or to the
packaged conf/spark/local.conf when a job is started by plain Python.
"""

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata, resources
from typing import Any

import pyspark
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf import jobs
from conf.command import Log, Request, RunStatus, Timer, guarded, parse, request
from conf.errors import BadDataError, Fault, GateError, SchemaError, StorageError, TrichannelError
from conf.fields import Registry
from conf.inputs import input_manifests, seen_inputs, unchanged
from conf.settings import Settings
from conf.storage import FileEntry, Manifest, Publication, Record, Store, hash_file, open_root
from conf.tables import ARTEFACTS, Table, check_columns, resolve, with_key_types


@dataclass(frozen=True)
class Context:
    """What a transform may know besides its input tables. `facts` travel on to all later jobs; `counters` land in the manifests."""

    spark: SparkSession
    settings: Settings
    ds: str
    run_id: str
    store: Store
    registry: Registry
    facts: dict[str, Any]
    counters: dict[str, Any]
    manifests: Mapping[str, Manifest]
    publication: Publication

    def folder(self, table: str) -> str:
        """The run folder of an artefact output, empty; a path on `store.fs`."""
        return self.publication.folder(table)

    def files(self, table: str) -> list[str]:
        """The data files of an input table or artefact, as paths or URIs."""
        return self.store.files_of(self.manifests[table])


@dataclass(frozen=True)
class Output:
    """A table to write: repartitioned by `cluster_by` (or into `num_files`), each file sorted by `sort_by`."""

    df: DataFrame
    num_files: int | None = None
    cluster_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artefact:
    """Files that the transform wrote under `Context.folder`. identity: what names the content; None = the sha256 of all files."""

    names: tuple[str, ...]
    rows: int = 0
    identity: str | None = None


Transform = Callable[[Context, Mapping[str, DataFrame]], Mapping[str, DataFrame | Output | Artefact]]


@dataclass(frozen=True)
class Job:
    """name: key of conf.jobs.JOBS, which says what it reads, publishes, and which settings it may use."""

    name: str
    transform: Transform
    doc: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run did. rows: of each output. skipped: the current run was already made from equal settings and inputs."""

    job: str
    record: Record
    seconds: float
    skipped: bool
    rows: Mapping[str, int]


# ---- the command ---------------------------------------------------------------------------------------------------


def main(job: Job, argv: Sequence[str] | None = None) -> int:
    """The command of one job: `spark-submit spark_jobs/<job>.py ...` or `python -m spark_jobs.<job> ...`."""
    arguments = parse(job.name, job.doc or f"Run the {job.name} job for one day and publish its tables.", argv)
    return guarded(lambda: _run_alone(job, request(arguments)))


def _run_alone(job: Job, asked: Request) -> int:
    if asked.dry_run:
        print(submit_line(job.name, asked))
        return 0
    with RunStatus(asked, job.name) as status:
        inputs_seen(job.name, asked)  # a missing input is known at once, without the seconds that Spark takes to start
        with running(job.name) as spark:
            result = run_job(job, spark, asked, status)
    print(summary(result, asked), flush=True)
    return 0


def summary(result: RunResult, asked: Request) -> str:
    """The one line on stdout that ends a job."""
    rows = " ".join(f"{table}={count}" for table, count in result.rows.items())
    state = "up to date" if result.skipped else "published"
    return f"{state} {result.job} ds={asked.ds} run={result.record.run_id} seconds={result.seconds:.1f} {rows}"


def submit_line(job: str, asked: Request) -> str:
    """The spark-submit line that stands for this request."""
    module = jobs.module_of(job).replace(".", "/")
    return shlex.join(["spark-submit", "--py-files", "dist/trichannel.zip", f"{module}.py", *asked.arguments()])


@contextmanager
def running(name: str) -> Iterator[SparkSession]:
    """The session of `session` for the block, stopped after it."""
    spark = session(name)
    try:
        yield spark
    except BaseException:
        with suppress(Exception):  # Spark itself may be what died: its end must not hide the error that says why
            spark.stop()
        raise
    spark.stop()


def session(name: str) -> SparkSession:
    """The active session, or a new one; started by plain Python, it takes its sizes from the packaged local.conf."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ and "PYSPARK_SUBMIT_ARGS" not in os.environ:
        sizes = resources.files("conf").joinpath("spark/local.conf")
        with resources.as_file(sizes) as path:
            os.environ["PYSPARK_SUBMIT_ARGS"] = f"--properties-file {shlex.quote(str(path))} pyspark-shell"
            return _session(name)
    return _session(name)


def _session(name: str) -> SparkSession:
    # Executors must run the interpreter that runs the driver; a cluster overrides it by its own setting.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = (
        SparkSession.builder.appName(f"trichannel-{name}")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.ansi.enabled", "false")  # a value that does not parse becomes null and is counted, not a failed job
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


# ---- one run -------------------------------------------------------------------------------------------------------


def run_job(job: Job, spark: SparkSession, asked: Request, status: RunStatus | None = None) -> RunResult:
    """Read, transform, check and publish one job for one day; skipped when settings and inputs are those of the current run.

    Raises:
        TrichannelError: with every fault at once; nothing was published.
    """
    timer = Timer()
    try:
        result = _run(job, spark, asked, timer)
    except BaseException as error:
        known = _known(error, job.name)
        if status:
            status.stage(job.name, "failed", timer.seconds)
        first_line = next(iter(str(known).splitlines()), type(known).__name__)
        asked.log("stage", stage=job.name, status="failed", seconds=round(timer.seconds, 3), error=first_line[:300])
        with suppress(Exception):  # Spark itself may be what died
            spark.catalog.clearCache()
        if known is error:
            raise
        raise known from error
    spark.catalog.clearCache()
    state = "skipped" if result.skipped else "ok"
    if status:
        status.stage(job.name, state, result.seconds, rows=dict(result.rows), run_id=result.record.run_id)
    asked.log("stage", stage=job.name, status=state, seconds=round(result.seconds, 3), rows=dict(result.rows))
    return result


def _run(job: Job, spark: SparkSession, asked: Request, timer: Timer) -> RunResult:
    settings, store, ds = asked.settings, asked.store, asked.ds
    manifests = input_manifests(job.name, store, ds, settings)
    seen = inputs_seen(job.name, asked, manifests)
    record = unchanged(job.name, asked, seen)
    if record is not None:
        rows = {table: store.load_manifest(table, record).rows for table in record.tables}
        return RunResult(job.name, record, timer.seconds, skipped=True, rows=rows)
    facts: dict[str, Any] = {}
    for manifest in manifests.values():
        facts.update(manifest.facts)
    with store.publication(job.name, ds, asked.run_id, settings, inputs=seen, break_lock=asked.break_lock) as publication:
        context = Context(spark, settings, ds, asked.run_id, store, settings.registry(), facts, dict[str, Any](), manifests, publication)
        tables = {name: _read(context, name) for name in manifests if name not in ARTEFACTS}
        made = job.transform(context, tables)
        wanted = jobs.outputs(job.name, settings)
        assert set(made) == set(wanted), f"{job.name} made {sorted(made)}, want {sorted(wanted)}"
        rows = _write_all(context, {name: made[name] for name in wanted})
        record = publication.commit()
    return RunResult(job.name, record, timer.seconds, skipped=False, rows=rows)


def inputs_seen(job: str, asked: Request, manifests: Mapping[str, Manifest] | None = None) -> dict[str, str]:
    """What the job reads now: table -> identity of its current run; for the first job the state of the raw files. Raises NotReadyError."""
    found = input_manifests(job, asked.store, asked.ds, asked.settings) if manifests is None else manifests
    seen = seen_inputs(found)
    if not found:
        seen["source"] = source_state(asked.settings)
    return seen


def source_state(settings: Settings) -> str:
    """What the raw files look like now (names, sizes, times), so that changed raw data is never taken for ingested data."""
    import hashlib

    from pyarrow import fs as pafs

    source, parts = settings.source, []
    for path in (source.path, source.attributes, source.users.path, source.items.path):
        if path is None:
            continue
        filesystem, root = open_root(path)
        info = filesystem.get_file_info(root)
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True)) if info.type == pafs.FileType.Directory else [info]
        parts += [f"{i.path} {i.size} {i.mtime_ns}" for i in sorted(infos, key=lambda i: str(i.path))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# ---- reading and writing -------------------------------------------------------------------------------------------


def _table(context: Context, name: str) -> Table:
    table = resolve(name, context.registry, context.settings.shape())
    if name == "candidates":  # published keys have the types they came with; everywhere else keys are strings
        return with_key_types(table, context.facts.get("user_key_type", "string"), context.facts.get("item_key_type", "string"))
    return table


def _read(context: Context, name: str) -> DataFrame:
    table = _table(context, name)
    df = context.spark.read.parquet(*context.files(name))
    _check(table, df, context, "read")
    return df.select(*table.names)


def _check(table: Table, df: DataFrame, context: Context, doing: str) -> None:
    faults = check_columns(table, {f.name: type_name(f.dataType) for f in df.schema.fields})
    if faults:
        raise SchemaError(f"table {table.name}, ds={context.ds}, {doing}", faults)


def _write_all(context: Context, made: Mapping[str, DataFrame | Output | Artefact]) -> dict[str, int]:
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


def _write(context: Context, name: str, made: DataFrame | Output | Artefact) -> Manifest:
    if isinstance(made, Artefact):
        return _seal_artefact(context, name, made)
    output = made if isinstance(made, Output) else Output(made)
    table = _table(context, name)
    _check(table, output.df, context, "written")
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
    content_hash = _verify(context, table, [context.store.uri(f"{folder}/{entry.name}") for entry in files])
    rows = sum(entry.rows for entry in files)
    if rows < context.settings.gates.min_rows and not table.may_be_empty:
        raise GateError(f"table {name}, ds={context.ds}", [Fault(f"{rows} rows", f"gates.min_rows is {context.settings.gates.min_rows}")])
    return context.publication.seal(
        name, files, rows=rows, content_hash=content_hash, facts=context.facts, counters=context.counters, versions=versions()
    )


def _seal_artefact(context: Context, name: str, made: Artefact) -> Manifest:
    import hashlib

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
    from pyarrow import fs as pafs

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
    import pyarrow.parquet as pq

    filesystem, folder = open_root(root)
    path = f"{folder}/{name}"
    size, sha256 = hash_file(filesystem, path)
    with filesystem.open_input_file(path) as handle:
        footer = pq.ParquetFile(handle).metadata
        groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    return FileEntry(name, footer.num_rows, size, sha256, groups)


def _verify(context: Context, table: Table, files: Sequence[str]) -> str:
    """Read the written files back: no nulls where none may be, keys unique; return "rows:hash", independent of row order."""
    df = context.spark.read.parquet(*files)
    keyed = bool(table.key) and context.settings.gates.unique_keys
    required = [column.name for column in table.columns if not column.nullable]
    nulls = [F.sum(F.col(name).isNull().cast("long")).alias(f"null_{name}") for name in required]
    summed = [F.count("*").alias("rows"), F.sum(row_hash(table).cast("decimal(38,0)")).alias("total"), *nulls]
    if keyed:  # one pass for all: sums by key, then the sums of sums and the largest count
        by_key = df.groupBy(*[F.col(name).alias(f"key_{name}") for name in table.key]).agg(*summed)
        totals = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("rows", "total", *(f"null_{name}" for name in required))]
        row = by_key.agg(F.max("rows").alias("most"), *totals).first()
    else:
        row = df.agg(F.lit(1).alias("most"), *summed).first()
    assert row is not None
    faults = [Fault(f"column {name!r} has {row[f'null_{name}']} nulls") for name in required if row[f"null_{name}"]]
    if keyed and (row["most"] or 0) > 1:
        twice = df.groupBy(*table.key).count().where("count > 1").limit(3).collect()
        faults += [Fault(f"key {table.key} is not unique", f"found {r['count']} times: {tuple(r[k] for k in table.key)}") for r in twice]
    if faults:
        raise BadDataError(f"table {table.name}, ds={context.ds}", faults)
    return f"{row['rows']}:{int(row['total'] or 0) % 2**64:016x}"


def row_hash(table: Table) -> Any:
    """A 64-bit hash of a row as a Spark column; floats of model-derived tables are rounded to 1e-5, nulls are distinct from absence."""

    columns = [_rounded(F.col(c.name), c.type) if table.derived else F.col(c.name) for c in table.columns if c.name != "run_id"]
    nulls = [F.col(c.name).isNull() for c in table.columns if c.nullable]
    # xxhash64 folds arrays into one another: without the lengths, [1], [2] would hash like [1, 2], []
    lengths = [F.size(c.name) for c in table.columns if c.type.startswith("array<")]
    return F.xxhash64(*columns, *nulls, *lengths)


def _rounded(column: Column, kind: str) -> Column:
    """The value with its floats rounded to 1e-5, however deep they lie."""
    if kind in ("float32", "float64"):
        return F.round(column.cast("double"), 5) + F.lit(0.0)  # + 0.0 turns -0.0 into 0.0
    if "float" not in kind:
        return column
    if kind.startswith("array<"):
        return F.transform(column, lambda x: _rounded(x, kind[6:-1]))
    return F.struct(*[_rounded(column[name], inner).alias(name) for name, inner in (part.split(":") for part in kind[7:-1].split(","))])


_TYPE_NAMES: Mapping[type[T.DataType], str] = {
    T.BooleanType: "bool",
    T.ByteType: "int8",
    T.ShortType: "int16",
    T.IntegerType: "int32",
    T.LongType: "int64",
    T.FloatType: "float32",
    T.DoubleType: "float64",
    T.StringType: "string",
}


def type_name(data_type: T.DataType) -> str:
    """Our name of a Spark type, as in conf.tables.TYPES; Spark's own where we have none."""
    if isinstance(data_type, T.ArrayType):
        return f"array<{type_name(data_type.elementType)}>"
    if isinstance(data_type, T.StructType):
        return f"struct<{','.join(f'{f.name}:{type_name(f.dataType)}' for f in data_type.fields)}>"
    return _TYPE_NAMES.get(type(data_type), data_type.simpleString())


def spark_schema(table: Table) -> T.StructType:
    """The table's columns as a Spark schema."""
    return T.StructType([T.StructField(c.name, _spark_type(c.type), c.nullable) for c in table.columns])


def _spark_type(name: str) -> T.DataType:
    simple = {ours: spark for spark, ours in _TYPE_NAMES.items()}
    if name.startswith("array<"):
        return T.ArrayType(_spark_type(name[6:-1]), containsNull=False)
    if name.startswith("struct<"):
        pairs = (part.split(":") for part in name[7:-1].split(","))
        return T.StructType([T.StructField(key, _spark_type(kind)) for key, kind in pairs])
    return simple[name]()


def versions() -> dict[str, str]:
    """Versions that shaped a run, for its manifests."""
    try:
        own = metadata.version("trichannel")
    except metadata.PackageNotFoundError:  # shipped by --py-files, not installed
        own = "unpackaged"
    return {"trichannel": own, "pyspark": pyspark.__version__, "python": platform.python_version()}


# ---- errors of Spark in our words ----------------------------------------------------------------------------------

_CORRUPT = (
    "is not a Parquet file",
    "Could not read footer",
    "FAILED_READ_FILE",
    "CANNOT_READ_FILE_FOOTER",
    "not a gzip file",
    "MALFORMED_",
)


def _known(error: BaseException, where: str) -> BaseException:
    """The error as one of ours where the cause is known, else the error itself."""
    if isinstance(error, TrichannelError) or not isinstance(error, Exception):
        return error
    text = _full_text(error)
    if "No space left on device" in text:
        return StorageError(f"job {where}", [Fault("the disk is full", fix="free space or change storage.root, then run again")])
    if any(sign in text for sign in _CORRUPT):
        lines = [line.strip() for line in text.splitlines() if any(sign in line for sign in _CORRUPT)]
        return BadDataError(
            f"job {where}", [Fault("a file cannot be read", lines[0][:300], "restore the file, or run the job that wrote it")]
        )
    return error


def _full_text(error: BaseException) -> str:
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    java = getattr(error, "java_exception", None)
    if java is not None:
        texts.append(str(java.toString()))
    if isinstance(error, PySparkException):
        texts.append(str(getattr(error, "_stackTrace", "") or ""))
    return "\n".join(texts)


__all__ = [
    "Artefact",
    "Context",
    "Job",
    "Log",
    "Output",
    "RunResult",
    "main",
    "run_job",
    "session",
    "spark_schema",
]
