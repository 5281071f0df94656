"""What every Spark job shares: arguments, settings, session; read, transform, check, publish; exit code.

A job is a `Job` with a pure transform. Master, memory and cores are never set here: they belong to spark-submit, or to the
packaged conf/spark/local.conf when a job is started by plain Python.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

from pyarrow import fs as pafs
from pyspark.sql import SparkSession

from conf import jobs
from conf.command import Request, RunStatus, Timer, guarded, parse, request
from conf.files import open_root
from conf.inputs import before_manifests, input_manifests, previous_manifests, seen_inputs, unchanged
from conf.manifest import Manifest
from conf.settings import Settings
from conf.tables import ARTEFACTS
from spark_jobs.context import Artefact, Context, Job, Made, Output, RunResult, Written
from spark_jobs.output import read, write_all
from spark_jobs.schema import spark_schema
from spark_jobs.secret_key import key_of
from spark_jobs.session import known, running, session

# ---- the command ---------------------------------------------------------------------------------------------------


def main(job: Job, argv: Sequence[str] | None = None) -> int:
    """The command of one job: `spark-submit spark_jobs/<job>.py ...` or `python -m spark_jobs.<job> ...`."""
    arguments = parse(job.name, job.doc or f"Run the {job.name} job for one day and publish its tables.", argv)
    return guarded(lambda: run_alone(job, request(arguments)))


def run_alone(job: Job, asked: Request) -> int:
    """Run one job in a session of its own, tell the status file and stdout; returns the exit code."""
    if asked.dry_run:
        print(submit_line(job.name, asked))
        return 0
    with RunStatus(asked, job.name) as status:
        inputs_seen(job.name, asked)  # a missing input is known at once, without the seconds that Spark takes to start
        with running(job.name) as spark:
            result = run_job(job, spark, asked, status)
        print(summary(result, asked), flush=True)
        if job.tell is not None:
            job.tell(asked.store, result.record)
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
        cause = known(error, job.name)
        if status:
            status.stage(job.name, "failed", timer.seconds)
        first_line = next(iter(str(cause).splitlines()), type(cause).__name__)
        asked.log("stage", stage=job.name, status="failed", seconds=round(timer.seconds, 3), error=first_line[:300])
        with suppress(Exception):  # Spark itself may be what died
            spark.catalog.clearCache()
        if cause is error:
            raise
        raise cause from error
    spark.catalog.clearCache()
    state = "skipped" if result.skipped or result.reason else "ok"
    values = {"rows": dict(result.rows)} | ({"reason": result.reason} if result.reason else {})
    if status:
        status.stage(job.name, state, result.seconds, **values, run_id=result.record.run_id)
    asked.log("stage", stage=job.name, status=state, seconds=round(result.seconds, 3), **values)
    return result


def _run(job: Job, spark: SparkSession, asked: Request, timer: Timer) -> RunResult:
    settings, store, ds = asked.settings, asked.store, asked.ds
    manifests = input_manifests(job.name, store, ds, settings, truth_ds=asked.truth_ds)
    previous = previous_manifests(job.name, store, ds, settings)
    before = before_manifests(job.name, store, ds, settings, since=asked.since)
    seen = inputs_seen(job.name, asked, manifests, previous, before)
    record = unchanged(job.name, asked, seen)
    if record is not None:
        rows = {table: store.load_manifest(table, record).rows for table in record.tables}
        return RunResult(job.name, record, timer.seconds, skipped=True, rows=rows)
    facts: dict[str, Any] = {}
    for manifest in manifests.values():
        if manifest.ds == ds:  # what a later day knows is not known of this one
            facts.update(manifest.facts)
    with store.publication(job.name, ds, asked.run_id, settings, inputs=seen, break_lock=asked.break_lock) as publication:
        registry, counters = settings.registry(), dict[str, Any]()
        context = Context(spark, settings, ds, asked.run_id, store, registry, facts, counters, manifests, previous, publication, before)
        tables = {name: read(context, name) for name in manifests if name not in ARTEFACTS}
        tables |= {f"previous_{name}": read(context, name, manifest) for name, manifest in previous.items()}
        made = job.transform(context, tables)
        wanted = jobs.outputs(job.name, settings)
        assert set(made) == set(wanted), f"{job.name} made {sorted(made)}, want {sorted(wanted)}"
        rows = write_all(context, {name: made[name] for name in wanted})
        record = publication.commit()
    for kind in ("choice", "warning"):
        for text in counters.get(f"{kind}s", []):
            asked.log(kind, stage=job.name, text=text)
    return RunResult(job.name, record, timer.seconds, skipped=False, rows=rows, reason=counters.get("skipped", ""))


def inputs_seen(
    job: str,
    asked: Request,
    manifests: Mapping[str, Manifest] | None = None,
    previous: Mapping[str, Manifest] | None = None,
    before: Mapping[str, Manifest] | None = None,
) -> dict[str, str]:
    """What the job reads now: table -> identity of its current run, tables of earlier days included.

    For the first job it is the state of the raw files. Raises NotReadyError.
    """
    if manifests is None:
        manifests = input_manifests(job, asked.store, asked.ds, asked.settings, truth_ds=asked.truth_ds)
    if previous is None:
        previous = previous_manifests(job, asked.store, asked.ds, asked.settings)
    if before is None:
        before = before_manifests(job, asked.store, asked.ds, asked.settings, since=asked.since)
    seen = seen_inputs({**manifests, **previous}, before)
    # What an earlier day keeps, a new name on the erasure list must reach, too, though the clicks of today be the same.
    if "source.path" in jobs.JOBS[job].files or (previous and asked.settings.source.erasure is not None):
        seen["source"] = source_state(asked.settings)
    elif any(given_files(job, asked.settings)):
        seen["source"] = state_of(given_files(job, asked.settings))
    return seen


def given_files(job: str, settings: Settings) -> list[str]:
    """The paths of the user's own files that the job reads by these settings."""
    return [path for name in jobs.JOBS[job].files if (path := attrgetter(name)(settings)) is not None]


def source_state(settings: Settings) -> str:
    """State of the raw files, so that changed raw data is never taken for ingested data; and of the key of pseudonyms."""
    key = key_of(settings.source)
    return state_of(given_files("ingest", settings), [key.fingerprint] if key else [])


def state_of(paths: Sequence[str], more: Sequence[str] = ()) -> str:
    """16 hex digits: what the files look like now, by names, sizes and times; of a folder all that lies under it."""
    parts = []
    for path in paths:
        filesystem, root = open_root(path)
        info = filesystem.get_file_info(root)
        infos = filesystem.get_file_info(pafs.FileSelector(root, recursive=True)) if info.type == pafs.FileType.Directory else [info]
        parts += [f"{i.path} {i.size} {i.mtime_ns}" for i in sorted(infos, key=lambda i: str(i.path))]
    return hashlib.sha256("\n".join([*parts, *more]).encode()).hexdigest()[:16]


__all__ = [
    "Artefact",
    "Context",
    "Job",
    "Made",
    "Output",
    "RunResult",
    "Written",
    "main",
    "run_job",
    "running",
    "session",
    "spark_schema",
]
