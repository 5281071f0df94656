"""Vectors that can be searched: a FAISS index with exact scores and a fixed order of ties, and its files on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np

from conf.errors import BadDataError, Fault
from conf.files import open_root
from retrieval import worker
from retrieval.index_parts import Parts, Rows, StackedRows, blocks
from retrieval.ragged import F32, F64, I32, I64, Ragged, aggregate, best_first

EPS = 1e-6  # a vector shorter than this counts as zero: its cosine with anything is 0
_SPARE = 8  # rows fetched beyond those asked for: most ties at the end are settled in one search
_SEARCHED = 1 << 20  # (query, row) pairs of one FAISS call
_SCORED = 1 << 13  # pairs scored at once: 2 MB of gathered vectors at 64 dimensions stay in the cache


def unit(vectors: F32) -> F32:
    """The vectors over the last axis at unit length: x / max(|x|, 1e-6), float32."""
    lengths = np.sqrt(np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64))
    scaled: F32 = (vectors / np.maximum(lengths, EPS)[..., None]).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class VectorIndex:
    """A FAISS inner-product index over `vectors`.

    ids: int32[n], ascending; a multi-interest user has several rows, one after the other. vectors: float32[n, D], row by row
    what the index answers for; of an index in parts its parts, and so is the searcher. is_unit: the vectors have unit length
    and queries are brought to it, so that scores are cosines.
    """

    searcher: Any
    ids: I32
    vectors: Rows
    is_unit: bool

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def rows_per_id(self) -> int:
        """The most rows that share an id: 1, or the number of interests."""
        return int(np.unique(self.ids, return_counts=True)[1].max()) if len(self.ids) else 1

    @cached_property
    def _first_row(self) -> I64:
        table = np.full(int(self.ids[-1]) + 1 if len(self.ids) else 0, -1, dtype=np.int64)
        table[self.ids[::-1]] = np.arange(len(self.ids))[::-1]  # the smallest row is written last
        return table

    @cached_property
    def unit_vectors(self) -> Rows:
        """float32[n, D]: the vectors at unit length."""
        if self.is_unit:
            return self.vectors
        return self.vectors.changed(unit) if isinstance(self.vectors, StackedRows) else unit(self.vectors)

    @cached_property
    def _longest(self) -> float:
        if self.is_unit:
            return 1.0 + EPS
        return max((float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max(initial=0))) for rows in blocks(self.vectors)), default=0.0)

    def rows_of(self, ids: I32) -> I64:
        """int64[m]: the first row of each id, -1 where it is not in the index."""
        known = (ids >= 0) & (ids < len(self._first_row))
        return np.where(known, self._first_row[np.where(known, ids, 0)], -1) if len(self._first_row) else np.full(len(ids), -1)

    def nearest(self, queries_QKD: F32, num: int | I64) -> Ragged:
        """For each of Q queries its `num` ids of highest score, best first, ties by smaller id; fewer where the index finds fewer.

        The score of an id is the highest over the K vectors of the query and the rows of the id: an inner product, or a cosine
        where `is_unit`, computed in float64 and rounded to float32. With an exhaustive index the answer is exact, ties included,
        and does not depend on which queries are searched together.
        """
        return best_first(self.pool(queries_QKD, num), num)

    def pool(self, queries_QKD: F32, num: int | I64) -> Ragged:
        """Every id among the `num` best of any of a query's K vectors, ascending, with its score as in `nearest`."""
        num_queries, interests, dim = queries_QKD.shape
        queries = (unit(queries_QKD) if self.is_unit else queries_QKD).reshape(-1, dim)
        wanted = np.repeat(np.broadcast_to(np.asarray(num, dtype=np.int64), num_queries), interests)
        rows, found, scores = self._search(np.ascontiguousarray(queries), wanted * self.rows_per_id)
        return aggregate(rows // interests, self.ids[found], scores, num_queries, agg="max")

    def cosines(self, queries_QKD: F32, rows: I64, ids: I32) -> F64:
        """float64[m]: the highest cosine of query rows[i] with the vector of ids[i], all of which are in the index."""
        queries, places = unit(queries_QKD), self.rows_of(ids)
        best = _dots(queries[:, 0], rows, self.unit_vectors, places)
        for interest in range(1, queries.shape[1]):
            best = np.maximum(best, _dots(queries[:, interest], rows, self.unit_vectors, places))
        return np.clip(best, -1, 1)

    def _search(self, queries: F32, wanted: I64) -> tuple[I64, I64, F64]:
        """Entries (query, row of the index, score) that hold each query's `wanted` best rows and all that tie with the last of them."""
        total = len(self.ids)
        wanted = np.minimum(wanted, total)
        # rounded up to powers of two, so that queries which ask for different numbers still share searches
        fetch = np.minimum(1 << np.ceil(np.log2(wanted + _SPARE)).astype(np.int64), total)
        pending, parts = np.flatnonzero(wanted > 0), []
        while len(pending):
            unsettled = [np.empty(0, dtype=np.int64)]
            for size in np.unique(fetch[pending]):
                same = pending[fetch[pending] == size]
                for which in np.array_split(same, max(1, -(-len(same) * int(size) // _SEARCHED))):
                    settled, entries = self._search_once(queries, which, wanted[which], int(size))
                    parts.append(entries)
                    unsettled.append(which[~settled])
            pending = np.concatenate(unsettled)
            fetch[pending] = np.minimum(fetch[pending] * 2, total)
        empty = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64))
        rows, found, scores = (np.concatenate([part[i] for part in parts] or [empty[i]]) for i in range(3))
        order = np.argsort(rows, kind="stable")
        return rows[order], found[order], scores[order]

    def _search_once(self, queries: F32, which: I64, wanted: I64, size: int) -> tuple[Any, tuple[I64, I64, F64]]:
        asked = queries[which]
        raw, rows = self.searcher.search(asked, size)
        # FAISS adds up in float32, in an order that depends on the batch: its score is within `slack` of the true one, so a row
        # it leaves out can belong to the answer only if the last score it gives is that near to the last one wanted.
        slack = 2 * asked.shape[1] * 2.0**-23 * np.linalg.norm(asked, axis=1) * self._longest
        last_wanted = np.take_along_axis(raw, wanted[:, None] - 1, axis=1)[:, 0]
        settled = (size >= len(self.ids)) | (rows[:, -1] < 0) | (raw[:, -1] < last_wanted - slack)
        keep = settled[:, None] & (rows >= 0)  # -1: FAISS found fewer
        asking, found = np.repeat(which, size).reshape(rows.shape)[keep], rows[keep]
        scores = _dots(queries, asking, self.vectors, found)
        return settled, (asking, found, np.clip(scores, -1, 1) if self.is_unit else scores)


def _dots(left: F32, left_rows: I64, right: Rows, right_rows: I64) -> F64:
    """float64[m]: left[left_rows[i]] . right[right_rows[i]], each added up in float64 in one fixed order."""
    result = np.empty(len(left_rows), dtype=np.float64)
    for start in range(0, len(result), _SCORED):
        part = slice(start, start + _SCORED)
        result[part] = np.einsum("nd,nd->n", left[left_rows[part]], right[right_rows[part]], dtype=np.float64)
    return result


# ---- on disk -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IndexFiles:
    """One index of the artefact: where its files are and what they must hash to. Small: it travels to the executors.

    sha256: file name -> sha256. effort: as in `set_effort`. parts: what names of the files begin with, one part after the other.
    """

    folder: str
    name: str
    is_unit: bool
    effort: int
    sha256: Mapping[str, str]
    parts: tuple[str, ...]

    def open(self) -> VectorIndex:
        """Load it, every file checked against its sha256 first: a damaged index file could make FAISS corrupt memory.

        Rows and codes stay in the file, mapped into memory: the Python workers of a machine share one copy of them.

        Raises:
            BadDataError: a file is missing or damaged.
        """
        paths = {name: worker.local_file(f"{self.folder}/{name}", sha256) for name, sha256 in self.sha256.items()}
        searchers = [faiss.read_index(paths[f"{part}.faiss"], faiss.IO_FLAG_MMAP_IFC) for part in self.parts]
        searcher = searchers[0] if len(searchers) == 1 else Parts(searchers)
        set_effort(searcher, self.effort)
        ids = np.concatenate([np.load(paths[f"{part}_ids.npy"]) for part in self.parts])
        stored = [paths.get(f"{part}_vectors.npy") for part in self.parts]
        rows = [flat_vectors(one) if path is None else np.load(path, mmap_mode="r") for one, path in zip(searchers, stored, strict=True)]
        return VectorIndex(searcher, ids, rows[0] if len(rows) == 1 else StackedRows(rows), self.is_unit)

    def held(self) -> VectorIndex:
        """The index, loaded once in this process, searching with as many threads as the task has cores."""
        faiss.omp_set_num_threads(worker.task_cpus())
        return worker.once(f"index {self.name}", self, self.open)

    def check(self) -> None:
        """Raise BadDataError for a missing or damaged file, before any task starts."""
        for name, sha256 in self.sha256.items():
            worker.local_file(f"{self.folder}/{name}", sha256)


def index_files(folder: str) -> dict[str, IndexFiles]:
    """The indexes of an artefact folder (path or URI) by name, as its index.json lists them.

    Raises:
        BadDataError: index.json is missing or unreadable.
    """
    filesystem, path = open_root(folder)
    try:
        with filesystem.open_input_stream(f"{path}/index.json") as stream:
            document = json.loads(stream.read())
        return {name: index_of(folder, name, part) for name, part in document["indexes"].items()}
    except (FileNotFoundError, ValueError, KeyError) as error:
        fault = Fault("index.json is missing or damaged", repr(error), "roll back, or run: trichannel index")
        raise BadDataError(folder, [fault]) from None


def index_of(folder: str, name: str, told: Mapping[str, Any]) -> IndexFiles:
    """The files of an index as index.json tells of it; raises KeyError where that lacks something."""
    sha256 = {file: entry["sha256"] for file, entry in told["files"].items()}
    return IndexFiles(folder, name, told["is_unit"], told["effort"], sha256, tuple(told["parts"]))


def flat_vectors(searcher: Any) -> F32:
    """float32[n, D]: the vectors inside a flat index, not copied; they live as long as the index."""
    rows: F32 = faiss.rev_swig_ptr(searcher.get_xb(), searcher.ntotal * searcher.d).reshape(searcher.ntotal, searcher.d)
    return rows


# ---- how hard it looks ---------------------------------------------------------------------------------------------


def set_effort(searcher: Any, effort: int) -> None:
    """Let an IVF index look into `effort` lists, an HNSW index keep `effort` candidates while it searches; other kinds have no choice."""
    for part in searcher.searchers if isinstance(searcher, Parts) else [searcher]:
        ivf = faiss.try_extract_index_ivf(part)
        if ivf is not None:
            ivf.nprobe = effort
        elif isinstance(part, faiss.IndexHNSW):
            part.hnsw.efSearch = effort


def efforts(searcher: Any) -> list[int]:
    """The efforts worth trying, least first, powers of two: up to all lists of an IVF index, [0] for a kind that has no choice."""
    searcher = searcher.searchers[0] if isinstance(searcher, Parts) else searcher
    ivf = faiss.try_extract_index_ivf(searcher)
    if ivf is not None:
        return [*(1 << step for step in range((ivf.nlist - 1).bit_length())), ivf.nlist]
    return [16, 32, 64, 128, 256, 512, 1024] if isinstance(searcher, faiss.IndexHNSW) else [0]


def effort_of(searcher: Any, *, nprobe: int, ef_search: int) -> int:
    """Which of the two is the effort of this kind; 0 where it has none."""
    searcher = searcher.searchers[0] if isinstance(searcher, Parts) else searcher
    if faiss.try_extract_index_ivf(searcher) is not None:
        return nprobe
    return ef_search if isinstance(searcher, faiss.IndexHNSW) else 0
