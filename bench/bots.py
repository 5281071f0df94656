"""The data jobs on a log of which bots make half, beside as many clicks of people alone: what bounds the work of one task.

    python bench/bots.py [--millions 20] [--bots 200] [--peers <folder of clicklog.py>] [--work <folder>]

A bot clicks 50,000 times, every half minute, on any item: one session that never ends. Ours only, as it ships and with its own caps
(session.max_user_clicks, cooc.max_session_items): the peers have none. The log with bots goes first, so that the JVM is cold for it.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent))
from data_jobs import ALLOCATOR, DS, ROOT, Ours, make_log

CLICKS_OF_A_BOT, EVERY_S = 50_000, 30
JOBS = {
    "ingest": "clicks",
    "vocabulary": "user_index",
    "events": "events",
    "sessions": "sessions",
    "cooccurrence": "cooc",
    "samples": "samples",
}
CAPPED = ("users_beyond_max_user_clicks", "clicks_beyond_max_user_clicks", "sessions", "sessions_chunked", "pairs_lost_by_chunking")


def add_bots(clicks: Path, bots: int) -> None:
    """Their clicks as one more file, on the items and from the first second of the log."""
    log = pq.read_table(clicks, columns=["item_id", "ts"])
    items, first = pc.unique(log["item_id"]).to_numpy(zero_copy_only=False), pc.min(log["ts"]).as_py()
    rng = np.random.default_rng(5)
    user = np.repeat([f"bot{n}" for n in range(bots)], CLICKS_OF_A_BOT)
    ts = np.tile(first + EVERY_S * np.arange(CLICKS_OF_A_BOT), bots)
    table = pa.table({"user_id": user, "item_id": items[rng.integers(0, len(items), len(user))], "ts": ts})
    pq.write_table(table, clicks / "part-bots.parquet", row_group_size=625_000)


def tasks_s(events: Path, skip: int) -> Iterator[float]:
    """Seconds of each task that ended, after the first `skip`, by Spark's event log."""
    (log,) = events.iterdir()
    ended = (line for line in log.read_text(encoding="utf-8").splitlines() if '"SparkListenerTaskEnd"' in line)
    for number, line in enumerate(ended):
        if number >= skip:
            info = json.loads(line)["Task Info"]
            yield (info["Finish Time"] - info["Launch Time"]) / 1000


def run(ours: Ours, seen: int) -> tuple[dict[str, Any], int]:
    """(of each job seconds, peak GB, its longest task and all its tasks in seconds, and what was capped; tasks so far)."""
    found = {}
    for job, table in JOBS.items():
        seconds, peak_gb = ours.run(job)
        took = list(tasks_s(ours.events, seen))
        seen += len(took)
        manifest = ours.store.manifest(table, DS, ours.settings)
        capped = {name: value for name, value in manifest.counters.items() if name in CAPPED and value}
        found[job] = {"seconds": seconds, "peak_gb": peak_gb, "longest_task_s": max(took), "tasks_s": sum(took), "capped": capped}
        print(f"{job:12} {seconds:6.1f} s, peak {peak_gb} GB, longest task {max(took):.1f} of {sum(took):.1f} s {capped or ''}", flush=True)
    return found, seen


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=20, help="clicks in each of the two logs")
    parser.add_argument("--bots", type=int, default=200)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "bench", help="folder of clicklog.py")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "bench")
    asked = parser.parse_args()
    os.environ.update(ALLOCATOR)
    name, of_people = f"{asked.millions:g}m", asked.millions - asked.bots * CLICKS_OF_A_BOT / 1e6
    people, bots = asked.work / f"clicks-{name}", asked.work / f"clicks-{name}-bots{asked.bots}"
    if not people.is_dir():
        make_log(asked.peers, asked.millions, people)
    if not bots.is_dir():
        make_log(asked.peers, of_people, bots)
        add_bots(bots, asked.bots)
    report, seen = {}, 0
    events = None
    for who, clicks in (("half bots", bots), ("people", people)):
        print(f"{who}: {asked.millions:g} million clicks", flush=True)
        ours = Ours(clicks, asked.work / f"root-{clicks.name}")
        ours.events = events = events or ours.events  # of the one Spark session
        report[who], seen = run(ours, seen)
    ours.spark.stop()
    path = ROOT / "bench" / "results" / f"bots-{name}.json"
    path.write_text(json.dumps({"millions": asked.millions, "bots": asked.bots, "jobs": report}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
