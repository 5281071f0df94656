"""Offline metrics of millions of candidate rows on this machine: wall time and peak memory, and whether they grow with the rows.

    make bench-metrics [SIZES=5,50] [ITEMS=1000000]

Each size (in million rows: a user's candidate in a channel) is measured in a process of its own, JVM start and reading included. Lists of
five channels: the first 100 different items of draws by Zipf's law; ten held-out and twenty train clicks a user. Timed is what the job does
once its lists are there: facts of items, every metric of every list at two N, with slices of items and of users, means with intervals,
coverage and Gini, metrics_user written. Not timed: making the tables; in the job, reading business keys back, baselines and vectors come
before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
CHANNELS, LENGTH, AT = 5, 100, (20, 100)  # so every candidate row counts
HELD_OUT, TRAINED = 10, 20  # clicks a user
BLOCK = 10_000  # users of a file
SPARK = "--driver-memory 6g --conf spark.sql.shuffle.partitions=16 --conf spark.ui.enabled=false "
SPARK += "--conf spark.ui.showConsoleProgress=false --conf spark.driver.host=127.0.0.1 --driver-java-options -Xss8m pyspark-shell"


# ---- tables ----------------------------------------------------------------------------------------------------------


def make_tables(folder: Path, users: int, items: int) -> None:
    """lists (user_idx, channel, items), events (user_idx, item_idx, split), item_feat and user_state as the job reads them."""
    (folder / "item_feat").mkdir()
    category = pa.array(np.arange(items) % 200 + 4, pa.int32())
    idx = pa.array(np.arange(1, items + 1), pa.int32())
    pq.write_table(pa.table({"idx": idx, "eligible": [True] * items, "category": category}), folder / "item_feat" / "0.parquet")
    for start in range(0, users, BLOCK):
        for name, table in block(np.arange(start + 1, min(start + BLOCK, users) + 1, dtype=np.int32), items):
            (folder / name).mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / name / f"{start}.parquet")


def block(users: np.ndarray[Any, np.dtype[np.int32]], items: int) -> Iterator[tuple[str, pa.Table]]:
    """The tables of these users; seeded by the first of them."""
    rng = np.random.default_rng(int(users[0]))

    def drawn(num: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Popular items first: item n about as often as 1 / n."""
        return (float(items) ** rng.random(num)).astype(np.int32)

    for channel in range(CHANNELS):
        offsets = np.arange(len(users) + 1, dtype=np.int32) * LENGTH
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(first_different(drawn, len(users)).ravel()))
        yield f"lists/{channel}", pa.table({"user_idx": users, "channel": [f"c{channel}"] * len(users), "items": lists})
    each = HELD_OUT + TRAINED
    split = np.tile(np.repeat(np.array([0, 2], dtype=np.int8), [TRAINED, HELD_OUT]), len(users))
    yield "events", pa.table({"user_idx": np.repeat(users, each), "item_idx": drawn(len(users) * each), "split": split})
    num_train = pa.array(np.full(len(users), TRAINED), pa.int32())
    yield "user_state", pa.table({"user_idx": users, "num_train": num_train})


def first_different(drawn: Callable[[int], np.ndarray[Any, np.dtype[np.int32]]], rows: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """int32[rows, LENGTH]: of each row of draws the first LENGTH different ones, in their order."""
    width = 2 * LENGTH
    while True:
        draws = drawn(rows * width).reshape(rows, width)
        order = np.argsort(draws, axis=1, kind="stable")
        ordered = np.take_along_axis(draws, order, axis=1)
        new = np.ones(draws.shape, dtype=bool)
        np.put_along_axis(new, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
        found = np.cumsum(new, axis=1)
        if (found[:, -1] >= LENGTH).all():
            return draws[new & (found <= LENGTH)].reshape(rows, LENGTH)
        width *= 2


# ---- what is timed ---------------------------------------------------------------------------------------------------


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of each step and of all, peak MB of JVM and Python together, rows of metrics_user."""
    from spark_jobs.memory import peak_memory

    began = time.perf_counter()
    with peak_memory() as peak:
        seconds, found = evaluate(folder)
    return {"seconds": round(time.perf_counter() - began, 1), "steps": seconds, "peak_mb": peak.megabytes, **found}


def evaluate(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """(seconds by step; candidates in the lists, rows of metrics_user, recall at the largest N over all channels)."""
    from pyspark.sql import functions as F

    from conf.fields import Field
    from conf.sections.evaluation import Slices
    from spark_jobs.held_out import held_out
    from spark_jobs.metrics.catalogue import catalogue_use
    from spark_jobs.metrics.groups import known_items, user_slices
    from spark_jobs.metrics.scoring import ALL, first_items, score
    from spark_jobs.metrics.summary import summarise
    from spark_jobs.session import session

    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def done(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[step], last = round(now - last, 1), now

    spark, channels = session("bench"), [f"c{n}" for n in range(CHANNELS)]
    tables = {
        name: spark.read.option("recursiveFileLookup", "true").parquet(str(folder / name))
        for name in ("lists", "events", "item_feat", "user_state")
    }
    done("start")
    units = held_out(tables["events"]).persist()
    num_users = units.count()
    items = known_items(tables["events"], tables["item_feat"], Field("category", "item", "single"), Slices())
    done("truth and items")
    lists = first_items(tables["lists"], max(AT)).persist()
    scored = score(lists, units, items, channels=channels, at=AT).persist()
    scored.where(F.col("slice") == ALL).write.parquet(str(folder / "metrics_user"))
    done("metrics_user")
    groups = user_slices(units, tables["user_state"], tables["lists"], tables["lists"], [], Slices())
    numbers = summarise(scored, groups)
    done("means and slices")
    numbers += catalogue_use(lists, tables["item_feat"].where("eligible").select("idx"), channels=channels, at=AT, num_users=num_users)
    done("coverage and gini")
    found = [x.value for x in numbers if (x.metric, x.slice, x.n) == ("recall", ALL, max(AT))]
    row = lists.agg(F.sum(F.size("items"))).first()
    assert row is not None
    rows = spark.read.parquet(str(folder / "metrics_user")).count()
    return seconds, {"candidates": row[0], "rows": rows, "recall": round(float(np.mean(found)), 6)}


# ---- the command -----------------------------------------------------------------------------------------------------


def main() -> None:
    """The command; with --folder, one size in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="5,50", help="million candidate rows, comma-separated")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="write the results as JSON there, too")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.items < 10 * LENGTH:
        parser.error(f"--items {a.items}: want at least {10 * LENGTH}, else lists of {LENGTH} different ones are not found")
    if a.folder:
        print(json.dumps(measure(a.folder)))
        return
    os.environ.update({"PYSPARK_SUBMIT_ARGS": SPARK, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable})
    found = [one_size(float(size), a.items) for size in a.sizes.split(",")]
    text = json.dumps(found, indent=1)
    print(text)
    if a.out:
        a.out.write_text(text + "\n")


def one_size(millions: float, items: int) -> dict[str, Any]:
    """The measurement of one size, in a process of its own; stops where it fails, or a candidate or a row is missing."""
    users = round(millions * 1e6 / (CHANNELS * LENGTH))
    with tempfile.TemporaryDirectory() as folder:
        make_tables(Path(folder), users, items)
        command = [sys.executable, __file__, "--folder", folder]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    if found["candidates"] != users * CHANNELS * LENGTH:
        sys.exit(f"{found['candidates']} candidates were scored, want {users * CHANNELS * LENGTH}")
    if found["rows"] != users * CHANNELS * len(AT):
        sys.exit(f"{found['rows']} rows in metrics_user, want {users * CHANNELS * len(AT)}")
    return {"million_rows": millions, "users": users, "items": items, **found, "rows_per_s": round(millions * 1e6 / found["seconds"])}


if __name__ == "__main__":
    main()
