"""Our search beside raw FAISS, the same index, queries, ids and threads, output written by both, in one run.

    make bench-retrieval [ROWS=1000000] [USERS=200000] [FLAT_USERS=4000] [TOP=500] [REPEATS=3]
    python bench/retrieval_search.py --growth [--rows 250000] [--users 50000] [--top 500]

Vectors lie around centres, as those of a trained model do. Every contender is a process of its own that has loaded its index and answered
a few queries before a repeat is timed, from the files of queries to the files of neighbours; repeats are interleaved. `raw` calls
`search` of the FAISS index with blocks of queries and writes Parquet. `lists` is the same with `faiss.contrib.big_batch_search`, for IVF
and in the first repeat only: it takes long. `blocks` is the same with `VectorIndex.nearest`, what our jobs call: scores exact in float64,
ties by smaller id. `spark` is what our jobs run: `retrieval.search.make_search` in mapInArrow. No time is printed unless all contenders
of an index found the same ids, but for ids whose scores tie in float32 with the last that was found (and see `check_same`).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.files import hash_file, open_root
from retrieval.index_choice import lists
from retrieval.index_inputs import Vectors
from retrieval.index_measure import make
from retrieval.index_shards import write_part
from retrieval.vector_index import IndexFiles, index_of, set_effort, unit

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
DIM, BLOCK, FILES = 64, 8192, 16
SCHEMA = pa.schema([("idx", pa.int32()), ("neighbours", pa.list_(pa.int32())), ("similarities", pa.list_(pa.float32()))])
TIES = DIM * float(np.finfo(np.float32).eps)  # by so much two float32 sums of one product of unit vectors may differ
CONTENDERS = ("raw", "lists", "blocks", "spark")


# ---- data ----------------------------------------------------------------------------------------------------------


def prepare(folder: Path, rows: int, users: Mapping[str, int], nprobe: int) -> None:
    """Write the queries of each index as Parquet files, and a Flat and an IVF index of the rows, as the job `index` does."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, rows // 200), DIM)).astype(np.float32)

    def around(num: int) -> np.ndarray:
        return unit((centres[rng.integers(0, len(centres), num)] + 0.7 * rng.normal(size=(num, DIM))).astype(np.float32))

    schema = pa.schema([("idx", pa.int32()), ("vector", pa.list_(pa.float32()))])
    for name, num in users.items():
        (folder / f"queries-{name}").mkdir(parents=True)
        for number, ids in enumerate(np.array_split(np.arange(num, dtype=np.int32), FILES)):
            table = pa.table({"idx": ids, "vector": list(around(len(ids)))}, schema=schema)
            pq.write_table(table, folder / f"queries-{name}" / f"{number:02d}.parquet")
    vectors = Vectors(np.arange(1, rows + 1, dtype=np.int32), around(rows))
    filesystem, root = open_root(str(folder))
    told: dict[str, Any] = {}
    factories = {"flat": "Flat", "ivf": f"IVF{lists(rows)},Flat"}
    for name in users:
        index = make(name, vectors, factories[name], is_unit=True).index
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


Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # starts of each query's list, ids, scores


def searching(contender: str, files: IndexFiles, threads: int, top: int) -> Callable[[np.ndarray], Found]:
    """A search in this process with so many threads."""
    from faiss.contrib.big_batch_search import big_batch_search

    faiss.omp_set_num_threads(threads)
    if contender == "blocks":
        index = files.open()

        def ours(asked: np.ndarray) -> Found:
            """Exact scores, ties by smaller id."""
            found = index.nearest(asked[:, None], top)
            return found.starts, found.values, found.weights

        return ours
    searcher = faiss.read_index(f"{files.folder}/{files.name}.faiss")
    set_effort(searcher, files.effort)

    def theirs(asked: np.ndarray) -> Found:
        """As FAISS gives them; ids begin at 1."""
        scores, rows = big_batch_search(searcher, asked, top) if contender == "lists" else searcher.search(asked, top)
        kept = rows >= 0
        return np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), (rows[kept] + 1).astype(np.int32), scores[kept]

    return theirs


def one_process(folder: Path, name: str, contender: str, top: int, threads: int, out: Path) -> Callable[[int], float]:
    """A search without Spark; the function answers the queries of so many files, and gives the seconds spent in the search alone."""
    search = searching(contender, files_of(folder, name), threads, top)

    def go(num_files: int) -> float:
        """Read, search and write."""
        paths, spent = sorted((folder / f"queries-{name}").iterdir())[:num_files], 0.0
        table = pa.concat_tables([pq.read_table(path) for path in paths])
        queries, own = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM), table["idx"].to_numpy()
        block = len(own) if contender == "lists" else BLOCK
        with pq.ParquetWriter(out / "all.parquet", SCHEMA) as writer:
            for start in range(0, len(own), block):
                asked, began = np.ascontiguousarray(queries[start : start + block]), time.perf_counter()
                starts, ids, scores = search(asked)
                spent += time.perf_counter() - began
                columns = [pa.ListArray.from_arrays(starts.astype(np.int32), pa.array(values)) for values in (ids, scores)]
                writer.write_table(pa.Table.from_arrays([pa.array(own[start : start + block]), *columns], schema=SCHEMA))
        return spent

    return go


def spark(folder: Path, name: str, top: int, threads: int, out: Path) -> Callable[[int], float]:
    """Our search, a Spark session in this process with as many cores."""
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{threads}] --driver-memory 4g --conf spark.ui.enabled=false pyspark-shell"
    from retrieval.search import NEIGHBOURS_SCHEMA, make_search
    from spark_jobs.session import session

    session_, index = session("bench-retrieval"), files_of(folder, name)

    def go(num_files: int) -> float:
        """As in one process; what the search alone takes is not known."""
        queries = session_.read.parquet(*map(str, sorted((folder / f"queries-{name}").iterdir())[:num_files]))
        queries.mapInArrow(make_search(index.held, top_k=top), NEIGHBOURS_SCHEMA).write.mode("overwrite").parquet(str(out))
        return float("nan")

    return go


def serve(given: argparse.Namespace) -> None:
    """Answer once for every line of stdin; print the seconds it took, and those of the search alone."""
    folder, out = Path(given.folder), Path(given.folder) / f"out-{given.index}-{given.serve}"
    out.mkdir(exist_ok=True)
    if given.serve == "spark":
        go = spark(folder, given.index, given.top, given.threads, out)
    else:
        go = one_process(folder, given.index, given.serve, given.top, given.threads, out)
    go(given.threads)  # a file for each worker
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        searched = go(FILES)
        print(time.perf_counter() - began, searched, flush=True)


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
        self.searching: list[float] = []

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
        for told, kept in zip(self.answer().split(), (self.seconds, self.searching), strict=True):
            kept.append(float(told))

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


def check_same(ours: Path, theirs: Path, *, lists_may_tie: bool) -> dict[str, int]:
    """How many ids only one of them found: in all, which tie with the last of their list; and in how many queries others, too.

    The latter is right of an index of lists alone, where two lists are as near to the query as float32 can tell, and one is looked into.

    Raises:
        AssertionError: more than one query in ten thousand differs so; of an index without lists, any.
    """
    (starts, ids, scores), (others, other_ids, other_scores) = found_by(ours), found_by(theirs)
    assert np.array_equal(starts, others), f"{theirs}: lists of other lengths"
    differing, other_lists = 0, 0
    for start, stop in pairwise(starts.tolist()):
        part = slice(start, stop)
        sides = ((scores, ids, other_ids), (other_scores, other_ids, ids))
        alone = [values[part][np.isin(a[part], b[part], invert=True)] for values, a, b in sides]
        other_lists += any((only > scores[stop - 1] + TIES).any() for only in alone)
        differing += len(alone[0])
    assert other_lists <= (len(starts) // 10_000 if lists_may_tie else 0), f"{theirs}: found other ids in {other_lists} queries"
    return {"ids": differing, "queries": other_lists}


def measure(index: str, names: Sequence[str], given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """name -> seconds with output, and in the search alone; ratios to raw within a repeat; medians over repeats."""
    contenders = [Contender(name, index, given, folder) for name in names]
    for contender in contenders:
        contender.answer()
    for repeat in range(given.repeats):
        for contender in contenders:
            if contender.name != "lists" or repeat == 0:
                contender.go()
    for contender in contenders:
        contender.end()
    same = {one.name: check_same(contenders[0].out, one.out, lists_may_tie=index == "ivf") for one in contenders[1:]}
    report: dict[str, Any] = {"differing": same}
    for contender in contenders:
        told = {
            "seconds": median(contender.seconds),
            "to_raw": to_raw(contender.seconds, contenders[0].seconds),
            "search_s": median(contender.searching),
            "search_to_raw": to_raw(contender.searching, contenders[0].searching),
        }
        report[contender.name] = {name: round(value, 2) for name, value in told.items() if value == value}  # no nan
    return report


def to_raw(own: Sequence[float], raw: Sequence[float]) -> float:
    """Median of the ratios within a repeat."""
    return median(one / base for one, base in zip(own, raw, strict=False))


def grown(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Raw FAISS and ours in Spark with an IVF index, at a quarter, half and all of the rows, of the users and of the top."""
    base = {name: getattr(given, name) for name in ("rows", "users", "top")}
    sizes = [base, *(base | {name: base[name] // part} for name in base for part in (2, 4))]
    found = []
    for size in sizes:
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, size["rows"], {"ivf": size["users"]}, given.nprobe)
        own = argparse.Namespace(**vars(given) | size)
        report = measure("ivf", ("raw", "spark"), own, folder)
        found.append(size | {name: report[name]["seconds"] for name in ("raw", "spark")} | {"to_raw": report["spark"]["to_raw"]})
        print(found[-1], flush=True)
    return found


def draw(report: dict[str, Any], path: Path) -> None:
    """Time of each contender as a share of raw FAISS's, by index."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [(f"{index}: {name}", report[index][name]) for index in ("flat", "ivf") for name in CONTENDERS if name in report[index]]
    figure, axes = plt.subplots(figsize=(9, 3.2))
    colours = ["#3f6fb5" if label.endswith(("spark", "blocks")) else "#b9bfc9" for label, _ in bars]
    axes.barh([label for label, _ in bars], [one["to_raw"] for _, one in bars], color=colours)
    for label, one in bars:
        axes.text(one["to_raw"], label, f"  {one['to_raw']:g}   ({one['seconds']:g} s)", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(one["to_raw"] for _, one in bars))
    users = f"{report['flat_users']:,} (flat) and {report['users']:,} (ivf) users"
    axes.set_xlabel(
        f"time to raw FAISS, for {users} x {report['rows']:,} items, top {report['top']}, {report['threads']} threads, output written"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--index", default="flat", help=argparse.SUPPRESS)
    parser.add_argument("--growth", action="store_true", help="the table of growth instead, with the IVF index")
    parser.add_argument("--rows", type=int, help="items; 1,000,000, of --growth 250,000")
    parser.add_argument("--users", type=int, help="queries of the IVF index; 200,000, of --growth 50,000")
    parser.add_argument("--flat-users", type=int, default=4_000, help="queries of the Flat index, which compares each with all items")
    parser.add_argument("--top", type=int, default=500, help="neighbours of each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nprobe", type=int, default=64, help="lists the IVF index looks into")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", default=str(ROOT / "data" / "bench-retrieval"), help="of data and output; removed at the end")
    parser.add_argument(
        "--out", default=str(ROOT / "bench" / "results" / "retrieval.json"), help="JSON; what is measured replaces its part"
    )
    given = parser.parse_args()
    if given.serve:
        serve(given)
        return
    given.rows, given.users = given.rows or (250_000 if given.growth else 1_000_000), given.users or (50_000 if given.growth else 200_000)
    folder, out = Path(given.folder).resolve(), Path(given.out)
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if given.growth:
        report["growth"] = {"nprobe": given.nprobe, "repeats": given.repeats, "threads": given.threads, "sizes": grown(given, folder)}
    else:
        report |= {name: getattr(given, name) for name in ("rows", "users", "flat_users", "top", "repeats", "nprobe", "threads")}
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder, given.rows, {"flat": given.flat_users, "ivf": given.users}, given.nprobe)
        for index in ("flat", "ivf"):
            report[index] = measure(index, [name for name in CONTENDERS if index == "ivf" or name != "lists"], given, folder)
            for name, one in report[index].items():
                print(index, name, one, flush=True)
        draw(report, out.with_suffix(".png"))
    shutil.rmtree(folder)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
