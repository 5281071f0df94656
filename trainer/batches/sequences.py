"""Rows cut from blocks of a user's events: `samples` in layout sequences, read as if they stood there in layout windows.

The same rows in the same row groups and in the same order, but for the masks, which `conf.masks` gives again. A row group mixes the clicks
of a whole file, so a file is read once and kept: about 12 bytes a click in the memory of each worker.

For encoders with a loss at every position a row may stand for several clicks: its target and, in its history, the ones just before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf.draws import shuffle
from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.tables import TRAIN
from trainer.batches.columns import AGAIN

Array = npt.NDArray[Any]

_SHIFT = np.int64(2**32 - 1)  # the position in a sample_id


@dataclass(frozen=True)
class _Blocks:
    """b blocks with n targets in all, users in order, and r rows, each of which stands for one target or several on end.

    items: int32, context and targets of all blocks, without padding. first_item: int64[b], place of the first target in `items`.
    first_target: int64[b + 1], its number. ends: int64[r + 1], number of the first target behind each row, 0 first; None: a row a
    target. order: int32[r], the rows as they are read; those of a target each in the order of layout windows.
    """

    sample_id: Array
    items: Array
    first_item: Array
    first_target: Array
    ends: Array | None
    order: Array


class SequenceFile:
    """One file of blocks.

    Args:
        history: L, as the file was written. group_rows: rows of a row group of layout windows. clicks: targets that a row of the
            splits `trained` stands for, at most; L at most. A click of other splits is a row by itself.
    """

    def __init__(self, file: str, *, history: int, group_rows: int, clicks: int = 1, trained: tuple[int, ...] = (TRAIN,)) -> None:
        self._file, self._history, self._group_rows, self._clicks, self._trained = file, history, group_rows, clicks, trained
        self._columns: dict[str, Array] = {}

    def sizes(self, blocks: int) -> list[int]:
        """Rows of each row group; raises BadDataError if the file cannot be read or does not hold `blocks` blocks."""
        count = self._parquet("num_targets")["num_targets"].to_numpy()
        if len(count) != blocks:
            raise BadDataError(self._file, [Fault(f"holds {len(count)} blocks", f"its manifest says {blocks}", AGAIN)])
        rows = int(self._rows_of_blocks().sum())
        return [min(self._group_rows, rows - at) for at in range(0, rows, self._group_rows)]

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Row group `index`, without masks; raises BadDataError if the file cannot be read.

        Column hist_weight (list of L): weight of each click of the history that the row stands for, 0 of the others.
        """
        blocks = self._blocks
        row = blocks.order[index * self._group_rows : (index + 1) * self._group_rows]
        target = row if blocks.ends is None else blocks.ends[row + 1] - 1
        block = np.searchsorted(blocks.first_target, target, side="right") - 1
        ahead = target - blocks.first_target[block]
        place, sample_id = blocks.first_item[block] + ahead, blocks.sample_id[block] + ahead
        hist_len = np.minimum(sample_id & _SHIFT, self._history)
        found: dict[str, pa.Array] = {}
        for name in columns:
            if name == "hist":
                found[name] = self._windows(blocks.items, place, hist_len, hist_len)
            elif name == "hist_weight":
                own = np.zeros_like(target) if blocks.ends is None else target - blocks.ends[row]
                found[name] = self._windows(self._of_targets("weight"), target, hist_len, own)
            elif name in ("ts", "weight"):
                found[name] = pa.array(self._of_targets(name)[target])
            else:
                known = {"sample_id": sample_id, "item_idx": blocks.items[place], "hist_len": hist_len.astype(np.int16)}
                found[name] = pa.array(known[name] if name in known else self._of_blocks(name)[block])
        return pa.table(found)

    def _windows(self, values: Array, place: Array, hist_len: Array, count: Array) -> pa.ListArray:
        """The `count` values before each place, oldest first, the last one at hist_len - 1; 0 elsewhere."""
        at = np.arange(self._history)
        inside = (at < hist_len[:, None]) & (at >= (hist_len - count)[:, None])
        window = np.where(inside, values[np.where(inside, (place - hist_len)[:, None] + at, 0)], values.dtype.type(0))
        offsets = np.arange(len(place) + 1, dtype=np.int32) * self._history
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(window.reshape(-1)))

    # ---- the file ----------------------------------------------------------------------------------------------------

    @cached_property
    def _blocks(self) -> _Blocks:
        context, count = (self._of_blocks(name).astype(np.int64) for name in ("num_context", "num_targets"))
        sample_id, user = self._of_blocks("sample_id"), self._of_blocks("user_idx")
        num_rows = self._rows_of_blocks()
        rows = int(num_rows.sum())
        return _Blocks(
            sample_id=sample_id,
            items=self._flat("items", context + count),
            first_item=np.cumsum(context + count) - count,
            first_target=np.concatenate(([0], np.cumsum(count))),
            ends=None if self._clicks == 1 else np.concatenate(([0], _ends(count, num_rows))),
            order=shuffle(rows, int(user[0])).astype(np.int32) if rows else np.empty(0, np.int32),
        )

    def _rows_of_blocks(self) -> Array:
        """int64[b]: rows of each block."""
        most = np.where(np.isin(self._of_blocks("split"), self._trained), self._clicks, 1)
        rows: Array = -(-self._of_blocks("num_targets").astype(np.int64) // most)
        return rows

    def _of_blocks(self, name: str) -> Array:
        """A column with one number a block."""
        if name not in self._columns:
            self._columns[name] = self._parquet(name)[name].to_numpy()
        return self._columns[name]

    def _of_targets(self, name: str) -> Array:
        """A column with one number a target."""
        if name not in self._columns:
            self._columns[name] = self._flat(name, self._of_blocks("num_targets"))
        return self._columns[name]

    def _flat(self, name: str, length: Array) -> Array:
        """The first length[n] values of the n-th list, one list after the other."""
        parts, at = [], 0
        for column in self._parquet(name)[name].chunks:
            values, num = column.flatten().to_numpy(), len(column)
            width = len(values) // max(1, num)
            wanted = length[at : at + num]
            if (np.diff(column.offsets) != width).any() or (wanted > width).any():
                raise BadDataError(self._file, [Fault(f"column {name!r} holds lists that its blocks do not fit", fix=AGAIN)])
            parts.append(values.reshape(num, width)[np.arange(width) < wanted[:, None]])
            at += num
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _parquet(self, name: str) -> pa.Table:
        """One column, a chunk for each row group."""
        filesystem, path = open_root(self._file)
        try:
            with filesystem.open_input_file(path) as handle:
                file = pq.ParquetFile(handle)
                groups = [file.read_row_group(n, columns=[name], use_threads=False) for n in range(file.num_row_groups)]
                found = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table().select([name])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise BadDataError(self._file, [Fault("cannot be read", " ".join(str(error).split())[:200], AGAIN)]) from error
        if found.num_columns != 1 or found[name].null_count:
            raise BadDataError(self._file, [Fault(f"column {name!r} is missing or has nulls", fix=AGAIN)])
        return found


def _ends(count: Array, num_rows: Array) -> Array:
    """int64[r]: number of the first target behind each row, where the count[n] targets of a block go to num_rows[n] rows in equal parts."""
    row = np.arange(num_rows.sum()) - np.repeat(np.cumsum(num_rows) - num_rows, num_rows)
    size, parts = np.repeat(count, num_rows), np.repeat(num_rows, num_rows)
    ends: Array = np.repeat(np.cumsum(count) - count, num_rows) + size * (row + 1) // parts
    return ends
