"""Vectors that can be searched: a FAISS index with exact scores and a fixed order of ties, and its files on disk."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from conf.errors import BadDataError, Fault
from retrieval import worker
from retrieval.block_search import BlockSearch, block_search, in_threads
from retrieval.index_parts import Parts, Rows, StackedRows, blocks, flat_vectors
from retrieval.kernels.exact_pairs import NOTHING, write_pairs
from retrieval.pairs import by_id, by_score
from retrieval.ragged import F32, F64, I32, I64, U64, Bools, Ragged, best_first, concatenate

INDEX_JSON: Final = "index.json"
EPS = 1e-6  # a vector shorter than this counts as zero: its cosine with anything is 0
TOGETHER: Final = 2048  # users that are searched for together: at 512 a search of a million items by lists took 1.7 times as long
_SPARE = 8  # rows fetched beyond those asked for: most ties at the end are settled in one search
_HELD = 1 << 22  # (query, row) pairs of one search: 8,192 queries for 500 rows each take 250 MB
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
    def is_coded(self) -> bool:
        """Whether it is searched by codes, whose scores are near the exact ones of what it finds."""
        parts = self.searcher.searchers if isinstance(self.searcher, Parts) else [self.searcher]
        whole = (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat)
        return any(isinstance(part, faiss.Index) and not isinstance(part, whole) for part in parts)

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
        if queries_QKD.shape[1] > 1 or self.rows_per_id > 1:
            return best_first(self.pool(queries_QKD, num), num)
        return self._lists(queries_QKD, num, by_score)

    def pool(self, queries_QKD: F32, num: int | I64) -> Ragged:
        """Every id among the `num` best of any of a query's K vectors, ascending, with its score as in `nearest`."""
        return self._lists(queries_QKD, num, lambda pairs, _: by_id(pairs))

    def cosines(self, queries_QKD: F32, rows: I64, ids: I32) -> F64:
        """float64[m]: the highest cosine of query rows[i] with the vector of ids[i], all of which are in the index."""
        queries, places = unit(queries_QKD), self.rows_of(ids)
        best = _dots(queries[:, 0], rows, self.unit_vectors, places)
        for interest in range(1, queries.shape[1]):
            best = np.maximum(best, _dots(queries[:, interest], rows, self.unit_vectors, places))
        return np.clip(best, -1, 1)

    def _lists(self, queries_QKD: F32, num: int | I64, lists_of: Callable[[U64, I64], Ragged]) -> Ragged:
        """A list for each query, of what is found with its vectors."""
        num_queries, total = len(queries_QKD), len(self.ids)
        queries = unit(queries_QKD) if self.is_unit else queries_QKD
        asked = np.broadcast_to(np.asarray(num, dtype=np.int64), num_queries)
        wanted = np.minimum(asked * self.rows_per_id, total)
        # rounded up to powers of two, so that queries which ask for different numbers still share searches
        sizes = np.minimum(1 << np.ceil(np.log2(wanted + _SPARE)).astype(np.int64), total)
        pending, places, made = np.flatnonzero(wanted > 0), np.full(num_queries, -1), [Ragged.empty(0)]
        while len(pending):
            unsettled = [np.empty(0, dtype=np.int64)]
            for size in np.unique(sizes[pending]).tolist():
                same = pending[sizes[pending] == size]
                for which in np.array_split(same, -(-len(same) * queries.shape[1] * size // _HELD)):
                    settled, pairs = self._pairs(queries[which], wanted[which], size)
                    unsettled.append(which[~settled])
                    places[which[settled]] = sum(map(len, made)) + np.arange(settled.sum())
                    made.append(lists_of(pairs[settled], asked[which[settled]]))
            pending = np.concatenate(unsettled)
            sizes[pending] = np.minimum(sizes[pending] * 2, total)
        return concatenate(made).take(places)

    def _pairs(self, queries_QKD: F32, wanted: I64, size: int) -> tuple[Bools, U64]:
        """(which queries are settled, their pairs): those hold each one's `wanted` best rows and all that tie with the last of them."""
        num_queries, interests, dim = queries_QKD.shape
        queries, wanted = np.ascontiguousarray(queries_QKD.reshape(-1, dim)), np.repeat(wanted, interests)
        # Scores added up in float32 are off by a rounding for each number: a row that the search leaves out can belong to the answer
        # only if the last score it gives is that near to the last one wanted, from both sides.
        slack = (2 * (dim + 2) * 2.0**-23 * np.linalg.norm(queries, axis=1) * self._longest).astype(np.float32)
        if self._blocks is not None:
            rows, counts = self._blocks.search(queries, wanted, slack, size)
        else:
            rows, counts = self._by_faiss(queries, wanted, slack, size)
        pairs = np.full((len(queries), max(counts.max(initial=0), 1)), NOTHING)
        first = 0
        for vectors in blocks(self.vectors):
            ids = self.ids[first : first + len(vectors)]
            in_threads(len(queries), partial(self._write_pairs, queries, rows, counts, vectors, ids, first, pairs))
            first += len(vectors)
        return (counts >= 0).reshape(num_queries, interests).all(axis=1), pairs.reshape(num_queries, -1)

    def _write_pairs(self, queries: F32, rows: I64, counts: I64, vectors: F32, ids: I32, first: int, pairs: U64, part: slice) -> None:
        write_pairs(queries[part], rows[part], counts[part], np.asarray(vectors), ids, first, self.is_unit, pairs[part])

    @cached_property
    def _blocks(self) -> BlockSearch | None:
        return block_search(self.searcher)

    def _by_faiss(self, queries: F32, wanted: I64, slack: F32, size: int) -> tuple[I64, I64]:
        """As `BlockSearch.search`, for the other kinds."""
        raw, rows = self.searcher.search(queries, size)
        last_wanted = np.take_along_axis(raw, wanted[:, None] - 1, axis=1)[:, 0]
        settled = (size >= len(self.ids)) | (rows[:, -1] < 0) | (raw[:, -1] < last_wanted - slack)
        return rows, np.where(settled, (rows >= 0).sum(axis=1), -1)  # -1 as a row: FAISS found fewer, all of them in front


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


def index_files(folder: str, sha256: str | None = None) -> dict[str, IndexFiles]:
    """The indexes of a run folder (path or URI) by name, as its index.json lists them.

    sha256: of index.json; None = what the manifest in the folder says of it.

    Raises:
        BadDataError: index.json or the manifest is missing or damaged.
    """
    path = worker.local_file(f"{folder}/{INDEX_JSON}", sha256 or _sha256_told(folder))
    try:
        document = json.loads(Path(path).read_bytes())
        return {name: index_of(folder, name, part) for name, part in document["indexes"].items()}
    except KeyError as error:
        fault = Fault(f"{INDEX_JSON} lacks {error}", "another version of this project wrote it", "run: trichannel index")
        raise BadDataError(folder, [fault]) from None


def _sha256_told(folder: str) -> str:
    told = {entry.name: entry.sha256 for entry in worker.manifest_of(folder, "index").files}
    return told[INDEX_JSON]


def index_of(folder: str, name: str, told: Mapping[str, Any]) -> IndexFiles:
    """The files of an index as index.json tells of it; raises KeyError where that lacks something."""
    sha256 = {file: entry["sha256"] for file, entry in told["files"].items()}
    return IndexFiles(folder, name, told["is_unit"], told["effort"], sha256, tuple(told["parts"]))


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
