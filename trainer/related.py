"""Which items go with which: co-occurrence and semantic neighbours as arrays that a step draws positives from and looks pairs up in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from conf.errors import BadDataError, Fault

Array = npt.NDArray[Any]

_AGAIN = "run the job that makes the table again"


@dataclass(frozen=True)
class Related:
    """The items that go with each item, one row an item.

    first: int64[num_items + 2], row i is first[i] to first[i + 1]; row 0 is empty. other: int32[n], item_idx, ascending in a row.
    up_to: float32[n], share of the row's weight up to and with this one, 1 in the last; None = all weigh the same.
    """

    first: Tensor
    other: Tensor
    up_to: Tensor | None = None

    @classmethod
    def of_pairs(cls, table: pa.Table, num_items: int, *, weighted: bool, num_rows: int | None = None) -> Self:
        """From item_i, item_j and (weighted) weight, one row a pair, in any order; raises BadDataError for items that are not known.

        num_rows: of what item_i counts, where that is not items.
        """
        own, other = (table[name].to_numpy().astype(np.int64) for name in ("item_i", "item_j"))
        key = own << 32 | other
        if (np.diff(key) <= 0).any():
            order = np.argsort(key, kind="stable")
            own, other = own[order], other[order]
        else:
            order = None
        first = _first(own, other, num_items if num_rows is None else num_rows, num_items)
        if not weighted:
            return cls(first, torch.from_numpy(other.astype(np.int32)))
        weight = table["weight"].to_numpy().astype(np.float64)
        up_to = torch.from_numpy(_up_to(weight if order is None else weight[order], first.numpy()))
        return cls(first, torch.from_numpy(other.astype(np.int32)), up_to)

    @classmethod
    def of_lists(cls, table: pa.Table, num_items: int) -> Self:
        """From item_idx and neighbours, one row an item, in any order; raises BadDataError for items that are not known."""
        return cls.of_pairs(_pairs(table["item_idx"], table["neighbours"]), num_items, weighted=False)

    @classmethod
    def of_users(cls, table: pa.Table, num_users: int, num_items: int) -> Self:
        """From user_idx and items, one row a user, in any order: row i is of user i. Raises as of_pairs."""
        return cls.of_pairs(_pairs(table["user_idx"], table["items"]), num_items, weighted=False, num_rows=num_users)

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """From arrays by name."""
        return cls(arrays["first"], arrays["other"], arrays.get("up_to"))

    def arrays(self) -> dict[str, Tensor]:
        """What `of` takes."""
        return {"first": self.first, "other": self.other} | ({} if self.up_to is None else {"up_to": self.up_to})

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(
            self, first=self.first.to(device), other=self.other.to(device), up_to=None if self.up_to is None else self.up_to.to(device)
        )

    def count(self, items: Tensor) -> Tensor:
        """int64[...]: how many go with each of these items."""
        return self.first[items + 1] - self.first[items]

    def draw(self, items_B: Tensor, u_B: Tensor) -> tuple[Tensor, Tensor]:
        """One related item of each by weight: (item_idx int64[B], 0 = none; found bool[B]). u: float64[B], uniform in [0, 1).

        Source: MicRec (Xie et al. 2022) 3.5, in proportion to co-occurrence.
        """
        start_B, count_B = self.first[items_B], self.count(items_B)
        if self.up_to is None:
            place_B = start_B + (u_B * count_B).long().clamp(max=(count_B - 1).clamp(min=0))
        else:
            place_B = self._bisect(start_B, start_B + count_B, self.up_to, u_B.float(), right=True)
        found_B = count_B > 0
        if not len(self.other):
            return torch.zeros_like(items_B), found_B
        return self.other[place_B.clamp(max=len(self.other) - 1)].long().masked_fill(~found_B, 0), found_B

    def contains(self, items_B: Tensor, others_BM: Tensor) -> Tensor:
        """bool[B, M]: whether each of the others goes with the item of its row."""
        if not len(self.other):
            return torch.zeros_like(others_BM, dtype=torch.bool)
        stop_BM = self.first[items_B + 1][:, None].expand_as(others_BM)
        place_BM = self._bisect(self.first[items_B][:, None].expand_as(others_BM), stop_BM, self.other, others_BM, right=False)
        return (place_BM < stop_BM) & (self.other[place_BM.clamp(max=len(self.other) - 1)] == others_BM)

    def _bisect(self, low: Tensor, high: Tensor, values: Tensor, wanted: Tensor, *, right: bool) -> Tensor:
        """The first place of low..high whose value is not smaller than wanted (right: is larger), high where there is none."""
        widest = int((high - low).max()) if low.numel() else 0
        for _ in range(widest.bit_length()):
            middle = (low + high) // 2
            found = values[middle.clamp(max=len(values) - 1)]
            on = (middle < high) & ((found <= wanted) if right else (found < wanted))
            low, high = torch.where(on, middle + 1, low), torch.where(on, high, middle)
        return low


def _pairs(own: pa.ChunkedArray, lists: pa.ChunkedArray) -> pa.Table:
    length = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return pa.table({"item_i": np.repeat(own.to_numpy().astype(np.int64), length), "item_j": pc.list_flatten(lists).to_numpy()})


def _first(own: Array, other: Array, num_rows: int, num_items: int) -> Tensor:
    for name, values, num in (("item_i", own, num_rows), ("item_j", other, num_items)):
        if len(values) and (values.min() < 1 or values.max() > num):
            fault = Fault(f"{name} holds {values.min()} to {values.max()}", f"known are 1 to {num}", _AGAIN)
            raise BadDataError("related items", [fault])
    return torch.from_numpy(np.searchsorted(own, np.arange(num_rows + 2)))


def _up_to(weight: Array, first: Array) -> npt.NDArray[np.float32]:
    """Cumulated weights of each row over their sum."""
    total = np.concatenate(([0.0], np.cumsum(weight)))
    length = np.diff(first)
    before, whole = np.repeat(total[first[:-1]], length), np.repeat(total[first[1:]] - total[first[:-1]], length)
    share: npt.NDArray[np.float32] = ((total[1:] - before) / whole).astype(np.float32)
    share[first[1:][length > 0] - 1] = 1
    return share
