"""Lists of a block of users as rows of the two tables, under business keys, and what is counted of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from conf.compiled import U8
from retrieval.merge import Merged
from retrieval.ragged import I32, Bools, Ragged

CHANNEL_LISTS: Final = "channels array<struct<channel:string,items:array<int>,scores:array<float>>>"  # Spark's name of `lists_column`


@dataclass(frozen=True)
class Stamps:
    """What is the same in every row of `candidates`."""

    ds: str
    model_id: str
    run_id: str


@dataclass
class Tally:
    """What one task, or all of them, counted.

    users. fallback: those whose list comes from `popular` alone. items: in all merged lists. lists: of channels, with an item in it.
    lengths, empty: items and empty lists by channel. listed: uint8[], packed bits: whether each item_idx stands in any merged list.
    """

    users: int = 0
    fallback: int = 0
    items: int = 0
    lists: int = 0
    lengths: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    listed: U8 = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))

    def add(self, made: Mapping[str, Ragged], merged: Merged) -> None:
        """Count the lists of a block, but for `listed`."""
        self.users += len(merged.lists)
        self.fallback += int(merged.is_fallback.sum())
        self.items += len(merged.lists.values)
        for name, lists in made.items():
            empty = int((lists.lengths == 0).sum())
            self.lists += len(lists) - empty
            self.lengths[name] += len(lists.values)
            self.empty[name] += empty

    def mark(self, listed: Bools) -> None:
        """bool[n] by item_idx: in any list."""
        self.listed = _either(self.listed, np.packbits(listed))

    def update(self, other: "Tally", /) -> None:
        """Add what another task counted."""
        self.users += other.users
        self.fallback += other.fallback
        self.items += other.items
        self.lists += other.lists
        self.lengths.update(other.lengths)
        self.empty.update(other.empty)
        self.listed = _either(self.listed, other.listed)

    @property
    def num_listed(self) -> int:
        """Different items in the merged lists."""
        return int(np.unpackbits(self.listed).sum())


def _either(one: U8, other: U8) -> U8:
    short, long = sorted((one, other), key=len)
    both = long.copy()
    both[: len(short)] |= short
    return both


def lists_column(made: Mapping[str, Ragged], num: int) -> pa.Array:
    """list<struct<channel, items, scores>>[num]: of each user a struct for each channel, in their order."""
    rows = channel_rows(made, np.arange(num, dtype=np.int32))
    structs = pa.StructArray.from_arrays(
        [rows.column(name) for name in ("channel", "items", "scores")], names=["channel", "items", "scores"]
    )
    return pa.ListArray.from_arrays(pa.array(range(0, num * len(made) + 1, len(made)), pa.int32()), structs)


def channel_rows(made: Mapping[str, Ragged], user_idx: I32) -> pa.RecordBatch:
    """Rows of channel_candidates: user by user, of each one row a channel, empty lists included."""
    size, num = len(made), len(user_idx)
    lists = pa.concat_arrays([one.to_arrow() for one in made.values()])
    scores = pa.concat_arrays([one.weights_to_arrow() for one in made.values()])
    by_user = pa.array(np.arange(size * num).reshape(size, num).T.ravel())
    names = pa.array(list(made) * num, pa.string())
    columns = {
        "user_idx": pa.array(np.repeat(user_idx, size), pa.int32()),
        "channel": names,
        "items": lists.take(by_user),
        "scores": scores.take(by_user),
    }
    return pa.RecordBatch.from_pydict(columns)


def candidate_lists(merged: Merged, user_keys: pa.Array, item_keys: pa.Array, stamps: Stamps) -> pa.RecordBatch:
    """Rows of `candidates` in layout lists: one a user. item_keys: the key of each item_idx."""
    starts = pa.array(merged.lists.starts, pa.int32())
    columns = {
        "ds": _same(stamps.ds, len(user_keys)),
        "user_key": user_keys,
        "item_keys": pa.ListArray.from_arrays(starts, item_keys.take(pa.array(merged.lists.values))),
        "scores": merged.lists.weights_to_arrow(),
        "sources": merged.sources_to_arrow(),
        "is_fallback": pa.array(merged.is_fallback),
        "model_id": _same(stamps.model_id, len(user_keys)),
        "run_id": _same(stamps.run_id, len(user_keys)),
    }
    return pa.RecordBatch.from_pydict(columns)


def candidate_rows(merged: Merged, user_keys: pa.Array, item_keys: pa.Array, stamps: Stamps) -> pa.RecordBatch:
    """The same in layout rows: one a candidate, a user's in the order of their ranks."""
    lists = merged.lists
    assert lists.weights is not None
    columns = {
        "ds": _same(stamps.ds, len(lists.values)),
        "user_key": user_keys.take(pa.array(lists.rows)),
        "rank": pa.array(lists.places + 1, pa.int32()),
        "item_key": item_keys.take(pa.array(lists.values)),
        "score": pa.array(lists.weights, pa.float32()),
        "sources": merged.sources_to_arrow().flatten(),
        "is_fallback": pa.array(merged.is_fallback[lists.rows]),
        "model_id": _same(stamps.model_id, len(lists.values)),
        "run_id": _same(stamps.run_id, len(lists.values)),
    }
    return pa.RecordBatch.from_pydict(columns)


def _same(text: str, num: int) -> pa.Array:
    return pa.array(np.full(num, text, dtype=object), pa.string())


LAYOUTS: Final = {"lists": candidate_lists, "rows": candidate_rows}
