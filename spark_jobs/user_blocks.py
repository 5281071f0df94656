"""The rows of `samples` in layout sequences: each user's events once, in blocks, instead of a window for each of them.

The trainer cuts the windows and draws the masks itself (`trainer.batches.sequences`), in the order in which layout windows stores them.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.compiled import F32, I32, I64, Flags
from conf.tables import TRAIN
from spark_jobs.kernels.samples import positions_in_user
from spark_jobs.kernels.user_blocks import block_items, block_times, block_weights, cut_blocks

I8 = npt.NDArray[np.int8]

BLOCKS_PER_ROW_GROUP = 4096  # 5 MB at a history of 20 and 64 targets


def is_target(stage: I8, position: I32, *, split: int, first_target: int) -> Flags:
    """Whether each event is a row of the split. first_target: position of a train user's first target, from 0."""
    wanted: Flags = stage == split
    return wanted & (position >= first_target) if split == TRAIN else wanted


def blocks_of(
    events: pa.Table, user_columns: Mapping[str, I32], schema: pa.Schema, *, split: int, first_target: int, history: int, size: int
) -> Iterator[pa.RecordBatch]:
    """The blocks of whole users in order of user and time. `events` is sorted by user and total order.

    user_columns: of each event, the columns of its user. first_target: as for `is_target`. history: L. size: B.
    """
    user, item, stage, ts, weight = (events[name].to_numpy() for name in ("user_idx", "item_idx", "split", "ts", "weight"))
    position = positions_in_user(user)
    starts, counts = cut_blocks(np.flatnonzero(is_target(stage, position, split=split, first_target=first_target)), position, size)
    for at in range(0, len(starts), BLOCKS_PER_ROW_GROUP):
        first, count = starts[at : at + BLOCKS_PER_ROW_GROUP], counts[at : at + BLOCKS_PER_ROW_GROUP]
        context = np.minimum(position[first], history).astype(np.int16)
        columns = {"sample_id": user[first].astype(np.int64) << 32 | position[first], "user_idx": user[first], "split": stage[first]}
        columns |= {"num_context": context, "num_targets": count, **{name: column[first] for name, column in user_columns.items()}}
        arrays = {name: pa.array(column) for name, column in columns.items()}
        arrays["items"] = _lists(block_items(item, first, count, context, history + size), len(first))
        arrays["ts"] = _lists(block_times(ts, first, count, size), len(first))
        arrays["weight"] = _lists(block_weights(weight, first, count, size), len(first))
        yield pa.RecordBatch.from_arrays([arrays[field.name].cast(field.type) for field in schema], schema=schema)


def _lists(values: I32 | I64 | F32, num: int) -> pa.ListArray:
    """`num` lists of equal length."""
    offsets = np.arange(num + 1, dtype=np.int32) * (len(values) // num)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
