"""Whether our tables and those of a peer hold the same rows, in whatever order and under whatever names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def compare(task: str, ours: Sequence[str], theirs: Path, *, history: int) -> None:
    """Stop unless both tables say the same."""
    differ = {"events": _events_differ, "sessions": _sessions_differ, "cooc": _cooc_differ, "samples": _samples_differ}[task]
    found = differ(ours, theirs, history)
    if found:
        raise SystemExit(f"{task}: {theirs.name} differs from ours: {found}")


def _events_differ(ours: Sequence[str], theirs: Path, _: int) -> str:
    """The numbers themselves must agree: both count from 1 by clicks, then key."""
    names = ["user_idx", "ts", "item_idx"]
    left, right = (table.sort_by([(name, "ascending") for name in names]) for table in _events(ours, theirs, names))
    if left.num_rows != right.num_rows:
        return f"{left.num_rows} and {right.num_rows} rows"
    return next((name for name in names if (left[name].to_numpy() != right[name].to_numpy()).any()), "")


def _events(ours: Sequence[str], theirs: Path, names: list[str]) -> list[pa.Table]:
    return [pq.read_table(ours, columns=names), pq.read_table(theirs / "events.parquet", columns=names)]


def _flat(table: pa.Table, lists: str, order: np.ndarray) -> np.ndarray:
    return table[lists].combine_chunks().take(pa.array(order)).flatten().to_numpy()


def _sessions_differ(ours: Sequence[str], theirs: Path, _: int) -> str:
    left = pq.read_table(ours, columns=["user_idx", "start_ts", "end_ts", "items", "num_items"])
    right = pq.read_table(theirs)
    user = "user_id" if "user_id" in right.column_names else "user_idx"
    orders = [np.lexsort((t["start_ts"].to_numpy(), t[name].to_numpy())) for t, name in ((left, "user_idx"), (right, user))]
    for mine, other in (("user_idx", user), ("start_ts", "start_ts"), ("num_items", "num_items")):
        a, b = left[mine].to_numpy()[orders[0]], right[other].to_numpy()[orders[1]]
        if len(a) != len(b) or (a != b).any():
            return f"column {mine}, {len(a)} and {len(b)} rows"
    same = np.array_equal(_flat(left, "items", orders[0]), _flat(right, "items", orders[1]))
    return "" if same else "items"


def _cooc_differ(ours: Sequence[str], theirs: Path, _: int) -> str:
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


def _samples_differ(ours: Sequence[str], theirs: Path, history: int) -> str:
    left = pq.read_table(ours, columns=["user_idx", "ts", "item_idx", "hist", "hist_len"])
    right = pq.read_table(theirs)
    orders = [
        np.argsort(t[name].to_numpy().astype(np.int64) << 33 | t["ts"].to_numpy()) for t, name in ((left, "user_idx"), (right, "user_id"))
    ]
    if len(orders[0]) != len(orders[1]):
        return f"{len(orders[0])} and {len(orders[1])} rows"
    if (left["item_idx"].to_numpy()[orders[0]] != right["item_id"].to_numpy()[orders[1]]).any():
        return "items"
    lengths = left["hist_len"].to_numpy()[orders[0]]
    hist = right["hist"].combine_chunks()
    sizes = (
        np.diff(hist.offsets.to_numpy())[orders[1]]
        if hist.null_count == 0
        else pc.fill_null(pc.list_value_length(hist), 0).to_numpy()[orders[1]]
    )
    for at in range(0, len(lengths), 5_000_000):  # a piece at a time: 20 numbers a row are many gigabytes
        some, other = orders[0][at : at + 5_000_000], orders[1][at : at + 5_000_000]
        mine = left["hist"].take(pa.array(some)).combine_chunks().flatten().to_numpy().reshape(-1, history)
        filled = np.arange(history) < lengths[at : at + 5_000_000, None]
        flat = right["hist"].take(pa.array(other)).combine_chunks().flatten().to_numpy()
        if (sizes[at : at + 5_000_000] == history).all() and len(flat) == len(some) * history:  # padded in front with zeros
            flat = flat.reshape(-1, history)[np.arange(history) >= history - lengths[at : at + 5_000_000, None]]
        if not np.array_equal(mine[filled], flat):
            return "histories"
    return ""
