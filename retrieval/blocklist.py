"""The blocklist: items that no list may hold, by the keys under which candidates are published."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from conf.errors import BadDataError, Fault, NotReadyError, SchemaError
from conf.files import open_root
from retrieval.ragged import I32
from retrieval.worker import read_columns
from spark_jobs.job import Context

SETTING = "index.blocklist"
_COLUMN = "item_key"


def blocked_items(context: Context) -> I32:
    """item_idx of the items on the list of the settings, ascending; keys listed, and those that no item has, go to the counters."""
    path = context.settings.index.blocklist
    if path is None:
        return np.array([], dtype=np.int32)
    keys = listed_keys(path)
    table = read_columns(context.files("item_index"), ["key", "idx"])
    found: I32 = np.sort(table.filter(pc.is_in(table["key"], value_set=keys))["idx"].to_numpy())
    context.counters["blocklist"] = {"listed": len(keys), "unknown": len(keys) - len(found)}
    return found


def listed_keys(path: str) -> pa.Array:
    """string[n]: the keys of a list, once each, blank ones left out.

    A list that ends in .csv (or .csv.gz) has a header, one that ends in .parquet has columns; any other is text, one key a line.

    Raises:
        NotReadyError: there is no such file. BadDataError: it is no such file as its name says, or empty, which is more often a copy
        that failed than meant. SchemaError: several columns, and none called item_key.
    """
    filesystem, file = open_root(path)
    if filesystem.get_file_info(file).type != pafs.FileType.File:
        raise NotReadyError(f"{SETTING}={path}", [Fault("no such file", fix=f"put the list there, or set {SETTING}: null")])
    try:
        keys = _read(filesystem, file, path)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise BadDataError(f"{SETTING}={path}", [Fault("cannot be read", str(error), "write the list again")]) from error
    trimmed = pc.utf8_trim_whitespace(keys.combine_chunks())
    return pc.unique(trimmed.filter(pc.and_kleene(pc.is_valid(trimmed), pc.not_equal(trimmed, ""))))


def _read(filesystem: pafs.FileSystem, file: str, path: str) -> pa.ChunkedArray:
    ending = file.lower().removesuffix(".gz").rpartition(".")[2]
    if ending == "parquet":
        return _keys_of(pq.read_table(file, filesystem=filesystem), path)
    with filesystem.open_input_stream(file) as stream:  # .gz is unpacked by its name
        content = stream.read()
    if not content:
        raise BadDataError(f"{SETTING}={path}", [Fault("the file is empty", fix="a list of nothing is a header alone, or set it to null")])
    if ending == "csv":
        header = csv.open_csv(pa.BufferReader(content)).schema.names
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))  # 007 is not 7
        return _keys_of(csv.read_csv(pa.BufferReader(content), convert_options=as_text), path)
    return pa.chunked_array([content.decode().splitlines()], pa.string())


def _keys_of(table: pa.Table, path: str) -> pa.ChunkedArray:
    names = table.column_names
    if _COLUMN not in names and len(names) != 1:
        fault = Fault("which column names the items?", f"found: {', '.join(names)}", f"call it {_COLUMN}")
        raise SchemaError(f"{SETTING}={path}", [fault])
    return table[_COLUMN if _COLUMN in names else names[0]].cast(pa.string())
