"""Search of exhaustive and IVF indexes for a whole block of queries: list by list, one matrix product each, above a running threshold.

FAISS answers query by query; a batch job knows all its queries, so those that look into a list are compared with it together. The idea
is that of faiss.contrib.big_batch_search, which sorts the best of each list into a heap; here most scores are only looked at.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  the products of compiled functions: to be loaded before threads are counted
from threadpoolctl import ThreadpoolController

from retrieval.index_parts import Parts, flat_vectors
from retrieval.kernels.running_best import STRIDE, offer, settle, start, tile
from retrieval.ragged import F32, I64

_NEAR = 2  # times the rows wanted: so many of a query's nearest rows it meets first, that its threshold be high for the rest


class BlockSearch:
    """Flat or IVF searchers of consecutive rows, read where FAISS keeps their vectors: nothing may be added to them any more."""

    def __init__(self, searchers: Sequence[Any]) -> None:
        starts = np.cumsum([0, *(searcher.ntotal for searcher in searchers)]).tolist()
        self._ivf = searchers[0] if isinstance(searchers[0], faiss.IndexIVF) else None  # parts share their centres
        self._rows = starts[-1]
        self._lists: list[list[tuple[F32, I64]]] = [
            [_stored(searcher, number, first) for searcher, first in zip(searchers, starts, strict=False)]
            for number in range(self._ivf.nlist if self._ivf is not None else 1)
        ]

    def search(self, queries: F32, wanted: I64, slack: F32, size: int) -> tuple[I64, I64]:
        """(rows, counts): the first counts[q] of rows[q], modulo 2^32, hold every row that can be among the wanted[q] best of q.

        queries: float32[Q, D]. slack: float32[Q], at least twice what a float32 score may be off. size: at least the largest `wanted`,
        half as many more rows are held at a time. counts[q] is -1 where more rows tie than can be held.
        """
        best = start(wanted, slack, size + size // 2 + 2 * STRIDE)
        probed = self._probed(queries)
        near = 1 + int(_NEAR * wanted.max(initial=0)) * len(self._lists) // max(self._rows, 1)

        def walk(part: slice) -> None:
            """The queries of this part through all lists that they look into."""
            own, room = best.of(part), tile(queries.shape[1])
            for lists in (probed[part, :near], probed[part, near:]):
                for which, number in _grouped(lists, len(self._lists)):
                    for rows, ids in self._lists[number]:
                        offer(queries[part], which, rows, ids, own, room)
            settle(own, room)

        in_threads(len(queries), walk)
        return best.keys, best.counts

    def _probed(self, queries: F32) -> I64:
        """int64[Q, P]: the lists that each query looks into, nearest first, -1 where there are fewer."""
        if self._ivf is None:
            return np.zeros((len(queries), 1), dtype=np.int64)
        lists: I64 = self._ivf.quantizer.search(queries, min(self._ivf.nprobe, self._ivf.nlist))[1]
        return lists


def block_search(searcher: Any) -> BlockSearch | None:
    """The search over blocks of what this searcher holds; None for a kind that only FAISS can search."""
    parts = searcher.searchers if isinstance(searcher, Parts) else [searcher]
    kinds = {type(part) for part in parts}
    return BlockSearch(parts) if kinds <= {faiss.IndexFlat, faiss.IndexFlatIP} or kinds == {faiss.IndexIVFFlat} else None


def in_threads(num: int, work: Callable[[slice], None]) -> None:
    """Do the work on slices of 0..num-1 at the same time, in as many threads as FAISS is given; a product in one of them takes no more."""
    threads = min(faiss.omp_get_max_threads(), num)
    bounds = np.linspace(0, num, max(threads, 1) + 1).astype(int).tolist()
    parts = [slice(low, high) for low, high in pairwise(bounds)]
    with _blas().limit(limits=1, user_api="blas"):
        if len(parts) == 1:
            work(parts[0])
            return
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(work, parts))


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _stored(searcher: Any, number: int, first: int) -> tuple[F32, I64]:
    """(float32[n, D], int64[n]): the vectors of a list, not copied, and their rows in the whole index, which begins at `first` here."""
    if not isinstance(searcher, faiss.IndexIVF):
        return flat_vectors(searcher), np.arange(first, first + searcher.ntotal)
    stored: Any = searcher.invlists
    num, width = stored.list_size(number), searcher.d
    if not num:
        return np.empty((0, width), dtype=np.float32), np.empty(0, dtype=np.int64)
    codes = faiss.rev_swig_ptr(stored.get_codes(number), num * 4 * width)
    return codes.view(np.float32).reshape(num, width), faiss.rev_swig_ptr(stored.get_ids(number), num) + first


def _grouped(probed: I64, num_lists: int) -> Iterator[tuple[I64, int]]:
    """(queries, list): of each list that is looked into the queries that do, ascending."""
    flat = probed.astype(np.min_scalar_type(num_lists)).ravel()  # narrow: numpy sorts them by counting; -1 becomes a list that is none
    order = np.argsort(flat, kind="stable")
    limits = np.searchsorted(flat[order], np.arange(num_lists + 1))
    for number in np.flatnonzero(np.diff(limits)).tolist():
        yield order[limits[number] : limits[number + 1]] // probed.shape[1], number
