"""Which train row stands where in an epoch: a pure function of (seed, epoch), the same for any number of workers.

Row groups are put in a random order, the train rows inside each too, and the result, read as one long row of rows, is cut into `streams`
equal contiguous streams. A global batch takes batch / streams rows from each stream, in stream order; a rank owns a contiguous block of
streams. So 1, 2 and 3 workers see the same global batches, and every rank has the same number of steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf import draws
from conf.tables import TRAIN

Rows = npt.NDArray[np.int64]

_GROUPS, _ROWS = 101, 102  # words that keep the two kinds of permutation apart


class Cut(Protocol):
    """A file that does not hold rows, but what they are cut from."""

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Row group `index`."""


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file: the unit that is decoded.

    file: path or URI. index: its place in the file. number: its place in the table, which keys its permutation. rows: its rows.
    train: how many of them are trained on, those of the splits `trained`. cut: what the rows are cut from; None = they stand in the file.
    """

    file: str
    index: int
    number: int
    rows: int
    train: int
    trained: tuple[int, ...] = (TRAIN,)
    cut: Cut | None = None


@dataclass(frozen=True)
class Piece:
    """Train rows start..stop (in permuted order) of a row group: what one stream reads of it."""

    group: RowGroup
    start: int
    stop: int


@dataclass(frozen=True)
class Epoch:
    """One pass over the train rows.

    streams: pieces of each stream. steps: global batches. dropped: rows left over at the ends of streams, too few for a batch.
    """

    number: int
    streams: tuple[tuple[Piece, ...], ...]
    steps: int
    dropped: int


def plan_epoch(groups: Sequence[RowGroup], *, seed: int, epoch: int, streams: int, batch: int) -> Epoch:
    """The epoch's streams; lengths of streams differ by one row at most."""
    order = draws.permutation(len(groups), seed, _GROUPS, epoch)
    total = sum(group.train for group in groups)
    bounds = [total * s // streams for s in range(streams + 1)]
    cut: list[list[Piece]] = [[] for _ in range(streams)]
    position = 0
    for group in (groups[i] for i in order):
        for s in range(streams):
            start, stop = max(bounds[s], position), min(bounds[s + 1], position + group.train)
            if start < stop:
                cut[s].append(Piece(group, start - position, stop - position))
        position += group.train
    per_step = batch // streams
    steps = min(bounds[s + 1] - bounds[s] for s in range(streams)) // per_step
    return Epoch(epoch, tuple(tuple(pieces) for pieces in cut), steps, total - steps * batch)


def skip_rows(pieces: Sequence[Piece], rows: int) -> Iterator[Piece]:
    """The pieces without their first `rows` rows: row groups that hold nothing else are not even decoded."""
    for piece in pieces:
        size = piece.stop - piece.start
        if rows >= size:
            rows -= size
            continue
        yield Piece(piece.group, piece.start + rows, piece.stop)
        rows = 0


def rows_of(piece: Piece, split: npt.NDArray[np.int8], *, seed: int, epoch: int) -> Rows:
    """int64: places in the row group of the piece's rows, in order. split: the group's split column."""
    train = np.flatnonzero(np.isin(split, piece.group.trained))
    assert len(train) == piece.group.train, f"{piece.group.file}: {len(train)} train rows, the survey counted {piece.group.train}"
    order = draws.permutation(len(train), seed, _ROWS, epoch, piece.group.number)
    return np.asarray(train[order[piece.start : piece.stop]], dtype=np.int64)
