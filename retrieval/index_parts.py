"""An index in parts: searchers over consecutive rows searched as one, and their vectors read as one array.

Parts are opened by mapping their files into memory, so a Python worker needs room for what it reads, not for all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from retrieval.ragged import F32, I64


class Parts:
    """What `VectorIndex` asks of a searcher, answered by several: part p holds the rows from starts[p] to starts[p + 1]."""

    def __init__(self, searchers: Sequence[Any]) -> None:
        self.searchers = list(searchers)
        self.starts = np.cumsum([0, *(searcher.ntotal for searcher in self.searchers)])

    def search(self, queries: F32, size: int) -> tuple[F32, I64]:
        """(scores, rows), both [Q, size]: each query's best rows over all parts, best first, ties by smaller row; -1 where none is left."""
        scores, rows = np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        for searcher, start in zip(self.searchers, self.starts.tolist(), strict=False):
            more, found = searcher.search(queries, min(size, searcher.ntotal))
            missing = found < 0
            scores = np.concatenate([scores, np.where(missing, -np.inf, more).astype(np.float32)], axis=1)
            rows = np.concatenate([rows, np.where(missing, -1, found + start)], axis=1)
            # rows of a later part are larger, so that a stable sort leaves ties in their order
            best = np.argsort(-scores, axis=1, kind="stable")[:, :size]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        return scores, rows


class StackedRows:
    """Arrays of rows behind one another, read by row number as if they were one; only the rows that are asked for are copied.

    change: what is done to the rows on the way out.
    """

    def __init__(self, parts: Sequence[F32], change: Callable[[F32], F32] | None = None) -> None:
        self.parts = list(parts)
        self._change = change
        self._starts = [0, *np.cumsum([len(part) for part in self.parts]).tolist()]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """As of the one array: rows, and the width of a row."""
        return len(self), self.parts[0].shape[1]

    def __getitem__(self, rows: npt.NDArray[np.integer[Any]]) -> F32:
        """float32[..., D]: the rows of these numbers, an array of any shape."""
        flat = rows.ravel()
        which = np.searchsorted(self._starts, flat, side="right") - 1
        result = np.empty((len(flat), self.shape[1]), dtype=np.float32)
        for number in np.unique(which).tolist():
            here = which == number
            result[here] = self.parts[number][flat[here] - self._starts[number]]
        return (result if self._change is None else self._change(result)).reshape(*rows.shape, self.shape[1])

    def changed(self, change: Callable[[F32], F32]) -> "StackedRows":
        """The same rows, `change` done to them on the way out."""
        return StackedRows(self.parts, change)


Rows = F32 | StackedRows


def blocks(rows: Rows) -> Iterator[F32]:
    """The arrays that the rows are stored in, one after the other."""
    yield from rows.parts if isinstance(rows, StackedRows) else [rows]


def flat_vectors(searcher: Any) -> F32:
    """float32[n, D]: the vectors inside a flat index, not copied; they live as long as the index."""
    rows: F32 = faiss.rev_swig_ptr(searcher.get_xb(), searcher.ntotal * searcher.d).reshape(searcher.ntotal, searcher.d)
    return rows
