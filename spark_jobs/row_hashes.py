"""The hash of each row of an Arrow batch, as Spark would give it, where the rows are made."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.compiled import F32, I32, I64, U8, U64
from spark_jobs.kernels.row_hash import (
    SEED,
    hash_int_lists,
    hash_ints,
    hash_long_lists,
    hash_longs,
    hash_source_lists,
    hash_string_lists,
)


def row_hashes(batch: pa.RecordBatch, *, derived: bool = False) -> U64:
    """uint64[n]: of each row what `spark_jobs.schema.row_hash` gives in Spark, for columns without nulls, in the batch's order.

    derived: floats are rounded to 1e-5, as there.
    """
    hashes = np.full(batch.num_rows, SEED, dtype=np.uint64)
    columns = [column for column, name in zip(batch.columns, batch.schema.names, strict=True) if name != "run_id"]
    lengths = []
    for column in columns:
        if pa.types.is_list(column.type):
            lengths.append(np.diff(column.offsets.to_numpy()))
            _chain_lists(column.values, column.offsets.to_numpy(), hashes, derived=derived)
        elif pa.types.is_string(column.type):
            _chain_lists(column, np.arange(len(column) + 1, dtype=np.int32), hashes, derived=derived)
        elif pa.types.is_floating(column.type) and derived:
            hash_longs(_rounded(column.to_numpy()), hashes)
        elif pa.types.is_int64(column.type):
            hash_longs(column.to_numpy(), hashes)
        elif pa.types.is_float32(column.type):
            hash_ints(_bits(column.to_numpy()), hashes)
        else:
            hash_ints(column.to_numpy(zero_copy_only=False), hashes)
    for length in lengths:
        hash_ints(length, hashes)
    return hashes


def _chain_lists(values: pa.Array, offsets: I32, hashes: U64, *, derived: bool) -> None:
    """values[offsets[n]:offsets[n + 1]] onto hashes[n], lists in them one after the other."""
    kind = values.type
    if pa.types.is_list(kind):
        _chain_lists(values.values, values.offsets.to_numpy()[offsets], hashes, derived=derived)
    elif pa.types.is_struct(kind):  # of a string, an int32 and a float32 of a model: what brought a candidate
        names, ranks, scores = (values.field(n) for n in range(3))
        hash_source_lists(*_strings(names), ranks.to_numpy(), _rounded(scores.to_numpy()), offsets, hashes)
    elif pa.types.is_string(kind):
        hash_string_lists(*_strings(values), offsets, hashes)
    elif pa.types.is_floating(kind) and derived:
        hash_long_lists(_rounded(values.to_numpy()), offsets, hashes)
    elif pa.types.is_int64(kind):
        hash_long_lists(values.to_numpy(), offsets, hashes)
    else:
        numbers = values.to_numpy()
        hash_int_lists(_bits(numbers) if pa.types.is_floating(kind) else numbers, offsets, hashes)


def _strings(values: pa.Array) -> tuple[U8, I32]:
    """(the bytes, where each string begins in them and the last one ends)."""
    _, limits, data = values.buffers()
    begins = np.frombuffer(limits, dtype=np.int32)[values.offset : values.offset + len(values) + 1] if limits else np.zeros(1, np.int32)
    return np.frombuffer(data, dtype=np.uint8) if data else np.zeros(0, np.uint8), begins


def _bits(floats: F32) -> I32:
    return (floats + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0


def _rounded(floats: npt.NDArray[np.floating[Any]]) -> I64:
    """The bits of the floats as float64, rounded to 1e-5, halves away from 0."""
    exact = floats.astype(np.float64)
    scaled = np.abs(exact) * 1e5
    rounded = np.where(scaled < 2**52, np.copysign(np.floor(scaled + 0.5), exact) / 1e5, exact)  # larger ones have no such digits
    return (rounded + 0.0).view(np.int64)
