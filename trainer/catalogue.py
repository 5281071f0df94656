"""User and item features as tensors, one row an idx: what turns the row numbers of `samples` into the field ids that are embedded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from conf.errors import BadDataError, Fault
from conf.fields import Field, Registry
from trainer.related import Related

_SINGLE, _MULTI = "single.", "multi."  # before a field, in the name of its array
MAX_VALUES = 10  # values of a multi field that are embedded, in the source's order


@dataclass(frozen=True)
class FeatureTable:
    """Field ids by idx; row 0 is PAD (all zero).

    single[name]: int32[num + 1]. multi[name]: int32[num + 1, M], 0-padded at the end, M <= MAX_VALUES; all zero = no value.
    """

    num: int
    single: Mapping[str, Tensor]
    multi: Mapping[str, Tensor]

    @classmethod
    def _read(cls, table: pa.Table, name: str, fields: Sequence[Field]) -> Self:
        order = _dense_order(table, name)
        single = {f.name: _column(table, f.name).to_numpy().astype(np.int32)[order] for f in fields if f.role == "single"}
        multi = {f.name: padded(_column(table, f.name))[order] for f in fields if f.role == "multi"}
        return cls(
            num=len(order),
            single={name: torch.from_numpy(np.concatenate(([np.int32(0)], values))) for name, values in single.items()},
            multi={name: torch.from_numpy(np.pad(values, ((1, 0), (0, 0)))) for name, values in multi.items()},
        )

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """From arrays by name; others may be among them."""
        single, multi = (
            {name.removeprefix(role): column for name, column in arrays.items() if name.startswith(role)} for role in (_SINGLE, _MULTI)
        )
        return cls(num=len(next(iter([*single.values(), *multi.values()]))) - 1, single=single, multi=multi)

    def arrays(self) -> dict[str, Tensor]:
        """What `of` takes."""
        single = {f"{_SINGLE}{name}": column for name, column in self.single.items()}
        return single | {f"{_MULTI}{name}": column for name, column in self.multi.items()}

    def to(self, device: torch.device | str) -> Self:
        """The same table on a device."""
        single = {name: column.to(device) for name, column in self.single.items()}
        return replace(self, single=single, multi={name: column.to(device) for name, column in self.multi.items()})


@dataclass(frozen=True)
class Catalogue(FeatureTable):
    """Every item ever seen.

    related: by table (cooc, cooc_pairs, sem_nn; user_state, by user), those that a loss asks for; `arrays` leaves them out.
    """

    related: Mapping[str, Related] = field(default_factory=dict)

    @classmethod
    def from_arrow(cls, item_feat: pa.Table, registry: Registry) -> Self:
        """From table item_feat, in any row order; raises BadDataError unless idx is exactly 1..n."""
        return cls._read(item_feat, "item_feat", registry.item)

    def to(self, device: torch.device | str) -> Self:
        """The same catalogue on a device."""
        return replace(super().to(device), related={name: related.to(device) for name, related in self.related.items()})

    @property
    def num_items(self) -> int:
        """Items, numbered 1..num_items."""
        return self.num


@dataclass(frozen=True)
class UserTable(FeatureTable):
    """Every user ever seen."""

    @classmethod
    def from_arrow(cls, user_feat: pa.Table, registry: Registry) -> Self:
        """From table user_feat, in any row order; raises BadDataError unless idx is exactly 1..n."""
        return cls._read(user_feat, "user_feat", registry.user)


def padded(column: pa.Array | pa.ChunkedArray, width: int | None = None) -> npt.NDArray[np.int32]:
    """list<int> column -> int32[n, width], the first `width` values of each list, 0 at the end.

    width: null = the longest list, at least 1 and at most MAX_VALUES. A null list counts as empty.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64)
    if width is None:
        width = min(max(int(lengths.max(initial=0)), 1), MAX_VALUES)
    values = np.asarray(array.flatten())  # flatten() skips nulls and honours slices
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(lengths) else lengths
    position = np.arange(width)
    inside = position < lengths[:, None]
    out = np.zeros((len(lengths), width), dtype=np.int32)
    out[inside] = values[(starts[:, None] + position)[inside]]
    return out


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise BadDataError("features", [Fault(f"column {name!r} is missing", f"found: {', '.join(table.column_names)}")])
    return table.column(name)


def _dense_order(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    idx = _column(table, "idx").to_numpy()
    order = np.argsort(idx, kind="stable")
    if not np.array_equal(idx[order], np.arange(1, len(idx) + 1)):
        found = f"{len(idx)} rows, idx {idx.min()}..{idx.max()}, {len(np.unique(idx))} distinct" if len(idx) else "no rows"
        raise BadDataError(f"table {name}", [Fault("idx must be exactly 1..n, each once", found, "publish the vocabulary tables again")])
    return order
