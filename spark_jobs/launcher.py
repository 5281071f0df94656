"""Starts the trainer: in processes of its own, which end with the one that started them, and whose reason to fail is kept."""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from conf.command import Request, RunStatus, Timer
from conf.errors import TRAINING, Fault, TrainingError, UsageError
from conf.inputs import unchanged
from conf.launchers import LAUNCHERS
from conf.storage import Record
from spark_jobs.job import inputs_seen

TRAIN = "train"


def train_command(asked: Request, *, resume: bool = False) -> list[str]:
    """The command that trains: `horovodrun -np N ... python -m trainer.train ...`, or what else starts trainer.launcher."""
    trainer = asked.settings.trainer
    launcher = LAUNCHERS[trainer.launcher]
    # started by plain Python, the Spark application of the training takes its sizes from the packaged local.conf, as all jobs do
    words = ["python", "-m", "trainer.spark_launcher"] if launcher.on_spark else launcher.words(trainer.workers)
    return [*map(_here, words), *asked.arguments(), *["--resume"] * resume]


def _here(word: str) -> str:
    """A program as the one that goes with this Python, where there is one; other words as they are."""
    if word == "python":
        return sys.executable
    beside = Path(sys.executable).with_name(word)
    return str(beside) if word in ("horovodrun", "torchrun") and beside.exists() else word


def train_alone(asked: Request, *, resume: bool = False) -> int:
    """The training stage as a command of its own; returns the trainer's exit code."""
    command = train_command(asked, resume=resume)
    if asked.dry_run:
        print(shlex.join(command), flush=True)
        # one process is enough to say what would be trained
        command = [sys.executable, "-m", "trainer.train", *asked.arguments(), "--dry-run"]
    with tempfile.TemporaryDirectory(prefix="trichannel-") as folder:
        code, reason = _run(command, asked, f"{folder}/failure.json", {})
    return int(reason.get("exit_code", code))


def train(asked: Request, status: RunStatus | None = None, *, resume: bool = False) -> None:
    """Train unless the model is current; raises TrainingError with what the trainer failed of, and its exit code."""
    timer = Timer()
    record = unchanged(TRAIN, asked, inputs_seen(TRAIN, asked))
    if record is not None:
        _note(asked, status, "skipped", timer, record)
        return
    with tempfile.TemporaryDirectory(prefix="trichannel-") as folder:
        # the run's status file is ours to write; stdout belongs to the summary line of the whole run
        command, extra = train_command(asked, resume=resume), {"TRICHANNEL_STAGE": "1"}
        code, reason = _run(command, asked, f"{folder}/failure.json", extra, stdout=sys.stderr.fileno())
    if code != 0:
        _note(asked, status, "failed", timer, None)
        own = int(reason.get("exit_code", TRAINING))
        found = str(reason.get("error", "its own message stands above"))
        fix = "trichannel train --resume goes on" if own == TRAINING else ""
        fault = Fault(f"the trainer ended with exit code {code}", found, fix)
        raise TrainingError(f"job {TRAIN}, ds={asked.ds}", [fault], exit_code=own)
    _note(asked, status, "ok", timer, asked.store.current(TRAIN, asked.ds))


# glibc gives large blocks back to the kernel at every free, and takes them again, page by page, at every step: kept, a step
# takes about half the time. Whoever sets one of these keeps it.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
# Seconds in which torchrun wants its workers to end politely: fewer than `run_tree` gives torchrun.
_END_SOON = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10"}


def _run(
    command: Sequence[str], asked: Request, failure: str, extra: dict[str, str], *, stdout: int | None = None
) -> tuple[int, dict[str, Any]]:
    """(exit code of the launcher, what the first worker to fail wrote in the file `failure`); raises UsageError where it cannot start.

    horovodrun and torchrun end with 1 whatever their workers ended with, so those leave a word.
    """
    if LAUNCHERS[asked.settings.trainer.launcher].on_spark and "PYSPARK_GATEWAY_PORT" in os.environ:
        found = "this command itself came by spark-submit, and its processes would all be started on this machine"
        fix = "end this command before the training (--until samples), and spark-submit trainer/spark_launcher.py by itself"
        raise UsageError("trainer.launcher", [Fault(f"{asked.settings.trainer.launcher} starts a Spark application", found, fix)])
    threads = {"OMP_NUM_THREADS": str(asked.settings.trainer.threads)}
    environment = _KEEP_MEMORY | _END_SOON | os.environ | threads | {"TRICHANNEL_FAILURE": failure} | extra
    code = run_tree(command, stdout=stdout, env=environment)
    if code == 0 or not Path(failure).exists():
        return code, {}
    with suppress(ValueError):  # killed while it wrote: the launcher's own code is then all there is
        return code, dict(json.loads(Path(failure).read_text(encoding="utf-8")))
    return code, {}


def _note(asked: Request, status: RunStatus | None, state: str, timer: Timer, record: Record | None) -> None:
    values: dict[str, Any] = {"run_id": record.run_id} if record else {}
    if status:
        status.stage(TRAIN, state, timer.seconds, **values)
    asked.log("stage", stage=TRAIN, status=state, seconds=round(timer.seconds, 3), **values)


# ---- a tree of processes --------------------------------------------------------------------------------------------


def run_tree(command: Sequence[str], *, env: Mapping[str, str], stdout: int | None = None, grace_s: float = 15) -> int:
    """Exit code of the command. If this process is told to end meanwhile, the command and all that it started are ended first.

    Where this process is killed outright, Linux tells the command to end (elsewhere it goes on, and publishes what it finishes).
    grace_s: seconds they have to give back what they hold (the trainer its lock) before they are killed.
    """
    process = start_tree(command, stdout=stdout, env=env)
    try:
        return process.wait()
    except BaseException:
        end_tree(process, grace_s)
        raise


def start_tree(command: Sequence[str], *, env: Mapping[str, str], stdout: int | None = None) -> "subprocess.Popen[bytes]":
    """The command, started; `end_tree` ends it."""
    # in a session of its own: Ctrl-C reaches only us, and what it means for the command is decided here
    return subprocess.Popen(command, stdout=stdout, env=dict(env), start_new_session=True, preexec_fn=_end_with_parent(os.getpid()))


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with_parent(parent: int) -> Any:
    """What a child runs before its command, so that it gets SIGTERM when its parent is gone; None where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork of a threaded process only plain calls are safe

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # gone before we asked
            os._exit(128 + signal.SIGTERM)

    return arm


def end_tree(process: "subprocess.Popen[bytes]", grace_s: float = 15) -> None:
    """End the process and all that it started: politely, and after `grace_s` seconds by force."""
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
