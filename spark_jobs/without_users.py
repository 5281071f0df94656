"""Tables without some users: which column of each table names them, and one Parquet file rewritten without their rows. No Spark.

Rows that are left keep their order and their row groups, so a table stays clustered, sorted and sized as the job that made it wrote it.
"""

import re
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.fields import PAD
from conf.files import open_root
from conf.schemas.columns import ITEM_USERS

# table -> the column that holds a business key of a user, or (BY_NUMBER) the row number that user_index gave it
BY_KEY: Final = {
    **dict.fromkeys(("clicks", "users", "candidates", "candidates_delta"), "user_key"),
    **{"user_index": "key", "vocab_user_id": "value", "similar_users": "key"},
}
BY_NUMBER: Final = {
    **dict.fromkeys(("events", "user_state", "sessions", "samples", "channel_candidates", "click_ranks", "metrics_user"), "user_idx"),
    **dict.fromkeys(("user_feat", "embeddings_user", "neighbours_user"), "idx"),
}
IN_TEXT: Final = "rejects"  # the raw text of a refused row may name anyone
USER_TABLES: Final = frozenset({*BY_KEY, *BY_NUMBER, IN_TEXT})
_NAMED_BESIDE: Final = {"samples": (ITEM_USERS.name,), "similar_users": ("neighbour_key",)}  # columns that name other users
_KEYS_A_PATTERN: Final = 200  # a longer pattern makes the search slower than a second pass


def without(table: pa.Table, name: str, gone: pa.Array) -> tuple[pa.Table, int]:
    """The rows of table `name` that are not of the users, no longer naming them; and how many rows were theirs or named them.

    gone: string keys, or int32 row numbers where the table is in BY_NUMBER.
    """
    if name == IN_TEXT:
        return _without_text(table, gone)
    column = table[BY_KEY.get(name) or BY_NUMBER[name]]
    theirs = _among(column, gone)
    if name == "similar_users":
        theirs = pc.or_(theirs, _among(table["neighbour_key"], gone))
    kept = table.filter(pc.invert(theirs))
    num = table.num_rows - kept.num_rows
    if name == "neighbours_user":
        kept, named = _without_neighbours(kept, gone)
        num += named
    elif name == "samples" and ITEM_USERS.name in table.column_names:
        kept, named = _without_item_users(kept, gone)
        num += named
    return kept, num


def _among(column: pa.ChunkedArray, gone: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(pc.cast(column, gone.type), value_set=gone)  # published keys may be integers


def _without_text(table: pa.Table, keys: pa.Array) -> tuple[pa.Table, int]:
    """Rejects without the raw text that holds one of the keys as a word."""
    words = [re.escape(key) for key in keys.to_pylist()]
    raw = table["raw"].combine_chunks()
    named = pa.array(np.zeros(len(raw), dtype=bool))
    for start in range(0, len(words), _KEYS_A_PATTERN):
        pattern = rf"(?:^|\W)(?:{'|'.join(words[start : start + _KEYS_A_PATTERN])})(?:\W|$)"
        named = pc.or_(named, pc.match_substring_regex(raw, pattern))
    place = table.schema.get_field_index("raw")
    return table.set_column(place, table.schema.field(place), pc.if_else(named, "", raw)), int(pc.sum(named).as_py() or 0)


def _without_neighbours(table: pa.Table, numbers: pa.Array) -> tuple[pa.Table, int]:
    """Lists of neighbours without the users, their similarities beside them; and how many lists became shorter."""
    lists = table["neighbours"].combine_chunks()
    lengths = np.asarray(pc.list_value_length(lists), dtype=np.int64)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    keep = ~np.asarray(pc.is_in(lists.flatten(), value_set=numbers))
    left = np.bincount(row_of[keep], minlength=len(lengths))
    offsets = pa.array(np.concatenate(([0], np.cumsum(left))), pa.int32())
    for name in ("neighbours", "similarities"):
        values = table[name].combine_chunks().flatten().filter(pa.array(keep))
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.ListArray.from_arrays(offsets, values, type=field.type))
    return table, int((left < lengths).sum())


def _without_item_users(table: pa.Table, numbers: pa.Array) -> tuple[pa.Table, int]:
    """Lists of who clicked the item without the users, padded anew to their length; and how many lists lost someone."""
    place = table.schema.get_field_index(ITEM_USERS.name)
    lists = table[ITEM_USERS.name].combine_chunks()
    if not len(lists):
        return table, 0
    values = lists.flatten()
    width = len(values) // len(lists)
    theirs = np.asarray(pc.is_in(values, value_set=numbers)).reshape(-1, width)
    users = np.where(theirs, PAD, values.to_numpy().reshape(-1, width))
    users = np.take_along_axis(users, np.argsort(users == PAD, axis=1, kind="stable"), axis=1)
    offsets = pa.array(np.arange(len(lists) + 1, dtype=np.int32) * width)
    field = table.schema.field(place)
    cleaned = pa.ListArray.from_arrays(offsets, pa.array(users.reshape(-1)), type=field.type)
    return table.set_column(place, field, cleaned), int(theirs.any(axis=1).sum())


def clean_file(source: str, name: str, gone: pa.Array, target: str | None = None) -> int:
    """Rows of a Parquet file of table `name` that are of the users or name them; the file without them is written to target, if given."""
    filesystem, path = open_root(source)
    with filesystem.open_input_file(path) as handle:
        file = pq.ParquetFile(handle)
        groups = range(file.num_row_groups)
        if target is None:
            read = {BY_KEY.get(name) or BY_NUMBER.get(name, "raw"), *_NAMED_BESIDE.get(name, ())}
            columns = None if name == "neighbours_user" else sorted(read & set(file.schema_arrow.names))
            return sum(without(file.read_row_group(group, columns=columns), name, gone)[1] for group in groups)
        num = 0
        to, to_path = open_root(target)
        codec = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
        with to.open_output_stream(to_path) as stream, pq.ParquetWriter(stream, file.schema_arrow, compression=_CODECS[codec]) as writer:
            for group in groups:
                kept, named = without(file.read_row_group(group), name, gone)
                num += named
                if kept.num_rows:
                    writer.write_table(kept, row_group_size=kept.num_rows)
        return num


_CODECS: Final = {"UNCOMPRESSED": "none", "SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "LZ4": "lz4", "BROTLI": "brotli"}


def numbers_of(user_index: str, keys: pa.Array) -> list[int]:
    """The row numbers of the users in one file of user_index."""
    filesystem, path = open_root(user_index)
    table = pq.read_table(path, columns=["key", "idx"], filesystem=filesystem)
    return list(table.filter(pc.is_in(table["key"], value_set=keys))["idx"].to_pylist())
