"""The best rows of many queries, found block by block: one matrix product, and only scores above a running threshold are kept."""

from typing import Any, NamedTuple

import numpy as np

from conf.compiled import F32, I32, I64, compiled

TILE_QUERIES, TILE_ROWS = 128, 1024  # scores of a tile, 512 kB, stay in the cache of a core
STRIDE = 32  # scores looked at together; most strides hold none above the threshold


class Best(NamedTuple):
    """What Q queries have found so far; a query keeps every row that can still be among its best.

    wanted: int64[Q], how many rows each wants. slack: float32[Q], twice what a score may be off: a row whose score is not below the
    last one wanted by more than that is kept. least: float32[Q], the score a row needs. keys: int64[Q, room], first counts[q] of them
    used, of (score, row): see `key_of`. counts: int64[Q], -1 where more rows would have to be kept than there is room for.
    """

    wanted: I64
    slack: F32
    least: F32
    keys: I64
    counts: I64

    def of(self, part: slice) -> "Best":
        """The same arrays, cut to some of the queries."""
        return Best(self.wanted[part], self.slack[part], self.least[part], self.keys[part], self.counts[part])


class Tile(NamedTuple):
    """Room to work in.

    queries: float32[TILE_QUERIES, D]. scores: float32[TILE_QUERIES * TILE_ROWS]. bits: the same as int32. bins: int32[512].
    one: float32[1].
    """

    queries: F32
    scores: F32
    bits: I32
    bins: I32
    one: F32


def start(wanted: I64, slack: F32, room: int) -> Best:
    """Nothing found yet; `room` at least wanted + 2 * STRIDE."""
    least, counts = np.full(len(wanted), -np.inf, dtype=np.float32), np.zeros(len(wanted), dtype=np.int64)
    return Best(wanted, slack, least, np.empty((len(wanted), room), dtype=np.int64), counts)


def tile(dim: int) -> Tile:
    """Room for one thread."""
    scores = np.empty(TILE_QUERIES * TILE_ROWS, dtype=np.float32)
    queries, bins, one = np.empty((TILE_QUERIES, dim), dtype=np.float32), np.empty(512, dtype=np.int32), np.empty(1, dtype=np.float32)
    return Tile(queries, scores, scores.view(np.int32), bins, one)


@compiled
def key_of(bits: int, row: int) -> int:
    """A number that sorts as (score, row) does, of the bits of a float32 score and a row below 2^31."""
    high: Any = np.int64(bits)
    key: int = ((high ^ ((high >> 63) & 0x7FFFFFFF)) << 32) | row
    return key


@compiled
def score_of(key: int, one: F32) -> float:
    """The score of a key; one: float32[1] to work in."""
    high = key >> 32
    one.view(np.int32)[0] = high ^ ((high >> 63) & 0x7FFFFFFF)
    score: float = one[0]
    return score


@compiled
def edge_of(keys: I64, wanted: int, bins: I32) -> int:
    """A key that at least `wanted` keys reach and few more do: by counts of scores in even steps, finer where many fall into one."""
    low = high = keys[0] >> 32
    for key in keys:
        low, high = min(low, key >> 32), max(high, key >> 32)
    while True:
        shift = 0
        while (high - low) >> shift >= len(bins):
            shift += 1
        bins[:] = 0
        for key in keys:
            place = ((key >> 32) - low) >> shift
            if 0 <= place < len(bins):
                bins[place] += 1
        last = len(bins) - 1
        while bins[last] < wanted:
            wanted -= bins[last]
            last -= 1
        low += last << shift
        if shift == 0 or bins[last] <= STRIDE:
            edge: int = low << 32
            return edge
        high = low + (1 << shift) - 1


@compiled
def tighten(q: int, best: Best, tile: Tile) -> None:
    """Raise the threshold of a query to what its kept rows allow, and drop those below."""
    keys, count = best.keys[q], best.counts[q]
    if count <= best.wanted[q]:
        return
    best.least[q] = score_of(edge_of(keys[:count], best.wanted[q], tile.bins), tile.one) - best.slack[q]
    tile.one[0] = best.least[q] if best.least[q] != 0 else np.float32(-0.0)  # which sorts before 0.0 and is as good
    least, kept = key_of(tile.one.view(np.int32)[0], 0), 0
    for i in range(count):
        key = keys[i]
        keys[kept] = key
        kept += key >= least
    best.counts[q] = kept


@compiled
def _collect(q: int, scores: F32, bits: I32, ids: I64, best: Best, tile: Tile) -> None:
    """Append to the keys of q the ids whose scores reach its threshold; bits: the scores as int32."""
    keys, least, at = best.keys[q], best.least[q], best.counts[q]
    for begin in range(0, len(scores), STRIDE):
        near = scores[begin : begin + STRIDE]  # slices: the compiler sees that no index is negative, and compares 16 at a time
        above = np.int32(0)
        for j in range(len(near)):
            above += np.int32(near[j] >= least)
        if above == 0:
            continue
        if at + STRIDE > len(keys):
            best.counts[q] = at
            tighten(q, best, tile)
            at, least = best.counts[q], best.least[q]
            if at + STRIDE > len(keys):
                best.counts[q] = -1
                return
        near_bits, near_ids = bits[begin : begin + STRIDE], ids[begin : begin + STRIDE]
        for j in range(len(near)):  # without a branch: which scores are above cannot be foreseen
            keys[at] = key_of(near_bits[j], near_ids[j])
            at += near[j] >= least
    best.counts[q] = at


@compiled
def offer(queries: F32, which: I64, rows: F32, ids: I64, best: Best, tile: Tile) -> None:
    """Compare the queries `which` with these rows, whose numbers are `ids`, and keep what may belong to their best.

    queries: float32[Q, D]. rows: float32[n, D]. ids: int64[n], below 2^31.
    """
    for first_row in range(0, len(rows), TILE_ROWS):
        some, numbers = rows[first_row : first_row + TILE_ROWS], ids[first_row : first_row + TILE_ROWS]
        num = len(some)
        for first in range(0, len(which), TILE_QUERIES):
            asking = which[first : first + TILE_QUERIES]
            for a, q in enumerate(asking):
                tile.queries[a] = queries[q]
            np.dot(tile.queries[: len(asking)], some.T, tile.scores[: len(asking) * num].reshape(len(asking), num))
            for a, q in enumerate(asking):
                if best.counts[q] >= 0:
                    place = slice(a * num, (a + 1) * num)
                    _collect(q, tile.scores[place], tile.bits[place], numbers, best, tile)


@compiled
def settle(best: Best, tile: Tile) -> None:
    """Drop what turned out not to belong."""
    for q in range(len(best.counts)):
        tighten(q, best, tile)
