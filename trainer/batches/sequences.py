"""Rows cut from blocks of a user's events: `samples` in layout sequences, read as if they stood there in layout windows.

The same rows in the same row groups and in the same order, but for the masks, which `conf.masks` gives again. A row group mixes the clicks
of a whole file, so a file is read once and kept: about 12 bytes a click in the memory of each worker.
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
from trainer.batches.columns import AGAIN

Array = npt.NDArray[Any]

_SHIFT = np.int64(2**32 - 1)  # the position in a sample_id


@dataclass(frozen=True)
class _Blocks:
    """b blocks with n targets in all, users in order.

    items: int32, context and targets of all blocks, without padding. first_item: int64[b], place of the first target in `items`.
    first_row: int64[b + 1], number of the first target. order: int32[n], numbers of the targets in the order of layout windows.
    """

    sample_id: Array
    items: Array
    first_item: Array
    first_row: Array
    order: Array


class SequenceFile:
    """One file of blocks.

    Args:
        history: L, as the file was written. group_rows: rows of a row group of layout windows.
    """

    def __init__(self, file: str, *, history: int, group_rows: int) -> None:
        self._file, self._history, self._group_rows = file, history, group_rows
        self._columns: dict[str, Array] = {}

    def sizes(self, blocks: int) -> list[int]:
        """Rows of each row group; raises BadDataError if the file cannot be read or does not hold `blocks` blocks."""
        count = self._parquet("num_targets")["num_targets"].to_numpy()
        if len(count) != blocks:
            raise BadDataError(self._file, [Fault(f"holds {len(count)} blocks", f"its manifest says {blocks}", AGAIN)])
        rows = int(count.sum(dtype=np.int64))
        return [min(self._group_rows, rows - at) for at in range(0, rows, self._group_rows)]

    def read(self, index: int, columns: Sequence[str]) -> pa.Table:
        """Row group `index`, without masks; raises BadDataError if the file cannot be read."""
        blocks = self._blocks
        row = blocks.order[index * self._group_rows : (index + 1) * self._group_rows]
        block = np.searchsorted(blocks.first_row, row, side="right") - 1
        ahead = row - blocks.first_row[block]
        place, sample_id = blocks.first_item[block] + ahead, blocks.sample_id[block] + ahead
        hist_len = np.minimum(sample_id & _SHIFT, self._history)
        found: dict[str, pa.Array] = {}
        for name in columns:
            if name == "hist":
                found[name] = self._windows(place, hist_len)
            elif name in ("ts", "weight"):
                found[name] = pa.array(self._of_targets(name)[row])
            else:
                known = {"sample_id": sample_id, "item_idx": blocks.items[place], "hist_len": hist_len.astype(np.int16)}
                found[name] = pa.array(known[name] if name in known else self._of_blocks(name)[block])
        return pa.table(found)

    def _windows(self, place: Array, hist_len: Array) -> pa.ListArray:
        """The hist_len items before each place, oldest first, 0 at the end."""
        at = np.arange(self._history)
        inside = at < hist_len[:, None]
        hist = np.where(inside, self._blocks.items[np.where(inside, place[:, None] - hist_len[:, None] + at, 0)], 0)
        offsets = np.arange(len(place) + 1, dtype=np.int32) * self._history
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(hist.astype(np.int32).reshape(-1)))

    # ---- the file ----------------------------------------------------------------------------------------------------

    @cached_property
    def _blocks(self) -> _Blocks:
        context, count = (self._of_blocks(name).astype(np.int64) for name in ("num_context", "num_targets"))
        sample_id, user = self._of_blocks("sample_id"), self._of_blocks("user_idx")
        rows = int(count.sum())
        return _Blocks(
            sample_id=sample_id,
            items=self._flat("items", context + count),
            first_item=np.cumsum(context + count) - count,
            first_row=np.concatenate(([0], np.cumsum(count))),
            order=shuffle(rows, int(user[0])).astype(np.int32) if rows else np.empty(0, np.int32),
        )

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
