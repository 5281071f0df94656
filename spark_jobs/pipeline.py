"""The day as a list of stages, from raw clicks to the report, in one Spark session; knows stages by name only.

A stage whose settings and inputs are those of its current run is skipped, so the same command resumes a day that failed half-way.
"""

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf import jobs
from conf.command import Request, RunStatus, Timer
from conf.errors import Fault, TrainingError, UsageError
from conf.inputs import is_current, unchanged
from conf.storage import Record, open_root
from spark_jobs.job import Job, inputs_seen, run_job, running, submit_line

TRAIN = "train"


def run(asked: Request, *, until: str | None = None) -> int:
    """Run every stage of the day (up to and including `until`); prints one line when the candidates are published."""
    stages = stages_until(until)
    if asked.dry_run:
        print(describe(plan(asked), asked))
        return 0
    with RunStatus(asked, "run") as status, running("pipeline") as spark:
        for name in stages:
            with peak_memory() as peak:
                if name == TRAIN:
                    train(asked, status)
                else:
                    run_job(load_job(name), spark, asked, status)
            status.annotate(peak_rss_mb=peak.megabytes)
    print(closing_line(asked, stages), flush=True)
    return 0


def stages_until(until: str | None) -> tuple[str, ...]:
    """The stages in order of the day; raises UsageError for an unknown name."""
    names = tuple(jobs.JOBS)
    if until is None:
        return names
    if until not in names:
        raise UsageError("--until", [Fault(f"unknown stage {until!r}", f"known: {', '.join(names)}")])
    return names[: names.index(until) + 1]


def load_job(name: str) -> Job:
    """The job's own `JOB`, imported only when it runs."""
    job = import_module(jobs.module_of(name)).JOB
    assert isinstance(job, Job)
    return job


# ---- training, in processes of its own ------------------------------------------------------------------------------


def train_command(asked: Request, *, resume: bool = False) -> list[str]:
    """The command that trains: `horovodrun -np N ... python -m trainer.train ...`, or plain Python for launcher single."""
    trainer = asked.settings.trainer
    command = [sys.executable, "-m", "trainer.train", *asked.arguments(), *["--resume"] * resume]
    if trainer.launcher == "horovod":
        horovodrun = Path(sys.executable).with_name("horovodrun")
        return [str(horovodrun) if horovodrun.exists() else "horovodrun", "-np", str(trainer.workers), "--gloo", *command]
    return command


def train_alone(asked: Request, *, resume: bool = False) -> int:
    """The training stage as a command of its own; returns the launcher's exit code."""
    command = train_command(asked, resume=resume)
    if asked.dry_run:
        print(shlex.join(command), flush=True)
        # one process is enough to say what would be trained
        command = [sys.executable, "-m", "trainer.train", *asked.arguments(), "--dry-run"]
    return run_tree(command, env=_environment(asked))


# glibc gives large blocks back to the kernel at every free, and takes them again, page by page, at every step: kept, a step
# takes about half the time. Whoever sets one of these keeps it.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}


def _environment(asked: Request) -> dict[str, str]:
    return _KEEP_MEMORY | os.environ | {"OMP_NUM_THREADS": str(asked.settings.trainer.threads)}


def train(asked: Request, status: RunStatus | None = None) -> None:
    """Train in a process group of its own unless the model is current; raises TrainingError with the exit code of the launcher."""
    timer = Timer()
    record = unchanged(TRAIN, asked, inputs_seen(TRAIN, asked))
    if record is not None:
        _note(asked, status, "skipped", timer, record)
        return
    environment = _environment(asked) | {"TRICHANNEL_STAGE": "1"}  # the run's status file is ours to write
    # stdout belongs to the summary line of the whole run, so the trainer's goes to stderr
    code = run_tree(train_command(asked), stdout=sys.stderr.fileno(), env=environment)
    if code != 0:
        _note(asked, status, "failed", timer, None)
        fault = Fault(f"the trainer ended with exit code {code}", "its own message stands above", "trichannel train --resume goes on")
        raise TrainingError(f"job {TRAIN}, ds={asked.ds}", [fault])
    _note(asked, status, "ok", timer, asked.store.current(TRAIN, asked.ds))


def run_tree(command: Sequence[str], *, env: Mapping[str, str], stdout: int | None = None, grace_s: float = 15) -> int:
    """Exit code of the command. If this process is told to end meanwhile, the command and all that it started are ended first.

    grace_s: seconds they have to give back what they hold (the trainer its lock) before they are killed.
    """
    # in a session of its own: Ctrl-C reaches only us, and what it means for the trainer is decided here
    process = subprocess.Popen(command, stdout=stdout, env=dict(env), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        _end_tree(process, grace_s)
        raise


def _end_tree(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]  # listed first: whoever outlives its parent could not be found again
    except psutil.NoSuchProcess:
        return
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=grace_s)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _note(asked: Request, status: RunStatus | None, state: str, timer: Timer, record: Record | None) -> None:
    values: dict[str, Any] = {"run_id": record.run_id} if record else {}
    if status:
        status.stage(TRAIN, state, timer.seconds, **values)
    asked.log("stage", stage=TRAIN, status=state, seconds=round(timer.seconds, 3), **values)


# ---- what would be done ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One stage of a plan. reason: why it will run, "" if it is up to date."""

    name: str
    reason: str
    command: str


def plan(asked: Request) -> list[Planned]:
    """Which stages would run, why, and the command each stands for; reads pointers only, starts nothing."""
    planned: list[Planned] = []
    changed: set[str] = set()
    for name in jobs.JOBS:
        record = asked.store.find(name, asked.ds, asked.settings)
        before = [stage for stage in jobs.upstream(name) if stage in changed]
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
        command = shlex.join(train_command(asked)) if name == TRAIN else submit_line(name, asked)
        planned.append(Planned(name, reason, command))
    return planned


def describe(planned: list[Planned], asked: Request) -> str:
    """The plan as text: one stage a line, the command below each that would run."""
    lines = [f"ds={asked.ds} variant={asked.variant} root={asked.settings.storage.root}"]
    for stage in planned:
        lines.append(f"{stage.name:16} {'run: ' + stage.reason if stage.reason else 'up to date'}")
        if stage.reason:
            lines.append(f"    {stage.command}")
    return "\n".join(lines)


# ---- closing line and memory ----------------------------------------------------------------------------------------


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
    if "report" in stages:
        words.append(f"report={store.folder_of(store.manifest('report', asked.ds, settings))}/report.html")
    return " ".join(words)


def merged_recall(asked: Request) -> str:
    """Recall of the merged candidates at the largest N, to 4 digits; 'none' where nothing was held out."""
    store = asked.store
    for path in store.files_of(store.manifest("metrics", asked.ds, asked.settings)):
        filesystem, file = open_root(path)
        table = pq.read_table(file, filesystem=filesystem)
        wanted = pc.and_(pc.equal(table["channel"], "merged"), pc.equal(table["metric"], "recall"))
        rows = table.filter(pc.and_(wanted, pc.equal(table["n"], max(asked.settings.evaluation.at)))).to_pylist()
        if rows:
            return f"{rows[0]['value']:.4f}"
    return "none"


class Peak:
    """The largest resident memory seen, of this process and all below it."""

    def __init__(self) -> None:
        self.megabytes = 0


@contextmanager
def peak_memory(every_s: float = 0.5) -> Iterator[Peak]:
    """Sample the memory of the process tree while the block runs."""
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while True:
            peak.megabytes = max(peak.megabytes, tree_megabytes())
            if stop.wait(every_s):
                return

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def tree_megabytes() -> int:
    """Resident memory of this process and its descendants, MB; pages they share are counted once a process."""
    total = 0
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total // 2**20
