"""What a channel may read: its block of users, and the day's tables, each loaded once in a Python worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conf.fields import FIRST_ID
from retrieval import worker
from retrieval.ragged import F32, I32, I64, Ragged, last_distinct, sorted_distinct
from retrieval.vector_index import IndexFiles, VectorIndex

KEY_TYPES: Final = {"string": "string", "int64": "bigint"}  # of business keys: ours -> Spark's


@dataclass(frozen=True)
class Users:
    """A block of B users.

    idx: int32[B]. vectors: float32[B, K, D], encoder space. history: their clicks, oldest first. seen: items never to recommend
    to them, distinct, ascending. neighbours: similar training users, nearest first, weighted by similarity. joint: float32[B, K, D],
    the vectors in the joint space, where U2I searches; None = it searches encoder space.
    """

    idx: I32
    vectors: F32
    history: Ragged
    seen: Ragged
    neighbours: Ragged
    joint: F32 | None = None

    def __len__(self) -> int:
        return len(self.idx)

    def part(self, start: int, stop: int) -> "Users":
        """Users start .. stop - 1 of the block, or to its end."""
        stop = min(stop, len(self))
        lists = {name: getattr(self, name).part(start, stop) for name in ("history", "seen", "neighbours")}
        joint = None if self.joint is None else self.joint[start:stop]
        return Users(self.idx[start:stop], self.vectors[start:stop], **lists, joint=joint)


class World(Protocol):
    """The day's tables as arrays. Lists are keyed by idx; an idx without a list has none."""

    @property
    def items(self) -> VectorIndex:
        """The items that may be recommended; no channel returns another."""

    @property
    def u2i_items(self) -> VectorIndex:
        """The same items, by their vectors in the space that U2I searches."""

    @property
    def new_items(self) -> VectorIndex:
        """Those of them without a train click."""

    @property
    def similar_items(self) -> Ragged:
        """For each item its nearest items, weighted by cosine."""

    @property
    def met_items(self) -> Ragged:
        """For each item the items met in sessions, weighted as in `cooc`."""

    @property
    def profiles(self) -> Ragged:
        """For each training user the last distinct train items, newest first."""

    @property
    def clicks(self) -> I64:
        """Train clicks of each item_idx."""

    @property
    def popular(self) -> I32:
        """The clicked items that may be recommended, most clicked first, ties by smaller item_idx."""


@dataclass(frozen=True)
class StoredWorld:
    """A `World` read from files of the storage, each table when first asked for: one Python worker of a machine reads it, all map its lists
    into their memory. Small: it travels to the executors.

    u2i: the index of `u2i_items`; None = `index`. Other fields are Parquet files, as paths or URIs. profile: distinct items of a
    profile. item_key_type: string or int64. item_feat, category_field: where the categories of items come from; () and None = they have
    none.
    """

    index: IndexFiles
    neighbours_item: tuple[str, ...]
    cooc: tuple[str, ...]
    user_state: tuple[str, ...]
    item_index: tuple[str, ...]
    profile: int
    item_key_type: str = "string"
    item_feat: tuple[str, ...] = ()
    category_field: str | None = None
    u2i: IndexFiles | None = None

    def held(self) -> "StoredWorld":
        """The one copy in this process of an equal world, with whatever it has loaded."""
        return worker.once("world", self, lambda: self)

    @property
    def items(self) -> VectorIndex:
        """See `World`; loaded once, whatever the world."""
        return self.index.held()

    @property
    def u2i_items(self) -> VectorIndex:
        """See `World`."""
        return (self.u2i or self.index).held()

    @cached_property
    def new_items(self) -> VectorIndex:
        """See `World`."""
        return unclicked(self.clicks, self.items)

    @cached_property
    def similar_items(self) -> Ragged:
        """See `World`: from neighbours_item."""

        def read() -> Ragged:
            """The table's lists by item."""
            table = worker.read_columns(self.neighbours_item, ["idx", "neighbours", "similarities"])
            return keyed(table["idx"].to_numpy(), Ragged.from_arrow(table["neighbours"], table["similarities"]))

        return lists_of(worker.mapped(("similar items", self.neighbours_item), lambda: arrays_of(read())))

    @cached_property
    def met_items(self) -> Ragged:
        """See `World`: from cooc."""

        def read() -> Ragged:
            """The table's pairs by item."""
            table = worker.read_columns(self.cooc, ["item_i", "item_j", "weight"])
            item_i, item_j, weight = (table[name].to_numpy() for name in ("item_i", "item_j", "weight"))
            order = np.lexsort((item_j, item_i))
            num = int(item_i.max()) + 1 if len(item_i) else 0
            return Ragged.grouped(item_i[order].astype(np.int64), item_j[order], weight[order], num)

        return lists_of(worker.mapped(("met items", self.cooc), lambda: arrays_of(read())))

    @cached_property
    def _train(self) -> Mapping[str, npt.NDArray[Any]]:
        """Profiles and clicks."""

        def read() -> dict[str, npt.NDArray[Any]]:
            """From the rows of user_state that have train events."""
            table = worker.read_columns(self.user_state, ["user_idx", "items", "num_train"])
            table = table.filter(pc.greater(table["num_train"], 0))  # held-out users have context, and nothing of theirs may leak
            items = Ragged.from_arrow(table["items"])
            profiles = keyed(table["user_idx"].to_numpy(), last_distinct(items, self.profile))
            return {**arrays_of(profiles), "clicks": np.bincount(items.values).astype(np.int64)}

        return worker.mapped(("profiles", self.user_state, self.profile), read)

    @cached_property
    def profiles(self) -> Ragged:
        """See `World`."""
        return Ragged(self._train["starts"], self._train["values"])

    @cached_property
    def clicks(self) -> I64:
        """See `World`: counted in user_state, up to the largest item_idx of the index at least."""
        counted: I64 = self._train["clicks"]
        return np.pad(counted, (0, max(0, int(self.items.ids[-1]) + 1 - len(counted))))

    @cached_property
    def popular(self) -> I32:
        """See `World`."""
        return most_clicked(self.clicks, self.items)

    @cached_property
    def categories(self) -> I32 | None:
        """int32[n]: the id of each item_idx in the category field, of a multi field the first one; -1 where none is known."""
        if self.category_field is None:
            return None
        table = worker.read_columns(self.item_feat, ["idx", self.category_field])
        idx, column = table["idx"].to_numpy(), table[self.category_field]
        if pa.types.is_list(column.type):
            lists = Ragged.from_arrow(column).first(1)
            ids = np.full(len(idx), -1, dtype=np.int32)
            ids[lists.rows] = lists.values
        else:
            ids = column.to_numpy().astype(np.int32)
        found = np.full(int(idx.max()) + 1, -1, dtype=np.int32)
        found[idx] = np.where(ids >= FIRST_ID, ids, -1)
        return found

    @cached_property
    def item_keys(self) -> pa.Array:
        """The business key of each item_idx, in the type it came with; null where there is none."""
        return business_keys(self.item_index, self.item_key_type)


def business_keys(files: Sequence[str], kind: str) -> pa.Array:
    """The key of each idx in files of user_index or item_index, in the type it came with (`KEY_TYPES`); null where there is none."""
    table = worker.read_columns(files, ["key", "idx"])
    idx = table["idx"].to_numpy()
    row_of = np.full(int(idx.max()) + 1, -1, dtype=np.int64)
    row_of[idx] = np.arange(len(idx))
    keys = table["key"].combine_chunks().cast(pa.type_for_alias(kind))
    return keys.take(pa.array(row_of, mask=row_of < 0))


def arrays_of(lists: Ragged) -> dict[str, npt.NDArray[Any]]:
    """The arrays that `lists_of` makes the same lists of."""
    weights = {} if lists.weights is None else {"weights": lists.weights}
    return {"starts": lists.starts, "values": lists.values, **weights}


def lists_of(arrays: Mapping[str, npt.NDArray[Any]]) -> Ragged:
    """The lists, not copied."""
    return Ragged(arrays["starts"], arrays["values"], arrays.get("weights"))


def keyed(idx: I32, lists: Ragged) -> Ragged:
    """Lists by idx: list idx[b] of the result is list b of `lists`; the others are empty."""
    place = np.full(int(idx.max()) + 1 if len(idx) else 0, -1, dtype=np.int64)
    place[idx] = np.arange(len(idx))
    return lists.take(place)


def most_clicked(clicks: I64, items: VectorIndex) -> I32:
    """int32[n]: the items of the index with a click, most clicked first, ties by smaller item_idx."""
    ids: I32 = items.ids[clicks[items.ids] > 0]
    order = np.lexsort((ids, -clicks[ids]))
    ordered: I32 = ids[order]
    return ordered


def unclicked(clicks: I64, items: VectorIndex) -> VectorIndex:
    """The items of the index without a click, in an exhaustive index of their own: a copy of their vectors."""
    rows = np.flatnonzero(clicks[items.ids] == 0)
    vectors = np.ascontiguousarray(items.vectors[rows], dtype=np.float32)
    searcher = faiss.IndexFlatIP(items.vectors.shape[1])
    searcher.add(vectors)
    return VectorIndex(searcher, items.ids[rows], vectors, items.is_unit)


def seen_items(history: Ragged, kind: str, *, last: int) -> Ragged:
    """What is never recommended: nothing (none), the last clicks the model was given (history), or every one (train_and_history)."""
    if kind == "none":
        return Ragged.empty(len(history))
    if kind == "train_and_history":
        return sorted_distinct(history)
    recent = history.where(history.places >= np.repeat(history.lengths - last, history.lengths))
    return sorted_distinct(recent)


def users_of(block: pa.RecordBatch, *, interests: int, seen: str, last: int) -> Users:
    """The users of a block with columns user_idx, items, vector (K vectors, one after the other); joint, neighbours and similarities
    where it has them.
    """

    def vectors(space: str) -> F32:
        flat: Any = block.column(space).flatten().to_numpy(zero_copy_only=False)
        found: F32 = flat.astype(np.float32, copy=False).reshape(block.num_rows, interests, -1)
        return found

    names, none = block.schema.names, Ragged.empty(block.num_rows)
    history = Ragged.from_arrow(block.column("items"))
    return Users(
        idx=block.column("user_idx").to_numpy(),
        vectors=vectors("vector"),
        history=history,
        seen=seen_items(history, seen, last=last),
        neighbours=Ragged.from_arrow(block.column("neighbours"), block.column("similarities")) if "neighbours" in names else none,
        joint=vectors("joint") if "joint" in names else None,
    )
