"""Our jobs sessions, cooccurrence and samples beside what a user would pick instead, on the same events, in one run.

    make bench-spark [MILLIONS=5] [REPEATS=5] [PEERS=<folder of clicklog.py and peers.py>]

Ours is the job as it ships, in local mode with 10 GB for the JVM: inputs resolved, files read, rows checked and hashed, manifest and
pointer written; the JVM is up, the first repeat is cold. The peers are single statements of Polars and DuckDB, each in a process of its
own, whose start is not counted. `floor` is our compiled kernels in one process with two threads, without Spark, checks and hashes. All
have the same allocator settings. Repeats are interleaved; outputs are compared row for row before a time is printed. The log has no two
clicks of a user at one time and no session of more than 50 clicks, since the peers leave ties and longer sessions undefined.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
GAP_S, MAX_ITEMS, TOP, HISTORY, THREADS = 3600, 50, 100, 20, 2
DS = "2024-12-31"
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
SPARK = "--master local[2] --driver-memory 10g --conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false"
SPARK += " --conf spark.sql.shuffle.partitions=16 --conf spark.driver.host=127.0.0.1 --driver-java-options -Xss8m pyspark-shell"
PEERS = {"sessions": ("polars", "duckdb"), "cooc": ("polars", "duckdb"), "samples": ("duckdb", "polars")}


# ---- the log -------------------------------------------------------------------------------------------------------


def make_log(peers: Path, millions: float, folder: Path) -> None:
    """Clicks with text keys, in order of time, in files of 2.5 million."""
    raw = folder.with_name(folder.name + ".raw")
    subprocess.run([sys.executable, peers / "clicklog.py", str(millions), raw], check=True)
    columns = {name: pq.read_table(raw, columns=[name])[name].to_numpy() for name in ("user_id", "item_id", "ts")}
    shutil.rmtree(raw)
    order = np.argsort(columns["user_id"] << 33 | columns["ts"], kind="stable")
    user, item, ts = (columns.pop(name)[order] for name in ("user_id", "item_id", "ts"))
    first = np.append(True, (np.diff(user) != 0) | (np.diff(ts) != 0))
    user, item, ts = user[first], item[first], ts[first]
    starts = np.flatnonzero(np.append(True, (np.diff(user) != 0) | (np.diff(ts) > GAP_S)))
    inside = np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user))))
    kept = np.flatnonzero(inside < MAX_ITEMS)
    kept = kept[np.argsort(ts[kept], kind="stable")]
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(kept), 2_500_000)):
        some = kept[start : start + 2_500_000]
        keys = {name: pc.cast(pa.array(values[some]), pa.string()) for name, values in (("user_id", user), ("item_id", item))}
        pq.write_table(pa.table({**keys, "ts": ts[some]}), folder / f"part-{number:03d}.parquet", row_group_size=625_000)


def export_events(files: Sequence[str], folder: Path) -> None:
    """The files of `events` as the peers read clicks."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        table = pq.read_table(file, columns=["user_idx", "item_idx", "ts"])
        columns = {"user_id": table["user_idx"].cast(pa.int64()), "item_id": table["item_idx"].cast(pa.int64()), "ts": table["ts"]}
        pq.write_table(pa.table(columns), folder / f"part-{number:03d}.parquet", compression="snappy", row_group_size=625_000)


# ---- who runs ------------------------------------------------------------------------------------------------------


class Ours:
    """The jobs in one Spark session."""

    def __init__(self, clicks: Path, root: Path) -> None:
        from conf.command import Log, Request
        from conf.settings import Settings
        from conf.storage import MAIN, Store
        from spark_jobs.job import session

        settings = {
            "storage": {"root": str(root)},
            "source": {
                "kind": "generic",
                "path": str(clicks),
                "format": "parquet",
                "columns": {"user_key": "user_id", "item_key": "item_id", "ts": "ts"},
            },
            "session": {"gap_s": GAP_S},
            "cooc": {"top": TOP, "min_count": 1, "max_session_items": MAX_ITEMS},
            "model": {"history": HISTORY, "fields": {"user": [], "item": ["item_id"]}},
        }
        self.settings = Settings.model_validate(settings)
        self.store, self.spark = Store(str(root)), session("bench")
        self.request = lambda run_id: Request(
            "bench", self.settings, (), DS, MAIN, run_id, force=True, break_lock=False, dry_run=False, log=Log("text", run_id=run_id)
        )

    def run(self, job: str) -> float:
        """Seconds of the whole job."""
        from importlib import import_module

        from conf.jobs import module_of
        from conf.manifest import new_run_id
        from spark_jobs.job import run_job

        began = time.perf_counter()
        run_job(import_module(module_of(job)).JOB, self.spark, self.request(new_run_id()))
        return time.perf_counter() - began

    def files(self, table: str) -> list[str]:
        """The files of the current version."""
        return self.store.files_of(self.store.manifest(table, DS, self.settings))


def peer(peers: Path, task: str, engine: str, source: str, out: Path) -> tuple[float, float]:
    """(seconds, peak GB) of one repeat."""
    command = [sys.executable, peers / "peers.py", task, engine, source, out]
    done = subprocess.run(command, env={**os.environ, "REPEATS": "1", "THREADS": str(THREADS)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} {engine} failed:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return said["seconds"][0], said["peak_rss_gb"]


def floor(ours: Ours, task: str, out: Path) -> float:
    """Seconds of the same kernels on two threads of this process."""
    from conf.masks import masking_of
    from conf.tables import resolve
    from spark_jobs import baskets, event_files, pair_counts, samples, sessions
    from spark_jobs.session_cuts import Rule
    from spark_jobs.task_files import arrow_schema

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    registry, shape = ours.settings.registry(), ours.settings.shape()
    events, recipe = ours.files("events"), samples.recipe_of(ours.settings, masking_of(ours.settings, {}), split_kind="production")
    table = resolve("samples", registry, shape)
    rule, keeping = pair_counts.Rule("set", 5, MAX_ITEMS), pair_counts.Keeping(1, TOP, 1.0, drop_other=False)

    def of_sessions(uri: str) -> Iterator[pa.RecordBatch]:
        yield sessions.cut_sessions(event_files.read_events(uri, sessions.COLUMNS), Rule("gap", GAP_S), Counter())

    def of_samples(uri: str) -> Iterator[pa.RecordBatch]:
        read = event_files.read_events(uri, samples.EVENT_COLUMNS)
        yield from samples.samples_of(read, {}, arrow_schema(table), recipe, split=0, group=16_384)

    def of_cooc(number: int) -> Iterator[pa.RecordBatch]:
        num_items = int(ours.store.manifest("item_feat", DS, ours.settings).rows)
        block = baskets.Block(number, 3 * THREADS, num_items)
        found = baskets.of_sessions(ours.files("sessions"), block, max_items=MAX_ITEMS)
        unknown = pair_counts.categories_of([], None, num_items=num_items)
        yield next(pair_counts.count_pairs(found, block, rule, keeping, unknown)).rows

    def write(numbered: tuple[int, object]) -> None:
        number, piece = numbered
        build: Callable[..., Iterator[pa.RecordBatch]] = {"sessions": of_sessions, "samples": of_samples, "cooc": of_cooc}[task]
        batches = build(piece)
        first = next(batches)
        with pq.ParquetWriter(out / f"{number}.parquet", first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)

    pieces: Sequence[object] = range(3 * THREADS) if task == "cooc" else events
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, enumerate(pieces)))
    return time.perf_counter() - began


# ---- the same rows -------------------------------------------------------------------------------------------------


def compare(task: str, ours: Sequence[str], theirs: Path, history: int = HISTORY) -> None:
    """Stop unless both tables say the same."""
    differ = {"sessions": _sessions_differ, "cooc": _cooc_differ, "samples": _samples_differ}[task]
    found = differ(ours, theirs, history)
    if found:
        raise SystemExit(f"{task}: {theirs.name} differs from ours: {found}")


def _flat(table: pa.Table, lists: str, order: np.ndarray) -> np.ndarray:
    return table[lists].combine_chunks().take(pa.array(order)).flatten().to_numpy()


def _sessions_differ(ours: Sequence[str], theirs: Path, _: int) -> str:
    left = pq.read_table(ours, columns=["user_idx", "start_ts", "end_ts", "items", "num_items"])
    right = pq.read_table(theirs)
    user = "user_id" if "user_id" in right.column_names else "user_idx"
    orders = [np.lexsort((t["start_ts"].to_numpy(), t[name].to_numpy())) for t, name in ((left, "user_idx"), (right, user))]
    for mine, other in (("user_idx", user), ("start_ts", "start_ts"), ("num_items", "num_items")):
        a, b = left[mine].to_numpy()[orders[0]], right[other].to_numpy()[orders[1]]
        if len(a) != len(b) or (a != b).any():
            return f"column {mine}, {len(a)} and {len(b)} rows"
    same = np.array_equal(_flat(left, "items", orders[0]), _flat(right, "items", orders[1]))
    return "" if same else "items"


def _cooc_differ(ours: Sequence[str], theirs: Path, _: int) -> str:
    """Counts must be equal rank by rank, and the items of all pairs above the smallest count that was kept: ties there are free."""
    left = pq.read_table(ours, columns=["item_i", "item_j", "count"])
    right = pq.read_table(theirs)
    sizes = np.diff(right["nbr"].combine_chunks().offsets.to_numpy())
    item = np.repeat(right.column(0).to_numpy(), sizes)
    tables = []
    for i, j, count in (
        [left[name].to_numpy() for name in ("item_i", "item_j", "count")],
        [item, right["nbr"].combine_chunks().flatten().to_numpy(), right["cnt"].combine_chunks().flatten().to_numpy()],
    ):
        order = np.lexsort((j, -count.astype(np.int64), i))
        tables.append([column[order].astype(np.int64) for column in (i, j, count)])
    (i, j, count), (other_i, other_j, other_count) = tables
    if len(i) != len(other_i) or (i != other_i).any() or (count != other_count).any():
        return f"counts, {len(i)} and {len(other_i)} rows"
    last = np.append(i[1:] != i[:-1], True)
    smallest = count[last][np.cumsum(last) - last]
    return "" if (j == other_j)[count > smallest].all() else "items above the last tie"


def _samples_differ(ours: Sequence[str], theirs: Path, history: int) -> str:
    left = pq.read_table(ours, columns=["user_idx", "ts", "item_idx", "hist", "hist_len"])
    right = pq.read_table(theirs)
    orders = [
        np.argsort(t[name].to_numpy().astype(np.int64) << 33 | t["ts"].to_numpy()) for t, name in ((left, "user_idx"), (right, "user_id"))
    ]
    if len(orders[0]) != len(orders[1]):
        return f"{len(orders[0])} and {len(orders[1])} rows"
    if (left["item_idx"].to_numpy()[orders[0]] != right["item_id"].to_numpy()[orders[1]]).any():
        return "items"
    lengths = left["hist_len"].to_numpy()[orders[0]]
    hist = right["hist"].combine_chunks()
    sizes = (
        np.diff(hist.offsets.to_numpy())[orders[1]]
        if hist.null_count == 0
        else pc.fill_null(pc.list_value_length(hist), 0).to_numpy()[orders[1]]
    )
    for at in range(0, len(lengths), 5_000_000):  # a piece at a time: 20 numbers a row are many gigabytes
        some, other = orders[0][at : at + 5_000_000], orders[1][at : at + 5_000_000]
        mine = left["hist"].take(pa.array(some)).combine_chunks().flatten().to_numpy().reshape(-1, history)
        filled = np.arange(history) < lengths[at : at + 5_000_000, None]
        flat = right["hist"].take(pa.array(other)).combine_chunks().flatten().to_numpy()
        if (sizes[at : at + 5_000_000] == history).all() and len(flat) == len(some) * history:  # padded in front with zeros
            flat = flat.reshape(-1, history)[np.arange(history) >= history - lengths[at : at + 5_000_000, None]]
        if not np.array_equal(mine[filled], flat):
            return "histories"
    return ""


# ---- the run -------------------------------------------------------------------------------------------------------


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "bench", help="folder of clicklog.py and peers.py")
    parser.add_argument("--tasks", default="sessions,cooc,samples")
    parser.add_argument("--engines", default="polars,duckdb", help="peers to run: above 20 million some need more memory than there is")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "bench")
    asked = parser.parse_args()
    if not (asked.peers / "peers.py").is_file():
        raise SystemExit(f"no peers.py in {asked.peers}: name its folder, make bench-spark PEERS=...")
    os.environ.update(ALLOCATOR)
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", SPARK)
    name = f"{asked.millions:g}m"
    clicks, root, exported = asked.work / f"clicks-{name}", asked.work / f"root-{name}", asked.work / f"events-{name}"
    if not clicks.is_dir():
        make_log(asked.peers, asked.millions, clicks)
    ours = Ours(clicks, root)
    before = {job: ours.run(job) for job in ("ingest", "vocabulary", "events")} if not exported.is_dir() else {}
    if not exported.is_dir():
        export_events(ours.files("events"), exported)
    report = {"millions": asked.millions, "before_s": before, "tasks": {}}
    for task in asked.tasks.split(","):
        report["tasks"][task] = _one_task(asked, ours, task, exported)
        _print(task, report["tasks"][task])
    ours.spark.stop()
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    (results / f"spark-{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _draw(report, results / f"spark-{name}.png")


def _one_task(asked: argparse.Namespace, ours: Ours, task: str, exported: Path) -> dict[str, object]:
    job = {"cooc": "cooccurrence"}.get(task, task)
    seconds: dict[str, list[float]] = {"ours": []}
    peaks: dict[str, float] = {}
    engines = [engine for engine in PEERS[task] if engine in asked.engines.split(",")]
    for repeat in range(asked.repeats):
        seconds["ours"].append(ours.run(job))
        source = str(exported) if task != "cooc" else str(Path(ours.files("sessions")[0]).parent)
        seconds.setdefault("floor", []).append(floor(ours, task, asked.work / f"{task}-floor"))
        for engine in engines:
            out = asked.work / f"{task}-{engine}"
            took, peaks[engine] = peer(asked.peers, task, engine, source, out)
            seconds.setdefault(engine, []).append(took)
            if repeat == 0:
                compare(task, ours.files(task), out)
    warm = {who: median(times[1:] or times) for who, times in seconds.items()}
    ratios = {who: round(warm["ours"] / warm[who], 3) for who in warm if who != "ours"}
    return {"seconds": seconds, "ours_cold_s": seconds["ours"][0], "warm_s": warm, "ours_to": ratios, "peer_peak_gb": peaks}


def _print(task: str, found: dict[str, object]) -> None:
    warm, ratios = found["warm_s"], found["ours_to"]
    assert isinstance(warm, dict)
    assert isinstance(ratios, dict)
    print(f"{task:9} outputs equal; ours cold {found['ours_cold_s']:.1f} s, warm {warm['ours']:.1f} s", end="")
    print("".join(f" | {who} {warm[who]:.1f} s, ours/{who} {ratio:.2f}" for who, ratio in ratios.items()), flush=True)


def _draw(report: dict[str, object], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = report["tasks"]
    assert isinstance(tasks, dict)
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3), squeeze=False, layout="constrained")
    for axis, (task, found) in zip(axes[0], tasks.items(), strict=True):
        names = list(found["warm_s"])
        bars = axis.barh(names[::-1], [found["warm_s"][name] for name in names[::-1]], color="#4878a8")
        axis.bar_label(bars, fmt="%.1f s", padding=2)
        axis.set(title=task, xlabel="seconds, median of warm repeats")
        axis.margins(x=0.2)
    figure.suptitle(f"{report['millions']:g} million clicks, {THREADS} threads")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
