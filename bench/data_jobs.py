"""Our data jobs beside what a user would pick instead, on the same clicks or events, in one run.

    make bench-spark [MILLIONS=5] [REPEATS=5] [PEERS=<folder of clicklog.py and peers.py>]

Ours is the job as it ships, in local mode with 10 GB for the JVM: inputs resolved, files read, rows checked and hashed, manifest and
pointer written; the JVM is up, the first repeat is cold. `encode` is ingest, vocabulary and events together, from text keys; `unmasked` is
samples without its mask columns, `sequences` its other layout, from which the trainer cuts the same windows. The peers are single
statements of Polars and DuckDB (of encode: bench/encode_polars.py), each in a process of its own, whose start is not counted. `floor` is
our compiled kernels in one process with two threads, without Spark, checks and hashes. All have the same allocator settings. Repeats are
interleaved; outputs are compared before a time is printed (same_rows.py). A peer that runs out of memory or time is named with its error.
Results of other tasks of the same size, from earlier runs, stay in bench/results. The log has no two clicks of a user at one time and
no session of more than 50 clicks, since the peers leave ties and longer sessions undefined.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from same_rows import compare

if TYPE_CHECKING:
    from conf.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
GAP_S, MAX_ITEMS, TOP, HISTORY, GROUP, THREADS = 3600, 50, 100, 20, 16_384, 2
LIMIT_S = 900  # of one repeat of a peer
DS = "2024-12-31"
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
SPARK = "--master local[2] --driver-memory 10g --conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false"
SPARK += " --conf spark.sql.shuffle.partitions=16 --conf spark.driver.host=127.0.0.1 --driver-java-options -Xss8m pyspark-shell"
EVENT_LOG = "--conf spark.eventLog.enabled=true --conf spark.eventLog.dir={} --conf spark.eventLog.rolling.enabled=false"
EVENT_LOG += " --conf spark.eventLog.compress=false "
PEERS = {"encode": ("polars",), "sessions": ("polars", "duckdb"), "cooc": ("polars", "duckdb"), "samples": ("duckdb", "polars")}
SAMPLES = {"samples": {}, "unmasked": {"masks": {"stored": False}}, "sequences": {"layout": "sequences", "masks": {"stored": False}}}
PEERS |= {"unmasked": ("duckdb",), "sequences": ("duckdb",)}
JOBS = {"encode": ("ingest", "vocabulary", "events"), "cooc": ("cooccurrence",)} | dict.fromkeys(SAMPLES, ("samples",))  # else as the task
TABLES = {"encode": "events"} | dict.fromkeys(SAMPLES, "samples")  # what is compared, if not the table of its name


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


def settings_of(clicks: Path, root: Path) -> dict[str, Any]:
    """What all jobs here run with, as a configuration file would have it."""
    return {
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
        "trainer": {"batches": "arrow"},  # petastorm does not read layout sequences
    }


class Ours:
    """The jobs in one Spark session."""

    def __init__(self, clicks: Path, root: Path) -> None:
        from conf.command import Log, Request
        from conf.settings import Settings
        from conf.storage import MAIN, Store
        from spark_jobs.job import session

        self.settings = Settings.model_validate(settings_of(clicks, root))
        self.events = Path(tempfile.mkdtemp(prefix="spark-events-"))
        os.environ.setdefault("PYSPARK_SUBMIT_ARGS", EVENT_LOG.format(self.events.as_uri()) + SPARK)
        self.store, self.spark = Store(str(root)), session("bench")
        self.request = lambda run_id: Request(
            "bench", self.settings, (), DS, MAIN, run_id, force=True, break_lock=False, dry_run=False, log=Log("text", run_id=run_id)
        )

    def run(self, job: str, task: str = "") -> tuple[float, float]:
        """(seconds of the whole job, peak GB of the driver's process, the JVM and its Python workers)."""
        from importlib import import_module

        from conf.jobs import module_of
        from conf.manifest import new_run_id
        from spark_jobs.job import run_job
        from spark_jobs.memory import peak_memory

        began = time.perf_counter()
        with peak_memory() as peak:
            run_job(import_module(module_of(job)).JOB, self.spark, replace(self.request(new_run_id()), settings=self.chosen(task)))
        return time.perf_counter() - began, round(peak.megabytes / 1024, 2)

    def chosen(self, task: str) -> "Settings":
        """The settings of one task."""
        return type(self.settings).model_validate(self.settings.model_dump(exclude={"samples"}) | {"samples": SAMPLES.get(task, {})})

    def shuffled_gb(self) -> float:
        """What all stages so far wrote for others to read, by Spark's event log."""
        (log,) = self.events.iterdir()
        stages = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"SparkListenerStageCompleted"' in line)
        values = (value for stage in stages for value in stage["Stage Info"]["Accumulables"])
        return sum(int(value["Value"]) for value in values if value["Name"] == "internal.metrics.shuffle.write.bytesWritten") / 2**30

    def files(self, table: str) -> list[str]:
        """The files of the current version."""
        return self.store.files_of(self.store.manifest(table, DS, self.settings))


def _first_to_go() -> None:
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # where memory ends, a peer ends, not the JVM beside it


def peer(peers: Path, task: str, engine: str, source: str, out: Path) -> tuple[float, float] | str:
    """(seconds, peak GB) of one repeat, or why there is none."""
    command = [sys.executable, peers / "peers.py", TABLES.get(task, task), engine, source, out]
    if task == "encode":
        command = [sys.executable, ROOT / "bench" / f"encode_{engine}.py", source, out]
    env = {**os.environ, "REPEATS": "1", "THREADS": str(THREADS)}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, preexec_fn=_first_to_go)
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT_S} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed: out of memory?"])[-1]
        return f"exit {done.returncode}: {last.replace(f'{ROOT}/', '')[:200]}"
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return said["seconds"][0], said["peak_rss_gb"]


def floor(ours: Ours, task: str, out: Path) -> float:
    """Seconds of the same kernels on two threads of this process."""
    from conf.masks import masking_of
    from conf.tables import resolve
    from spark_jobs import baskets, cooccurrence, event_files, pair_counts, samples, sessions, user_blocks
    from spark_jobs.session_cuts import Rule
    from spark_jobs.task_files import arrow_schema

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = ours.chosen(task)
    registry, shape = settings.registry(), settings.shape()
    events, recipe = ours.files("events"), samples.recipe_of(settings, masking_of(settings, {}), split_kind="production")
    table = resolve("samples", registry, shape)
    rule, keeping = pair_counts.Rule("set", 5, MAX_ITEMS), pair_counts.Keeping(1, TOP, 1.0, drop_other=False)

    def of_sessions(uri: str) -> Iterator[pa.RecordBatch]:
        yield sessions.cut_sessions(event_files.read_events(uri, sessions.COLUMNS), Rule("gap", GAP_S), Counter())

    def of_samples(uri: str) -> Iterator[pa.RecordBatch]:
        read = event_files.read_events(uri, samples.EVENT_COLUMNS)
        if task == "sequences":
            shape = {"first_target": 0, "history": HISTORY, "size": settings.samples.block}
            yield from user_blocks.blocks_of(read, {}, arrow_schema(table), split=0, **shape)
        else:
            yield from samples.samples_of(read, {}, arrow_schema(table), recipe, split=0, group=GROUP)

    def of_cooc(number: int) -> Iterator[pa.RecordBatch]:
        num_items = int(ours.store.manifest("item_feat", DS, ours.settings).rows)
        block = baskets.Block(number, cooccurrence.BLOCKS_PER_CORE * THREADS, num_items)
        found = baskets.of_sessions(ours.files("sessions"), block, max_items=MAX_ITEMS)
        unknown = pair_counts.categories_of([], None, num_items=num_items)
        yield next(pair_counts.count_pairs(found, block, rule, keeping, unknown)).rows

    def write(numbered: tuple[int, object]) -> None:
        """One file, of one piece."""
        number, piece = numbered
        build: Callable[..., Iterator[pa.RecordBatch]] = {"sessions": of_sessions, "cooc": of_cooc}.get(task, of_samples)
        batches = build(piece)
        first = next(batches)
        with pq.ParquetWriter(out / f"{number}.parquet", first.schema, use_dictionary=False) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)

    pieces: Sequence[object] = range(cooccurrence.BLOCKS_PER_CORE * THREADS) if task == "cooc" else events
    began = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, enumerate(pieces)))
    return time.perf_counter() - began


# ---- the run -------------------------------------------------------------------------------------------------------


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=ROOT.parent / "shared" / "bench", help="folder of clicklog.py and peers.py")
    parser.add_argument("--tasks", default="encode,sessions,cooc,samples,unmasked,sequences")
    parser.add_argument("--engines", default="polars,duckdb", help="peers to run: above 20 million some need more memory than there is")
    parser.add_argument("--peer-repeats", type=int, help="repeats in which the peers run, too, as far as they are fewer")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "bench")
    asked = parser.parse_args()
    if not (asked.peers / "peers.py").is_file():
        raise SystemExit(f"no peers.py in {asked.peers}: name its folder, make bench-spark PEERS=...")
    os.environ.update(ALLOCATOR)
    name = f"{asked.millions:g}m"
    clicks, root, exported = asked.work / f"clicks-{name}", asked.work / f"root-{name}", asked.work / f"events-{name}"
    if not clicks.is_dir():
        make_log(asked.peers, asked.millions, clicks)
    ours = Ours(clicks, root)
    path = ROOT / "bench" / "results" / f"spark-{name}.json"
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"millions": asked.millions, "tasks": {}}
    if not exported.is_dir():
        report["prepared"] = {job: dict(zip(("seconds", "peak_gb"), ours.run(job), strict=True)) for job in JOBS["encode"]}
        print(report["prepared"], flush=True)
        export_events(ours.files("events"), exported)
    for task in asked.tasks.split(","):
        report["tasks"][task] = _one_task(asked, ours, task, clicks if task == "encode" else exported)
        _print(task, report["tasks"][task])
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        _draw(report, path.with_suffix(".png"))
    ours.spark.stop()


def _one_task(asked: argparse.Namespace, ours: Ours, task: str, source: Path) -> dict[str, object]:
    seconds: dict[str, list[float]] = {"ours": []}
    peaks: dict[str, float] = {}
    stages: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    engines = [engine for engine in PEERS[task] if engine in asked.engines.split(",")]
    before = ours.shuffled_gb()
    for repeat in range(asked.repeats):
        ran = {job: ours.run(job, task) for job in JOBS.get(task, (task,))}
        seconds["ours"].append(sum(took for took, _ in ran.values()))
        peaks["ours"] = max(peaks.get("ours", 0), *(peak for _, peak in ran.values()))
        for job, (took, _) in ran.items():
            stages.setdefault(job, []).append(round(took, 2))
        if task == "cooc":
            source = Path(ours.files("sessions")[0]).parent
        if task != "encode":
            seconds.setdefault("floor", []).append(floor(ours, task, asked.work / f"{task}-floor"))
        for engine in engines:
            out = asked.work / f"{task}-{engine}"
            if engine in failed or repeat >= (asked.peer_repeats or asked.repeats):
                continue
            found = peer(asked.peers, task, engine, str(source), out)
            if isinstance(found, str):
                failed[engine] = found
                continue
            seconds.setdefault(engine, []).append(found[0])
            peaks[engine] = found[1]
            if repeat == 0:
                group_rows = GROUP if task == "sequences" else None
                compare(TABLES.get(task, task), ours.files(TABLES.get(task, task)), out, history=HISTORY, group_rows=group_rows)
    shuffled = round((ours.shuffled_gb() - before) / asked.repeats, 3)
    warm = {who: median(times[1:] or times) for who, times in seconds.items()}
    ratios = {who: round(warm["ours"] / warm[who], 3) for who in warm if who != "ours"}
    return {
        "seconds": seconds,
        "ours_cold_s": seconds["ours"][0],
        "warm_s": warm,
        "ours_to": ratios,
        "peak_gb": peaks,
        "shuffled_gb": shuffled,
        "failed": failed,
    } | ({"jobs_s": stages} if len(stages) > 1 else {})


def _print(task: str, found: dict[str, object]) -> None:
    warm, ratios = found["warm_s"], found["ours_to"]
    assert isinstance(warm, dict)
    assert isinstance(ratios, dict)
    print(f"{task:9} outputs equal; ours cold {found['ours_cold_s']:.1f} s, warm {warm['ours']:.1f} s", end="")
    print("".join(f" | {who} {warm[who]:.1f} s, ours/{who} {ratio:.2f}" for who, ratio in ratios.items()), end="")
    print(f" | peak GB {found['peak_gb']}, shuffled {found['shuffled_gb']} GB {found['failed'] or ''}", flush=True)


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
