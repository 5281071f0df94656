"""Our search as a Spark job beside raw FAISS in one process, the same index, threads and queries, output written by both, in one run.

    make bench-retrieval [ROWS=1000000] [USERS=200000] [TOP=500] [REPEATS=5]

Vectors lie around centres, as those of a trained model do. Every contender is a process of its own that has loaded its index and answered
a few queries before a repeat is timed, from the file of queries to the file of neighbours; repeats are interleaved. `raw` calls
`search` of the FAISS index with blocks of queries and writes Parquet. `lists` is the same with `faiss.contrib.big_batch_search`, for IVF.
`spark` is what our jobs run: `retrieval.search.make_search` in mapInArrow, scores exact in float64, ties by smaller id. No time is
printed unless all contenders of an index found the same ids, but for ids whose scores tie in float32 with the last that was found.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.files import hash_file, open_root
from retrieval.index_inputs import Vectors
from retrieval.index_measure import make
from retrieval.index_shards import write_part
from retrieval.vector_index import IndexFiles, index_of, set_effort, unit

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
DIM, BLOCK, FILES = 64, 8192, 16
SCHEMA = pa.schema([("idx", pa.int32()), ("neighbours", pa.list_(pa.int32())), ("similarities", pa.list_(pa.float32()))])
CONTENDERS = ("raw", "lists", "spark")


# ---- data ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path, rows: int, users: int, nlist: int, nprobe: int) -> None:
    """Write the queries as Parquet files, and a Flat and an IVF index of the rows, as the job `index` does."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, rows // 200), DIM)).astype(np.float32)

    def around(num: int) -> np.ndarray:
        return unit((centres[rng.integers(0, len(centres), num)] + 0.7 * rng.normal(size=(num, DIM))).astype(np.float32))

    (folder / "queries").mkdir(parents=True)
    for number, ids in enumerate(np.array_split(np.arange(users, dtype=np.int32), FILES)):
        table = pa.table(
            {"idx": ids, "vector": list(around(len(ids)))}, schema=pa.schema([("idx", pa.int32()), ("vector", pa.list_(pa.float32()))])
        )
        pq.write_table(table, folder / "queries" / f"{number:02d}.parquet")
    vectors = Vectors(np.arange(1, rows + 1, dtype=np.int32), around(rows))
    filesystem, root = open_root(str(folder))
    told: dict[str, Any] = {}
    for name, factory in (("flat", "Flat"), ("ivf", f"IVF{nlist},Flat")):
        index = make(name, vectors, factory, is_unit=True).index
        assert isinstance(index.vectors, np.ndarray)
        files = {
            file: {"sha256": hash_file(filesystem, f"{root}/{file}")[1]}
            for file in write_part(name, index.searcher, index.ids, index.vectors, folder)
        }
        told[name] = {"is_unit": True, "effort": nprobe if name == "ivf" else 0, "parts": [name], "files": files}
    (folder / "index.json").write_text(json.dumps({"indexes": told}))


def files_of(folder: Path, name: str) -> IndexFiles:
    """The index of that name."""
    return index_of(str(folder), name, json.loads((folder / "index.json").read_text())["indexes"][name])


# ---- one contender, in a process of its own ------------------------------------------------------------------------


def raw(folder: Path, name: str, top: int, threads: int, out: Path, *, by_lists: bool) -> Callable[[int], None]:
    """FAISS in this process; the function answers the queries of so many files."""
    from faiss.contrib.big_batch_search import big_batch_search

    faiss.omp_set_num_threads(threads)
    searcher = faiss.read_index(str(folder / f"{name}.faiss"))
    set_effort(searcher, files_of(folder, name).effort)

    def go(num_files: int) -> None:
        """Read, search and write."""
        paths = sorted((folder / "queries").iterdir())[:num_files]
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        queries = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        own = table["idx"].to_numpy()
        block = len(own) if by_lists else BLOCK
        with pq.ParquetWriter(out / "all.parquet", SCHEMA) as writer:
            for start in range(0, len(own), block):
                asked = np.ascontiguousarray(queries[start : start + block])
                scores, rows = big_batch_search(searcher, asked, top) if by_lists else searcher.search(asked, top)
                kept = rows >= 0
                starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
                lists = [pa.ListArray.from_arrays(starts, pa.array(values[kept])) for values in ((rows + 1).astype(np.int32), scores)]
                writer.write_table(pa.Table.from_arrays([pa.array(own[start : start + block]), *lists], schema=SCHEMA))

    return go


def spark(folder: Path, name: str, top: int, threads: int, out: Path) -> Callable[[int], None]:
    """Our search, a Spark session in this process with as many cores."""
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{threads}] --driver-memory 4g --conf spark.ui.enabled=false pyspark-shell"
    from retrieval.search import NEIGHBOURS_SCHEMA, make_search
    from spark_jobs.session import session

    session_, index = session("bench-retrieval"), files_of(folder, name)

    def go(num_files: int) -> None:
        queries = session_.read.parquet(*map(str, sorted((folder / "queries").iterdir())[:num_files]))
        queries.mapInArrow(make_search(index.held, top_k=top), NEIGHBOURS_SCHEMA).write.mode("overwrite").parquet(str(out))

    return go


def serve(given: argparse.Namespace) -> None:
    """Answer once for every line of stdin; print the seconds it took."""
    folder, out = Path(given.folder), Path(given.folder) / f"out-{given.index}-{given.serve}"
    out.mkdir(exist_ok=True)
    if given.serve == "spark":
        go = spark(folder, given.index, given.top, given.threads, out)
    else:
        go = raw(folder, given.index, given.top, given.threads, out, by_lists=given.serve == "lists")
    go(1)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        go(FILES)
        print(time.perf_counter() - began, flush=True)


class Contender:
    """A process that answers all queries when it is told to."""

    def __init__(self, name: str, index: str, given: argparse.Namespace, folder: Path) -> None:
        self.name, self.out = name, folder / f"out-{index}-{name}"
        arguments = ["--serve", name, "--index", index, "--folder", str(folder), "--top", str(given.top), "--threads", str(given.threads)]
        environment = ALLOCATOR | os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(given.threads)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []

    def answer(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ready") or line[:1].isdigit():
                return line
        raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}")

    def go(self) -> None:
        """One repeat."""
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        self.seconds.append(float(self.answer()))

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ---- all of them ---------------------------------------------------------------------------------------------------


def found_by(out: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts of each query's list, ids, scores), by query."""
    table = (
        pa.concat_tables([pq.read_table(path, columns=SCHEMA.names) for path in sorted(out.glob("*.parquet"))])
        .sort_by("idx")
        .combine_chunks()
    )
    lengths = pa.compute.list_value_length(table["neighbours"]).to_numpy()
    values = (pa.compute.list_flatten(table[name]).to_numpy() for name in ("neighbours", "similarities"))
    return (np.concatenate([[0], np.cumsum(lengths)]), *values)


def check_same(ours: Path, theirs: Path) -> int:
    """Number of ids that only one of them found, all of which tie with the last of their list; raises AssertionError for others."""
    (starts, ids, scores), (others, other_ids, other_scores) = found_by(ours), found_by(theirs)
    assert np.array_equal(starts, others), f"{theirs}: lists of other lengths"
    differing = 0
    for start, stop in pairwise(starts.tolist()):
        part = slice(start, stop)
        alone = [
            values[part][np.isin(a[part], b[part], invert=True)]
            for values, a, b in ((scores, ids, other_ids), (other_scores, other_ids, ids))
        ]
        for only in alone:
            assert (only <= scores[stop - 1] + 1e-6).all(), f"{theirs}: found other ids"
        differing += len(alone[0])
    return differing


def measure(index: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """name -> {seconds, queries_per_s, to_raw}, medians over repeats of ratios within a repeat."""
    contenders = [Contender(name, index, given, folder) for name in CONTENDERS if index == "ivf" or name != "lists"]
    for contender in contenders:
        contender.answer()
    for _ in range(given.repeats):
        for contender in contenders:
            contender.go()
    for contender in contenders:
        contender.end()
    tied = {one.name: check_same(contenders[0].out, one.out) for one in contenders[1:]}
    report: dict[str, Any] = {"ids_that_tie_and_differ": tied}
    for contender in contenders:
        ratio = median(own / base for own, base in zip(contender.seconds, contenders[0].seconds, strict=True))
        seconds = median(contender.seconds)
        report[contender.name] = {"seconds": round(seconds, 2), "queries_per_s": round(given.users / seconds), "to_raw": round(ratio, 2)}
    return report


def draw(report: dict[str, Any], path: Path) -> None:
    """Seconds of each contender, by index."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [(f"{index}: {name}", report[index][name]) for index in ("flat", "ivf") for name in CONTENDERS if name in report[index]]
    figure, axes = plt.subplots(figsize=(8, 2.8))
    axes.barh(
        [label for label, _ in bars],
        [one["seconds"] for _, one in bars],
        color=["#3f6fb5" if "spark" in label else "#b9bfc9" for label, _ in bars],
    )
    for label, one in bars:
        axes.text(one["seconds"], label, f"  {one['seconds']:g} s, {one['to_raw']:g} of raw", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(one["seconds"] for _, one in bars))
    size = f"{report['users']:,} users x {report['rows']:,} items, top {report['top']}, {report['threads']} threads"
    axes.set_xlabel(f"seconds for {size}, output written")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--index", default="flat", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=1_000_000, help="items")
    parser.add_argument("--users", type=int, default=200_000, help="queries")
    parser.add_argument("--top", type=int, default=500, help="neighbours of each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nlist", type=int, default=4096, help="lists of the IVF index")
    parser.add_argument("--nprobe", type=int, default=64, help="lists it looks into")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", default=str(ROOT / "data" / "bench-retrieval"), help="of data and output; removed at the end")
    parser.add_argument("--out", default=str(ROOT / "bench" / "results" / "retrieval.json"))
    given = parser.parse_args()
    if given.serve:
        serve(given)
        return
    folder = Path(given.folder).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, given.rows, given.users, given.nlist, given.nprobe)
    report: dict[str, Any] = {name: getattr(given, name) for name in ("rows", "users", "top", "repeats", "nlist", "nprobe", "threads")}
    for index in ("flat", "ivf"):
        report[index] = measure(index, given, folder)
        for name, one in report[index].items():
            print(index, name, one, flush=True)
    shutil.rmtree(folder)
    out = Path(given.out)
    out.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
