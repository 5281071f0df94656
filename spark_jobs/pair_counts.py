"""Pairs of items counted by compiled kernels: what counts as meeting, which pairs stay, and the rows of one block of items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.compiled import I32, I64
from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID
from conf.files import open_root
from conf.tables import TABLES
from spark_jobs.baskets import Baskets, Block
from spark_jobs.kernels.cooccurrence import Counting as How
from spark_jobs.kernels.cooccurrence import Known, Walk, count_items, rooms, sessions_of
from spark_jobs.kernels.strongest import Keeps
from spark_jobs.task_files import arrow_schema

Counting = Literal["set", "multiset", "window"]

COOC, COOC_PAIRS = TABLES["cooc"], TABLES["cooc_pairs"]
COUNTERS = ("pairs", "meetings", "pairs_below_min_count", "pairs_of_other_category", "items_with_neighbours", "rows_beyond_top")
PAIRS_A_PART = 4_000_000  # bounds what a task holds of table cooc_pairs: 12 bytes each
ANY = 2**62


@dataclass(frozen=True)
class Rule:
    """What counts as meeting.

    set: a session counts once for each two different items in it. multiset: n_i * n_j times. window: once if they are clicked within
    `window` positions of each other. Sessions of more than `max_session_items` distinct items are cut into chunks of that many, in
    order of first click (set and multiset; a window needs no bound).
    max_dt_s: only clicks at most so many seconds apart count, a session once for each two items, or each two clicks if multiset.
    """

    counting: Counting
    window: int
    max_session_items: int
    max_dt_s: int | None = None


@dataclass(frozen=True)
class Keeping:
    """Which pairs stay, and what they weigh: those that met min_count times; of each item the `top`; weight = count * (1 + beta * same)."""

    min_count: int
    top: int
    beta: float
    drop_other: bool


@dataclass(frozen=True)
class Categories:
    """What is known of item i: values[starts[i]:starts[i + 1]], real ids only: unknown never equals unknown."""

    starts: I64
    values: I32


@dataclass(frozen=True)
class Since:
    """Counts of an earlier day, and the sessions in them that are gone. day: which, to name it."""

    known: Known
    gone: Baskets
    day: str


@dataclass(frozen=True)
class Part:
    """Rows of `cooc` of some items of a block, all their pairs (empty unless asked for), and what `COUNTERS` counts of them."""

    rows: pa.RecordBatch
    pairs: pa.RecordBatch
    counts: dict[str, int]


def categories_of(uris: Sequence[str], name: str | None, *, num_items: int) -> Categories:
    """One field of item_feat, an id or a list of ids; of no field, nothing is known."""
    if name is None:
        return Categories(np.zeros(num_items + 2, np.int64), np.empty(0, np.int32))
    idx, values = [], []
    for uri in uris:
        filesystem, path = open_root(uri)
        with filesystem.open_input_file(path) as handle:
            table = pq.ParquetFile(handle).read(columns=["idx", name], use_threads=False).combine_chunks()
        column, at = table[name].combine_chunks(), table["idx"].to_numpy()
        if pa.types.is_list(column.type):
            at, column = np.repeat(at, np.diff(column.offsets.to_numpy())), column.flatten()
        known = column.to_numpy() >= FIRST_ID
        idx.append(at[known])
        values.append(column.to_numpy()[known])
    item, value = np.concatenate(idx), np.concatenate(values)
    starts = np.concatenate(([0], np.cumsum(np.bincount(item, minlength=num_items + 1))))
    return Categories(starts, value[np.argsort(item, kind="stable")])


def known(starts: I64, item: I32, times: I32) -> Known:
    """Counts of before, as they lie in Arrow's memory."""
    item, times = item.view(), times.view()
    # Kernels are compiled for each kind of array: arrays of Arrow cannot be written to, so none of these can.
    item.flags.writeable = times.flags.writeable = False
    return Known(starts, item, times)


def count_pairs(
    found: Baskets,
    block: Block,
    rule: Rule,
    keeping: Keeping,
    categories: Categories,
    *,
    since: Since | None = None,
    all_pairs: bool = False,
    pairs_a_part: int = PAIRS_A_PART,
) -> Iterator[Part]:
    """The rows of cooc, and of cooc_pairs with all_pairs, for the items of the block, in one part or in parts of bounded size.

    Counted are the sessions of `found`; with `since` they are added to those counts, and the sessions that are gone are taken away.

    Raises:
        BadDataError: more meetings are gone than were counted before, so these counts are not of those sessions.
    """
    walk, how = _walk(found, block), _how(rule)
    nothing = np.empty(0, np.int32)
    before = since.known if since else known(np.zeros(len(walk.starts), np.int64), nothing, nothing)
    gone = _walk(since.gone if since else _nothing(), block)
    keeps = Keeps(
        categories.starts, categories.values, float(keeping.beta), bool(keeping.drop_other), int(keeping.min_count), int(keeping.top)
    )
    room = rooms(walk, how, before, block.num_items)
    parts = np.cumsum(room) // pairs_a_part if all_pairs else np.zeros(len(room), np.int64)
    edges = [*np.flatnonzero(np.diff(parts, prepend=-1)).tolist(), len(parts)]
    for first, last in pairwise(edges):
        mine = room[first:last]
        room_all = int(mine.sum()) if all_pairs else 0
        rows, *pairs, counts = count_items(
            first, last, int(np.minimum(mine, keeping.top).sum()), room_all, walk, gone, before, how, keeps,
            block.num_items, block.number, block.of,
        )  # fmt: skip
        if counts[-1]:
            fix = "run it again with --force, or this one with --set cooc.increment=false"
            raise BadDataError("table cooc_pairs", [Fault(f"the pairs of {since.day if since else ''} are not of its sessions", fix=fix)])
        named = dict(zip(COUNTERS, counts.tolist(), strict=False))
        yield Part(_batch(rows, arrow_schema(COOC)), _batch(pairs, arrow_schema(COOC_PAIRS)), named)


def _walk(found: Baskets, block: Block) -> Walk:
    by_item = sessions_of(found.item, found.ends, block.num_items, block.number, block.of)
    return Walk(found.item, found.times, found.ends, found.ts, *by_item)


def _how(rule: Rule) -> How:
    near = rule.counting == "window" or rule.max_dt_s is not None
    kind = (2 if near else 0) + (rule.counting == "multiset")
    return How(kind, rule.window if rule.counting == "window" else ANY, ANY if rule.max_dt_s is None else rule.max_dt_s)


def _nothing() -> Baskets:
    return Baskets(np.empty(0, np.int32), np.empty(0, np.int32), np.ones(1, np.int64), np.empty(0, np.int64), np.zeros(2, np.int64))


def _batch(columns: Sequence[object], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
