"""Whether our tables and those of a peer hold the same rows, in whatever order and under whatever names."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spark_jobs.kernels.row_hash import SEED, hash_int_lists, hash_longs
from trainer.batches.sequences import SequenceFile


def compare(task: str, ours: Sequence[str], theirs: Path, *, history: int, group_rows: int | None = None) -> None:
    """Stop unless both tables say the same. history: L of samples. group_rows: of samples in layout sequences; None = they are windows."""
    if task == "samples":
        found = _rows_differ(_samples_of(ours, history, group_rows), _batches([theirs]), ("user", "ts", "item"), "hist")
    elif task == "sessions":
        found = _rows_differ(_batches(ours), _batches([theirs]), ("user", "start_ts", "end_ts", "num_items"), "items")
    else:
        found = {"events": _events_differ, "cooc": _cooc_differ}[task](ours, theirs)
    if found:
        raise SystemExit(f"{task}: {theirs.name} differs from ours: {found}")


# ---- tables whose rows are compared by the sum of their hashes: a piece at a time, in whatever order ----------------


def _rows_differ(ours: Iterable[pa.Table], theirs: Iterable[pa.Table], columns: Sequence[str], lists: str) -> str:
    """Two of 2^64 sums are equal by chance once in so many, so equal sums are equal rows."""
    left, right = (_sum_of_hashes(tables, columns, lists) for tables in (ours, theirs))
    return "" if left == right else f"(rows, numbers in lists, sum of hashes) {left} and {right}"


def _sum_of_hashes(tables: Iterable[pa.Table], columns: Sequence[str], lists: str) -> tuple[int, int, int]:
    rows = numbers = total = 0
    for table in tables:
        hashes = np.full(table.num_rows, SEED, np.uint64)
        for name in columns:
            hash_longs(_column(table, name).astype(np.int64), hashes)
        column = table[lists].combine_chunks()
        length = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        values = column.flatten().to_numpy().astype(np.int32)
        kept = values != 0  # no item has number 0: it fills windows up, ours at the end, Polars' at the start
        length = np.bincount(np.repeat(np.arange(len(length)), length)[kept], minlength=len(length))
        hash_int_lists(values[kept], np.append(0, np.cumsum(length)), hashes)
        rows, numbers, total = rows + table.num_rows, numbers + int(kept.sum()), (total + int(hashes.sum(dtype=np.uint64))) % 2**64
    return rows, numbers, total


def _column(table: pa.Table, name: str) -> np.ndarray:
    """By our name or a peer's."""
    found = next(known for known in (name, f"{name}_idx", f"{name}_id") if known in table.column_names)
    return table[found].combine_chunks().to_numpy()


def _batches(files: Sequence[str | Path]) -> Iterator[pa.Table]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1_000_000):
            yield pa.Table.from_batches([batch])


def _samples_of(files: Sequence[str], history: int, group_rows: int | None) -> Iterator[pa.Table]:
    if group_rows is None:
        yield from _batches(files)
        return
    for path in files:
        file = SequenceFile(path, history=history, group_rows=group_rows)
        for index in range(len(file.sizes(pq.ParquetFile(path).metadata.num_rows))):
            yield file.read(index, ["user_idx", "ts", "item_idx", "hist"])


# ---- tables that are compared number by number ------------------------------------------------------------------------


def _events_differ(ours: Sequence[str], theirs: Path) -> str:
    """The numbers themselves must agree: both count from 1 by clicks, then key."""
    names = ["user_idx", "ts", "item_idx"]
    left, right = (table.sort_by([(name, "ascending") for name in names]) for table in _events(ours, theirs, names))
    if left.num_rows != right.num_rows:
        return f"{left.num_rows} and {right.num_rows} rows"
    return next((name for name in names if (left[name].to_numpy() != right[name].to_numpy()).any()), "")


def _events(ours: Sequence[str], theirs: Path, names: list[str]) -> list[pa.Table]:
    return [pq.read_table(ours, columns=names), pq.read_table(theirs / "events.parquet", columns=names)]


def _cooc_differ(ours: Sequence[str], theirs: Path) -> str:
    """Counts must be equal rank by rank, and the items of all pairs above the smallest count that was kept: ties there are free."""
    left = pq.read_table(ours, columns=["item_i", "item_j", "count"])
    right = pq.read_table(theirs)
    sizes = np.diff(right["nbr"].combine_chunks().offsets.to_numpy())
    item = np.repeat(right.column(0).to_numpy(), sizes)
    tables = []
    for i, j, count in (
        [left[name].to_numpy() for name in ("item_i", "item_j", "count")],
        [item, right["nbr"].combine_chunks().flatten().to_numpy(), right["cnt"].combine_chunks().flatten().to_numpy()],
    ):
        order = np.lexsort((j, -count.astype(np.int64), i))
        tables.append([column[order].astype(np.int64) for column in (i, j, count)])
    (i, j, count), (other_i, other_j, other_count) = tables
    if len(i) != len(other_i) or (i != other_i).any() or (count != other_count).any():
        return f"counts, {len(i)} and {len(other_i)} rows"
    last = np.append(i[1:] != i[:-1], True)
    smallest = count[last][np.cumsum(last) - last]
    return "" if (j == other_j)[count > smallest].all() else "items above the last tie"
