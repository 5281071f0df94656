"""The jobs of retrieval in one Spark application, over tables that are there: for spark-submit.

    retrieval_jobs.py --config F --ds D --run-id R ...

HANG: a folder of empty files `index` and `candidates`. The first task that builds a part of an index, and the first that recommends,
renames its file to <name>.<id of its process>, and waits to be killed.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from conf.command import Request, guarded, parse, request
from retrieval import candidates, index_shards
from spark_jobs.job import run_job, running
from spark_jobs.pipeline import load_job

JOBS = ("embed", "index", "neighbours", "candidates")


def hang_first(body: Callable[..., Any], path: str) -> Callable[..., Any]:
    """The body of a task; the first one to begin it hangs."""

    def hanging(*given: Any, **named: Any) -> Any:
        """Hang, or what the body gives."""
        try:
            os.rename(path, f"{path}.{os.getpid()}")  # of several processes one succeeds
        except FileNotFoundError:
            return body(*given, **named)
        time.sleep(300)
        raise TimeoutError(f"nobody killed the task that took {path}")

    return hanging


def slow_down(folder: str) -> None:
    """Make the first task of each kind hang."""
    recommending = candidates.make_publish
    index_shards._write_part = hang_first(index_shards._write_part, f"{folder}/index")
    candidates.make_publish = lambda *given: hang_first(recommending(*given), f"{folder}/candidates")


def run(asked: Request) -> int:
    """Every job of retrieval, on vectors that the model gives."""
    if "HANG" in os.environ:
        slow_down(os.environ["HANG"])
    with running("retrieval-jobs") as spark:
        for job in JOBS:
            run_job(load_job(job), spark, asked)
    return 0


if __name__ == "__main__":
    asked = request(parse("run", "", sys.argv[1:]))
    sys.exit(guarded(lambda: run(asked)))
