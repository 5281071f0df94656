"""Days side by side: each in a process with a Spark of its own, as far as no stage asks for another day; sizes shared out fairly."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from typing import Final

import psutil

from conf import jobs
from conf.command import Request
from conf.errors import Fault, UsageError
from conf.names import check_name
from conf.settings import Settings
from spark_jobs.launcher import end_tree, start_tree

LEAST_HEAP_MB: Final = 1024  # below it a day of any size fails
MOST_HEAP_MB: Final = 4096  # what conf/spark/local.conf gives a day that has the machine to itself
_HEAPS: Final = 0.4  # of the memory; models, indexes and Arrow live outside the JVM


def stages_apart(stages: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The first of these stages, in the order of a day, that read nothing of another day by these settings."""
    goes_on = settings.vocabulary.previous_ds is not None
    for number, name in enumerate(stages):
        own = goes_on and (jobs.continued(name, settings) or jobs.reused(name, settings))
        if own or jobs.JOBS[name].before:
            return tuple(stages[:number])
    return tuple(stages)


def run_ahead(days: Sequence[Request], until: str, *, num: int) -> dict[str, int]:
    """`trichannel run --until UNTIL` of every day, at most `num` at a time, the oldest first; day -> exit code.

    What a day publishes is what it would publish in its turn. Its run is named `<run id>.ahead`. Whatever ends this process ends all.

    Raises:
        UsageError: this process came by spark-submit, whose one application all days would share.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        fix = "start trichannel backfill itself, with PYSPARK_SUBMIT_ARGS='--master yarn ... pyspark-shell' for a cluster"
        raise UsageError("--max-parallel", [Fault("each day is a Spark application of its own", "this one came by spark-submit", fix)])
    codes, running, waiting = dict[str, int](), dict[str, subprocess.Popen[bytes]](), list(days)
    with ExitStack() as stack:
        environment = os.environ | {"PYSPARK_SUBMIT_ARGS": submit_args(stack, num)}
        try:
            while waiting or running:
                while waiting and len(running) < num:
                    day = waiting.pop(0)
                    running[day.ds] = start_tree(command_of(day, until), stdout=sys.stderr.fileno(), env=environment)
                    day.log("ahead", ds=day.ds, until=until)
                time.sleep(0.2)
                for ds in [ds for ds, process in running.items() if process.poll() is not None]:
                    codes[ds] = running.pop(ds).returncode
        except BaseException:
            for process in running.values():
                end_tree(process)
            raise
    return codes


def command_of(day: Request, until: str) -> list[str]:
    """The command that runs the day up to a stage."""
    ahead = replace(day, run_id=check_name("--run-id", f"{day.run_id}.ahead"))
    return [sys.executable, "-m", "spark_jobs.cli", "run", *ahead.arguments(), "--until", until]


def submit_args(stack: ExitStack, num: int, given: Mapping[str, str] | None = None) -> str:
    """PYSPARK_SUBMIT_ARGS of each of `num` processes: the user's own if there are any, else local.conf with a share of cores and memory."""
    own = (os.environ if given is None else given).get("PYSPARK_SUBMIT_ARGS")
    if own is not None:
        return own
    path = stack.enter_context(resources.as_file(resources.files("conf").joinpath("spark/local.conf")))
    cores, heap = shares(num, cores=len(psutil.Process().cpu_affinity() or [0]), memory_mb=psutil.virtual_memory().total >> 20)
    return f"--properties-file {shlex.quote(str(path))} --master local[{cores}] --driver-memory {heap}m pyspark-shell"


def shares(num: int, *, cores: int, memory_mb: int) -> tuple[int, int]:
    """(cores, MB of heap) of each of `num` processes of this machine."""
    return max(1, cores // num), max(LEAST_HEAP_MB, min(MOST_HEAP_MB, int(_HEAPS * memory_mb / num)))
