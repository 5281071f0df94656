"""Lists of unequal length, one per user or item, as flat numpy arrays: what every channel takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ragged:
    """`len(self)` lists: list b is values[starts[b]:starts[b + 1]], with its weights beside it where the lists carry any.

    starts: int64[num + 1], from 0. values: int32[total], idx of users or items. weights: float[total] or None.
    """

    starts: I64
    values: I32
    weights: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> I64:
        """int64[num]."""
        return np.diff(self.starts)

    @property
    def rows(self) -> I64:
        """int64[total]: the list that each value stands in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @property
    def places(self) -> I64:
        """int64[total]: the position of each value in its list, from 0."""
        return np.arange(len(self.values), dtype=np.int64) - np.repeat(self.starts[:-1], self.lengths)

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Self:
        """From Python lists: for tests and small things."""
        flat = np.asarray([value for one in lists for value in one], dtype=np.int32)
        flat_weights = None if weights is None else np.asarray([w for one in weights for w in one], dtype=np.float32)
        return cls(_starts(np.asarray([len(one) for one in lists], dtype=np.int64)), flat, flat_weights)

    @classmethod
    def empty(cls, num: int) -> Self:
        """`num` empty lists."""
        return cls(np.zeros(num + 1, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))

    @classmethod
    def from_arrow(cls, lists: pa.Array | pa.ChunkedArray, weights: pa.Array | pa.ChunkedArray | None = None) -> Self:
        """From list columns; a null list is an empty one. The lists of `weights` are as long as those of `lists`."""
        lengths = pc.fill_null(pc.list_value_length(lists), 0)
        values = _numpy(pc.list_flatten(lists)).astype(np.int32, copy=False)
        flat_weights = None if weights is None else _numpy(pc.list_flatten(weights))
        return cls(_starts(_numpy(lengths).astype(np.int64)), values, flat_weights)

    @classmethod
    def grouped(cls, rows: I64, values: I32, weights: npt.NDArray[Any] | None, num: int) -> Self:
        """From entries whose `rows` do not decrease."""
        return cls(np.searchsorted(rows, np.arange(num + 1)), values, weights)

    def take(self, ids: npt.NDArray[Any]) -> "Ragged":
        """The lists of these ids, one each, in this order; an id that has none here gives an empty list."""
        known = (ids >= 0) & (ids < len(self))
        safe = np.where(known, ids, 0)
        lengths = np.where(known, self.lengths[safe], 0) if len(self) else np.zeros(len(ids), dtype=np.int64)
        where = ranges(self.starts[safe], lengths)
        return Ragged(_starts(lengths), self.values[where], None if self.weights is None else self.weights[where])

    def first(self, num: int | I64) -> "Ragged":
        """At most the first `num` values of each list."""
        keep = self.places < (num if isinstance(num, int) else np.repeat(num, self.lengths))
        return self.where(keep)

    def where(self, keep: Bools) -> "Ragged":
        """The values that `keep`, bool[total], marks; order stays."""
        weights = None if self.weights is None else self.weights[keep]
        return Ragged(_starts(np.bincount(self.rows[keep], minlength=len(self))), self.values[keep], weights)

    def weighted(self, weights: npt.NDArray[Any]) -> "Ragged":
        """The same lists with other weights."""
        assert weights.shape == self.values.shape
        return Ragged(self.starts, self.values, weights)

    def part(self, start: int, stop: int) -> "Ragged":
        """Lists start..stop-1."""
        low, high = self.starts[start], self.starts[stop]
        weights = None if self.weights is None else self.weights[low:high]
        return Ragged(self.starts[start : stop + 1] - low, self.values[low:high], weights)

    def to_arrow(self) -> pa.Array:
        """list<int32>[num] of the values."""
        return pa.ListArray.from_arrays(self.starts.astype(np.int32), pa.array(self.values, pa.int32()))

    def weights_to_arrow(self) -> pa.Array:
        """list<float32>[num] of the weights."""
        assert self.weights is not None
        return pa.ListArray.from_arrays(self.starts.astype(np.int32), pa.array(self.weights.astype(np.float32), pa.float32()))


def concatenate(blocks: Sequence[Ragged]) -> Ragged:
    """The lists of all blocks, one block after the other; at least one block."""
    weights = None if blocks[0].weights is None else np.concatenate([b.weights for b in blocks if b.weights is not None])
    lengths = np.concatenate([block.lengths for block in blocks])
    return Ragged(_starts(lengths), np.concatenate([block.values for block in blocks]), weights)


def last_distinct(lists: Ragged, num: int | None = None) -> Ragged:
    """The last `num` distinct values of each list (all if None), newest first; a repeated value stands where it was last."""
    rows, total = lists.rows, len(lists.values)
    backwards = keys(rows, lists.values)[::-1]
    _, first = np.unique(backwards, return_index=True)
    places = np.sort(total - 1 - first)[::-1]  # newest of the last list first
    places = places[np.argsort(rows[places], kind="stable")]
    distinct = Ragged.grouped(rows[places], lists.values[places], None, len(lists))
    return distinct if num is None else distinct.first(num)


def sorted_distinct(lists: Ragged) -> Ragged:
    """The distinct values of each list, ascending."""
    unique = np.unique(keys(lists.rows, lists.values))
    rows, values = unique >> 32, (unique & 0xFFFFFFFF).astype(np.int32)
    return Ragged.grouped(rows, values, None, len(lists))


def contains(lists: Ragged, rows: I64, values: I32) -> Bools:
    """bool[n]: whether values[i] stands in list rows[i]; every list ascending."""
    known, asked = keys(lists.rows, lists.values), keys(rows, values)
    if not len(known):
        return np.zeros(len(asked), dtype=np.bool_)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    found: Bools = known[at] == asked
    return found


def without(lists: Ragged, drop: Ragged) -> Ragged:
    """The lists less the values of `drop`, list by list; the lists of both distinct and ascending."""
    have, gone = keys(lists.rows, lists.values), keys(drop.rows, drop.values)
    if not len(have):
        return lists
    at = np.minimum(np.searchsorted(have, gone), len(have) - 1)  # few are dropped: they are looked up among the many
    keep = np.ones(len(have), dtype=np.bool_)
    keep[at[have[at] == gone]] = False
    return lists.where(keep)


def aggregate(rows: I64, values: I32, weights: F64, num: int, *, agg: str) -> Ragged:
    """One list per row with each value once, ascending, its weights added up (agg sum) or the largest of them (agg max).

    Entries of one (row, value) add up in the order they come in, so a row's result does not depend on the rows beside it.
    """
    by = keys(rows, values)
    order = np.argsort(by, kind="stable")
    by = by[order]
    starts = np.flatnonzero(np.r_[True, by[1:] != by[:-1]]) if len(by) else np.empty(0, dtype=np.int64)
    reduce = np.add.reduceat if agg == "sum" else np.maximum.reduceat
    total = reduce(weights[order], starts) if len(starts) else np.empty(0, dtype=np.float64)
    return Ragged.grouped(rows[order][starts], values[order][starts], total, num)


def best_first(lists: Ragged, top: int | I64 | None = None) -> Ragged:
    """Each list ordered by weight rounded to float32, largest first, ties by smaller value; its first `top`."""
    assert lists.weights is not None
    order = (falling(lists.weights) << np.uint64(32)) | lists.values.astype(np.uint64)
    for start, stop in pairwise(lists.starts.tolist()):
        order[start:stop].sort()  # list by list: shorter sorts, and of plain numbers numpy sorts several at a time
    ordered = Ragged(lists.starts, order.astype(np.uint32).view(np.int32), scores_of(order >> np.uint64(32)))
    return ordered if top is None else ordered.first(top)


def order_by_weight(lists: Ragged) -> I64:
    """int64[total]: places of the entries, list by list, each by weight rounded to float32, largest first, else as they stand."""
    assert lists.weights is not None
    return np.argsort((lists.rows << 32) + falling(lists.weights).astype(np.int64), kind="stable")


def falling(weights: npt.NDArray[Any]) -> U64:
    """uint64[n] below 2^32 that fall as the weights, rounded to float32, rise: integers that sort as the floats do."""
    bits = (weights.astype(np.float32) + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return (0x7FFFFFFF - rising).astype(np.uint64)


def scores_of(numbers: U64) -> F32:
    """float32[n]: the weights that `falling` made these numbers of."""
    rising = (0x7FFFFFFF - numbers.astype(np.int64)).astype(np.int32)
    return np.where(rising < 0, rising ^ np.int32(0x7FFFFFFF), rising).view(np.float32)


def keys(rows: I64, values: npt.NDArray[Any]) -> I64:
    """int64[n]: one sortable number for a (row, value), value in 0..2^31-1."""
    return (rows.astype(np.int64) << 32) | values.astype(np.int64)


def ranges(starts: I64, lengths: I64) -> I64:
    """starts[0] .. starts[0] + lengths[0] - 1, then the same for 1, 2, ..."""
    offsets = np.cumsum(lengths) - lengths
    firsts: I64 = np.repeat(starts - offsets, lengths)
    return firsts + np.arange(len(firsts), dtype=np.int64)


def _starts(lengths: I64) -> I64:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _numpy(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    found: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found
