"""Counts of co-occurrence that go on from the day before, beside a count of all sessions, with and without the pairs as a table.

    python bench/cooc_increment.py [--millions 1] [--repeats 3] [--peers <folder of clicklog.py>]

Two days of a generated log of 30 days, with a window of 28: ingest to sessions for both, cooccurrence for the first, then the second
again and again, interleaved, each as it ships. The tables and counters of all ways are compared before a time is printed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from data_jobs import ALLOCATOR, GAP_S, MAX_ITEMS, ROOT, SPARK, TOP, make_log

DAYS = ("2023-12-12", "2023-12-13")
WAYS: Mapping[str, dict[str, bool]] = {
    "all sessions": {},
    "all sessions, pairs kept": {"keep_pairs": True},
    "increment": {"keep_pairs": True, "increment": True},
}
HOW = {"counted", "counted_because", "sessions_new", "sessions_gone", "pair_blocks"}


def run(spark: Any, root: Path, clicks: Path, job: str, ds: str, cooc: Mapping[str, object]) -> tuple[float, dict[str, Any]]:
    """(seconds, manifests of the outputs)."""
    from conf.command import Log, Request
    from conf.jobs import module_of
    from conf.manifest import new_run_id
    from conf.settings import Settings
    from spark_jobs.job import run_job

    columns = {"user_key": "user_id", "item_key": "item_id", "ts": "ts"}
    settings = Settings.model_validate(
        {
            "storage": {"root": str(root)},
            "source": {"kind": "generic", "path": str(clicks), "format": "parquet", "columns": columns, "train_days": 28},
            "session": {"gap_s": GAP_S},
            "vocabulary": {"previous_ds": "latest"},
            "cooc": {"top": TOP, "min_count": 1, "max_session_items": MAX_ITEMS, **cooc},
            "model": {"fields": {"user": [], "item": ["item_id"]}},
            "gates": {"drift": {"days": 0}},
        }
    )
    log, run_id = Log("text"), new_run_id()
    asked = Request("bench", settings, (), ds, "main", run_id, force=True, break_lock=False, dry_run=False, log=log)
    began = time.perf_counter()
    record = run_job(import_module(module_of(job)).JOB, spark, asked).record
    seconds = time.perf_counter() - began
    return seconds, {table: asked.store.load_manifest(table, record) for table in record.tables}


def measure(folder: Path, clicks: Path, repeats: int) -> dict[str, Any]:
    """Seconds of every way and repeat, and what was counted; stops where two ways differ."""
    from spark_jobs.job import session

    spark, root = session("bench"), folder / "root"
    for ds in DAYS:
        for job in ("ingest", "vocabulary", "events", "sessions"):
            run(spark, root, clicks, job, ds, {})
    run(spark, root, clicks, "cooccurrence", DAYS[0], WAYS["increment"])
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    told: dict[str, Any] = {}
    for _ in range(repeats):
        contents, pairs = set[str](), set[str]()
        for way, cooc in WAYS.items():
            took, made = run(spark, root, clicks, "cooccurrence", DAYS[1], cooc)
            seconds[way].append(round(took, 2))
            counters = {name: value for name, value in made["cooc"].counters.items() if name not in HOW}
            contents.add(made["cooc"].content_hash + json.dumps(counters, sort_keys=True))
            if "cooc_pairs" in made:
                pairs.add(made["cooc_pairs"].content_hash)
                told["pair_bytes"] = sum(file.bytes for file in made["cooc_pairs"].files)
        if len(contents) > 1 or len(pairs) > 1:
            sys.exit("the tables or their counters differ")
        told |= {name: made["cooc"].counters[name] for name in ("counted", "pairs", "meetings", "sessions_new", "sessions_gone")}
    return {"seconds": seconds, "median": {way: median(taken) for way, taken in seconds.items()}, **told}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "bench")
    a = parser.parse_args()
    os.environ.update(ALLOCATOR | {"PYSPARK_SUBMIT_ARGS": SPARK, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable})
    with tempfile.TemporaryDirectory() as folder:
        make_log(a.peers, a.millions, Path(folder) / "clicks")
        print(json.dumps({"millions": a.millions, **measure(Path(folder), Path(folder) / "clicks", a.repeats)}, indent=1))


if __name__ == "__main__":
    main()
