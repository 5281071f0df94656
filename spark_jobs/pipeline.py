"""The day as a list of stages, from raw clicks to the report, in one Spark session; knows stages by name only.

A stage whose settings and inputs are those of its current run is skipped, so the same command resumes a day that failed half-way.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from conf import jobs
from conf.command import Request, RunStatus
from conf.errors import Fault, StorageError, UsageError
from conf.files import open_root
from conf.inputs import is_current
from conf.settings import Settings
from spark_jobs.hive_views import is_asked, register
from spark_jobs.job import Job, inputs_seen, run_job, running, submit_line
from spark_jobs.launcher import TRAIN, train, train_command
from spark_jobs.memory import peak_memory


def run(asked: Request, *, until: str | None = None) -> int:
    """Run every stage of the day (up to and including `until`); prints one line when the candidates are published."""
    stages = stages_until(until, asked.settings)
    if asked.dry_run:
        print(describe(plan(asked), asked))
        return 0
    with RunStatus(asked, "run") as status, running("pipeline", hive=is_asked(asked)) as spark:
        run_stages(stages, spark, asked, status)
    print(closing_line(asked, stages), flush=True)
    return 0


def run_stages(stages: Sequence[str], spark: SparkSession, asked: Request, status: RunStatus, *, resume: bool = False) -> None:
    """Run these stages of the day, one after the other; the first that fails raises what made it fail.

    resume: a training that was cut goes on from its last checkpoint.
    """
    for name in stages:
        with peak_memory() as peak:
            if name == TRAIN:
                train(asked, status, resume=resume)
            else:
                run_job(load_job(name), spark, asked, status)
        status.annotate(peak_rss_mb=peak.megabytes)
    if is_asked(asked) and "candidates" in stages:
        for line in register(spark, asked.store, asked.settings):
            asked.log("register", text=line)


def stages_until(until: str | None, settings: Settings) -> tuple[str, ...]:
    """The stages of a day by these settings, in its order; raises UsageError for an unknown name."""
    names = tuple(jobs.JOBS)
    if until is not None and until not in names:
        raise UsageError("--until", [Fault(f"unknown stage {until!r}", f"known: {', '.join(names)}")])
    last = names.index(until) if until else len(names)
    return tuple(name for name in jobs.stages(settings) if names.index(name) <= last)


def load_job(name: str) -> Job:
    """The job's own `JOB`, imported only when it runs."""
    job = import_module(jobs.module_of(name)).JOB
    assert isinstance(job, Job)
    return job


# ---- what would be done ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One stage of a plan. reason: why it will run, "" if it is up to date."""

    name: str
    reason: str
    command: str


def plan(asked: Request) -> list[Planned]:
    """Which stages would run, why, and the command each stands for; reads pointers only, starts nothing.

    Where the root cannot be reached from here (a plan made away from the cluster), every stage is shown.
    """
    try:
        store = asked.store
    except StorageError as error:
        asked.log("plan", error=str(error))
        return [Planned(name, f"not known, {error.where} cannot be reached", _command(name, asked)) for name in jobs.stages(asked.settings)]
    planned: list[Planned] = []
    changed: set[str] = set()
    for name in jobs.stages(asked.settings):
        record = store.find(name, asked.ds, asked.settings)
        before = [stage for stage in jobs.upstream(name, asked.settings) if stage in changed]
        if asked.force:
            reason = "forced"
        elif record is None:
            reason = "nothing is committed for the day"
        elif record.config_hash != jobs.config_hash(name, asked.settings):
            reason = "settings changed"
        elif before:
            reason = f"after {', '.join(before)}"
        elif not is_current(record, name, asked.settings, inputs_seen(name, asked)):
            reason = "inputs changed"
        else:
            reason = ""
        if reason:
            changed.add(name)
        planned.append(Planned(name, reason, _command(name, asked)))
    return planned


def _command(name: str, asked: Request) -> str:
    return shlex.join(train_command(asked)) if name == TRAIN else submit_line(name, asked)


def describe(planned: list[Planned], asked: Request) -> str:
    """The plan as text: one stage a line, the command below each that would run."""
    lines = [f"ds={asked.ds} variant={asked.variant} root={asked.settings.storage.root}"]
    for stage in planned:
        lines.append(f"{stage.name:16} {'run: ' + stage.reason if stage.reason else 'up to date'}")
        if stage.reason:
            lines.append(f"    {stage.command}")
    return "\n".join(lines)


# ---- closing line ---------------------------------------------------------------------------------------------------


def closing_line(asked: Request, stages: tuple[str, ...]) -> str:
    """What the user came for, in one line."""
    if "candidates" not in stages:
        return f"finished ds={asked.ds} run={asked.run_id} stages={','.join(stages)}"
    store, settings = asked.store, asked.settings
    manifest = store.manifest("candidates", asked.ds, settings)
    words = [
        f"published candidates ds={asked.ds}",
        f"users={manifest.counters['candidates']['users']}",
        f"channels={','.join(settings.channels.names)}",
    ]
    if "offline_metrics" in stages:
        words.append(f"recall@{max(settings.evaluation.at)}={merged_recall(asked)}")
    if "yesterday" in stages and (found := yesterdays_recall(asked)):
        words.append(found)
    if "report" in stages:
        words.append(f"report={store.folder_of(store.manifest('report', asked.ds, settings))}/report.html")
    return " ".join(words)


def merged_recall(asked: Request) -> str:
    """Recall of the merged candidates at the largest N, to 4 digits; 'none' where nothing was held out."""
    rows = _recall_rows(asked, "metrics", pc.field("slice") == "all")
    return f"{rows[0]['value']:.4f}" if rows else "none"


def yesterdays_recall(asked: Request) -> str:
    """The same of the candidates of the day before on the clicks since, with that day; "" where they were not scored."""
    rows = _recall_rows(asked, "metrics_yesterday", pc.scalar(True))
    return f"recall@{rows[0]['n']}_of_{rows[0]['candidates_ds']}={rows[0]['value']:.4f}" if rows else ""


def _recall_rows(asked: Request, name: str, also: pc.Expression) -> list[dict[str, Any]]:
    """The row of the merged list's recall at the largest N in a table of metrics; [] where there is none."""
    store, rows = asked.store, list[dict[str, Any]]()
    wanted = (pc.field("channel") == "merged") & (pc.field("metric") == "recall") & (pc.field("n") == max(asked.settings.evaluation.at))
    for path in store.files_of(store.manifest(name, asked.ds, asked.settings)):
        filesystem, file = open_root(path)
        rows += pq.read_table(file, filesystem=filesystem).filter(wanted & also).to_pylist()
    return rows
