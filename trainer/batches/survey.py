"""What a run needs to know of `samples` before the first batch: train rows of every row group, train clicks of every item.

Rows of row groups stand in the manifest; only their splits are counted here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from conf.errors import BadDataError, Fault, UsageError
from conf.files import open_root
from conf.storage import FileEntry, Manifest, Store
from conf.tables import TRAIN, VALID
from trainer.backends import Backend
from trainer.batches.arrow import read_group
from trainer.batches.order import RowGroup
from trainer.batches.sequences import SequenceFile

Integers = npt.NDArray[np.signedinteger[Any]]
Splits = tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """The table of training pairs.

    groups: every row group, in manifest order. valid: rows of each held out for validation. item_counts, valid_counts:
    int64[num_items + 1], clicks trained on and held out by item_idx. mask_patterns: of strategy cfm, as conf.masks.masking_of takes them.
    """

    groups: tuple[RowGroup, ...]
    valid: tuple[int, ...]
    item_counts: Tensor
    valid_counts: Tensor
    mask_patterns: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def train_rows(self) -> int:
        """Rows to train on."""
        return sum(group.train for group in self.groups)

    @property
    def valid_rows(self) -> int:
        """Rows held out for validation."""
        return sum(self.valid)


def survey(
    store: Store, manifest: Manifest, backend: Backend, *, num_items: int, clicks_per_row: int = 1, trained: Splits = (TRAIN,)
) -> Samples:
    """Count rows and clicks, each rank its share of the row groups (two thin columns of them); collective.

    Args:
        trained: splits that are trained on: train, or both, and then nothing is held out for validation.
        clicks_per_row: clicks that a row trained on stands for, at most.

    Raises:
        BadDataError: a file cannot be read, differs from its manifest, or names an item that the catalogue does not have.
        UsageError: rows of several clicks of a table in layout windows.
    """
    bare = _row_groups(store, manifest, clicks_per_row, trained)
    held_out = [split for split in (VALID,) if split not in trained]
    counts = np.zeros((len(bare), 2), dtype=np.int64)
    items = np.zeros((2, num_items + 1), dtype=np.int64)
    for number in range(backend.rank, len(bare), backend.size):
        split, kinds, item = _clicks(bare[number], clicks_per_row > 1)
        if len(split) and not 1 <= item.min() <= item.max() <= num_items:
            found = f"{item.min()}..{item.max()}, catalogue: 1..{num_items}"
            raise BadDataError(bare[number].file, [Fault("item_idx outside the catalogue", found, "run: trichannel samples --force")])
        counts[number] = [np.isin(split, kind).sum() for kind in (trained, held_out)]
        items += [np.bincount(item[np.isin(kinds, kind)], minlength=num_items + 1) for kind in (trained, held_out)]
    totals = backend.sum(torch.from_numpy(counts)).tolist()
    groups = tuple(replace(group, train=train, trained=trained) for group, (train, _) in zip(bare, totals, strict=True))
    train_counts, valid_counts = backend.sum(torch.from_numpy(items))
    patterns = manifest.facts.get("mask_patterns", {})
    return Samples(groups, tuple(valid for _, valid in totals), train_counts, valid_counts, patterns)


def _row_groups(store: Store, manifest: Manifest, clicks: int, trained: Splits) -> list[RowGroup]:
    groups: list[RowGroup] = []
    sequences = manifest.facts.get("sequences")  # of layout sequences only: how its rows are cut
    if clicks > 1 and not sequences:
        fault = Fault("table samples is of layout windows, a row a click", fix="set samples.layout: sequences and run: trichannel samples")
        raise UsageError("trainer.clicks_per_row", [fault])
    for entry, file in zip(manifest.files, store.files_of(manifest), strict=True):
        cut = SequenceFile(file, **sequences, clicks=clicks, trained=trained) if sequences else None
        for index, rows in enumerate(cut.sizes(entry.rows) if cut else _sizes(entry, file)):
            groups.append(RowGroup(file, index, len(groups), rows, 0, cut=cut))
    return groups


def _sizes(entry: FileEntry, file: str) -> Sequence[int]:
    if entry.row_group_rows or entry.rows == 0:
        return entry.row_group_rows
    filesystem, path = open_root(file)
    with filesystem.open_input_file(path) as handle:
        footer = pq.ParquetFile(handle).metadata
        return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]


def _columns(group: RowGroup, names: Sequence[str]) -> pa.Table:
    table = read_group(group, names)
    if table.num_rows != group.rows or table.num_columns != len(names):
        found = f"{table.num_rows} rows, columns {', '.join(table.column_names)}"
        raise BadDataError(group.file, [Fault(f"row group {group.index} is not as its manifest says", found)])
    return table


def _clicks(group: RowGroup, several: bool) -> tuple[Integers, Integers, Integers]:
    """int[rows]: the split of each row; int[n], int[n]: split and item_idx of each click that one of the rows stands for."""
    table = _columns(group, ("split", "item_idx", "hist", "hist_weight") if several else ("split", "item_idx"))
    split, item = table.column("split").to_numpy(), table.column("item_idx").to_numpy()
    if not several:
        return split, split, item
    hist, weight = (table.column(name).combine_chunks().flatten().to_numpy().reshape(len(split), -1) for name in ("hist", "hist_weight"))
    own = weight > 0
    return split, np.concatenate([split, np.repeat(split, own.sum(axis=1))]), np.concatenate([item, hist[own]])
