"""The data jobs of a day in one Spark application, cut into as many tasks as if the log were large: for spark-submit.

    data_jobs.py --config F --ds D --run-id R ...

Prints one line a job, as JSON: its name, and when it began and ended in milliseconds of the clock that Spark's event log shows.
"""

import json
import sys
import time

from conf.command import Request, guarded, parse, request
from spark_jobs import cooccurrence, event_files
from spark_jobs.job import run_job, running
from spark_jobs.pipeline import load_job, stages_until

EVENTS_PER_FILE = 4_000
CLICKS_PER_BLOCK = 6_000


def run(asked: Request) -> int:
    """Every job up to the samples."""
    event_files.EVENTS_PER_FILE, cooccurrence.CLICKS_PER_BLOCK = EVENTS_PER_FILE, CLICKS_PER_BLOCK
    with running("data-jobs") as spark:
        for job in stages_until("samples", asked.settings):
            began = time.time()
            run_job(load_job(job), spark, asked)
            print(json.dumps({"job": job, "began_ms": int(began * 1000), "ended_ms": int(time.time() * 1000)}), flush=True)
    return 0


if __name__ == "__main__":
    asked = request(parse("run", "", sys.argv[1:]))
    sys.exit(guarded(lambda: run(asked)))
