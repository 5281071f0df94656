"""The sessions that hold an item of one block, as plain arrays: what the counting of co-occurrence walks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.compiled import I32, I64
from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.tables import TRAIN
from spark_jobs.event_files import read_events
from spark_jobs.kernels.baskets import baskets
from spark_jobs.kernels.session_changes import in_both
from spark_jobs.session_cuts import Rule as Cuts
from spark_jobs.session_cuts import boundaries


@dataclass(frozen=True)
class Block:
    """The items of which item % of == number. num_items: of the catalogue, numbered from 1."""

    number: int
    of: int
    num_items: int


@dataclass(frozen=True)
class Baskets:
    """Sessions one after the other: item int32[n]; times int32[n], or the chunk of its session; ends int64; ts int64[n], or empty.

    lost: of all sessions, those that were cut into chunks, and (without times) the pairs between these.
    """

    item: I32
    times: I32
    ends: I64
    ts: I64
    lost: I64

    @classmethod
    def joined(cls, parts: Sequence["Baskets"]) -> "Baskets":
        """All of them as one."""
        item, times, ts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("item", "times", "ts"))
        before = np.cumsum([0, *(len(part.item) for part in parts)])
        ends = np.concatenate([part.ends + start for part, start in zip(parts, before, strict=False)])
        # One more, so that a walk over the items finds an end behind the last of them.
        return cls(item, times, np.append(ends, len(item) + 1), ts, np.sum([part.lost for part in parts], axis=0))


@dataclass(frozen=True)
class Changes:
    """Sessions of today that were not in the window of an earlier day, and those that no longer are; and how many, of all blocks."""

    new: Baskets
    gone: Baskets
    num_new: int
    num_gone: int


def of_sessions(uris: Sequence[str], block: Block, *, max_items: int) -> Baskets:
    """`distinct_items` of files of sessions."""
    return Baskets.joined([distinct_items(items, block, max_items=max_items) for uri in uris for items in _session_items(uri)])


def clicks_of_sessions(uris: Sequence[str], block: Block) -> Baskets:
    """`clicks` of files of sessions."""
    return Baskets.joined([clicks(items, block) for uri in uris for items in _session_items(uri)])


def changes_of_sessions(uris: Sequence[str], earlier: Sequence[str], block: Block, *, max_items: int | None) -> Changes:
    """What stands in the files of sessions of one day only, file by file; None = whole clicks, not distinct items."""
    both = [changed(_sessions(uri), _sessions(old)) for uri, old in zip(uris, earlier, strict=True)]

    def joined(side: int) -> Baskets:
        lists = [pair[side] for pair in both]
        return Baskets.joined([clicks(i, block) if max_items is None else distinct_items(i, block, max_items=max_items) for i in lists])

    return Changes(joined(0), joined(1), sum(len(new) for new, _ in both), sum(len(gone) for _, gone in both))


def changed(sessions: pa.Table, earlier: pa.Table) -> tuple[pa.ListArray, pa.ListArray]:
    """The items of those sessions that are not in `earlier`, and of those that are only there. Of whole rows but `session_no`."""
    columns = []
    for table in (sessions, earlier):
        items = table["items"].combine_chunks()
        starts = items.offsets.to_numpy().astype(np.int64) - items.offsets[0].as_py()
        columns.append((table["user_idx"].to_numpy(), table["start_ts"].to_numpy(), items.flatten().to_numpy(), starts))
    both = in_both(*columns[0], *columns[1])
    new, gone = (table["items"].combine_chunks().filter(pa.array(~same)) for table, same in zip((sessions, earlier), both, strict=True))
    return new, gone


def clicks_of_events(uris: Sequence[str], block: Block, cuts: Cuts, *, chunks_of: int | None) -> Baskets:
    """`timed_clicks` of files of events."""
    columns = ("user_idx", "ts", "item_idx", "split", "session_key")
    return Baskets.joined([timed_clicks(read_events(uri, columns), block, cuts, chunks_of=chunks_of) for uri in uris])


def distinct_items(items: pa.ListArray, block: Block, *, max_items: int) -> Baskets:
    """The distinct items of sessions, cut into chunks of max_items, with the times that each was clicked."""
    flat, offsets = items.flatten().to_numpy(), items.offsets.to_numpy() - items.offsets[0].as_py()
    _check(flat, block)
    item, times, ends, lost = baskets(flat, offsets, block.num_items, max_items, block.number, block.of)
    return Baskets(item, times, ends, np.empty(0, np.int64), lost)


def clicks(items: pa.ListArray, block: Block) -> Baskets:
    """The clicks of sessions in order."""
    flat, sizes = items.flatten().to_numpy(), np.diff(items.offsets.to_numpy())
    _check(flat, block)
    return _near(flat, sizes, np.zeros(len(flat), np.int32), np.zeros(len(flat), np.int64), block, np.zeros(2, np.int64))


def timed_clicks(events: pa.Table, block: Block, cuts: Cuts, *, chunks_of: int | None) -> Baskets:
    """The train clicks of events with their times, cut into sessions, and these into the chunks of `distinct_items` for chunks_of.

    Each chunk is a session of its own here: in one of 20,000 items every click would look at all others to find those of its chunk.
    """
    order, starts = boundaries(events, cuts)
    item, ts, split = (events[name].to_numpy() if order is None else events[name].to_numpy()[order] for name in ("item_idx", "ts", "split"))
    _check(item, block)
    train = split == TRAIN
    sizes = np.add.reduceat(train, starts, dtype=np.int64) if len(starts) else starts
    item, ts = item[train], ts[train]
    session = np.repeat(np.arange(len(sizes)), sizes)
    chunk = _chunks(session, item, chunks_of) if chunks_of else np.zeros(len(item), np.int32)
    lost = np.array([len(np.unique(session[chunk > 0])), 0])
    if lost[0]:
        together = np.lexsort((chunk, session))
        item, ts, chunk = item[together], ts[together], chunk[together]
        starts = np.flatnonzero(np.diff(session[together] << 32 | chunk, prepend=-1))
        sizes = np.diff(starts, append=len(item))
    return _near(item, sizes[sizes > 0], chunk, ts, block, lost)


def _near(item: I32, sizes: I64, chunk: I32, ts: I64, block: Block, lost: I64) -> Baskets:
    """Sessions of more than one click, of which one is on an item of the block."""
    starts = np.cumsum(sizes) - sizes
    wanted = np.logical_or.reduceat(item % block.of == block.number, starts) & (sizes > 1) if len(starts) else starts > 0
    rows = np.repeat(wanted, sizes)
    return Baskets(item[rows], chunk[rows], np.cumsum(sizes[wanted]), ts[rows], lost)


def _chunks(session: I64, item: I32, max_items: int) -> I32:
    """Of each click the chunk of its session that its item belongs to."""
    _, first, inverse = np.unique(session << 32 | item, return_index=True, return_inverse=True)
    by_first_click = np.argsort(first)
    of_item = session[first[by_first_click]]
    place = np.empty(len(first), dtype=np.int32)
    place[by_first_click] = (np.arange(len(first)) - np.searchsorted(of_item, of_item)) // max_items
    return place[inverse]


def _session_items(uri: str) -> Iterator[pa.ListArray]:
    filesystem, path = open_root(uri)
    with filesystem.open_input_file(path) as handle:
        file = pq.ParquetFile(handle)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["items"], use_threads=False)["items"].combine_chunks()


def _sessions(uri: str) -> pa.Table:
    filesystem, path = open_root(uri)
    with filesystem.open_input_file(path) as handle:
        return pq.ParquetFile(handle).read(columns=["user_idx", "start_ts", "items"], use_threads=False).combine_chunks()


def _check(item: I32, block: Block) -> None:
    # A compiled kernel does not look where it writes.
    if len(item) and not 0 < item.min() <= item.max() <= block.num_items:
        found = f"{item.min()} to {item.max()}, item_feat has {block.num_items} rows"
        fault = Fault("item_idx is not a row number of item_feat", found, "made from other tables: run trichannel events --force")
        raise BadDataError("table sessions", [fault])
