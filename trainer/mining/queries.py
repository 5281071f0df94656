"""What stands for each training user in the bank: the query that retrieval would make, as of the end of train."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from conf.settings import Settings
from conf.tables import VALID
from trainer.batches import Samples
from trainer.batches.arrow import read_group
from trainer.batches.survey import Integers
from trainer.catalogue import UserTable
from trainer.encoders import Batch
from trainer.export import last_items
from trainer.shared import Shared
from trainer.tables import Tables, read_table, read_users

_ROWS = 1 << 18  # of user_state turned into histories at a time: bounds the memory of it


@dataclass(frozen=True)
class UserQueries:
    """One row a user with a train event, ascending.

    idx: int64[U], user_idx. hist: int32[U, L], the last L train items, oldest first, 0 at the end. hist_len: int32[U].
    features: fields by user_idx; None where users have none.
    """

    idx: Tensor
    hist: Tensor
    hist_len: Tensor
    features: UserTable | None

    def batch(self, rows: slice | Tensor) -> Batch:
        """What an encoder reads of these rows."""
        batch = {"user_idx": self.idx[rows], "hist": self.hist[rows].long(), "hist_len": self.hist_len[rows].long()}
        if self.features is not None:
            fields = {**self.features.single, **self.features.multi}
            batch |= {f"user.{name}": values[batch["user_idx"]].long() for name, values in fields.items()}
        return batch

    def to(self, device: torch.device | str) -> "UserQueries":
        """The same with fields on a device; histories stay where they are mapped."""
        return replace(self, features=None if self.features is None else self.features.to(device))


def read_queries(tables: Tables, samples: Samples, settings: Settings, shared: Shared) -> UserQueries:
    """From user_state, which ends before anything held out; with split.refit, its validation events are taken off again.

    Unlike the last train row of each user in samples, it needs one row a user to be read, and holds the last train item itself.
    Collective.
    """
    held_out = _held_out(samples, shared) if settings.split.refit and samples.valid_rows else None

    def build() -> dict[str, Tensor]:
        state = read_table(tables.user_state, ["user_idx", "items", "num_train"]).sort_by("user_idx")
        parts = [_histories(state.slice(at, _ROWS), settings.model.history, held_out) for at in range(0, max(len(state), 1), _ROWS)]
        return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    features, registry = tables.users, settings.registry()
    if features is None and registry.user:
        features = read_users(tables.user_feat, registry, shared)
    return UserQueries(**shared.once(build), features=features)


def _histories(state: pa.Table, length: int, held_out: Tensor | None) -> dict[str, Integers]:
    idx = state["user_idx"].to_numpy().astype(np.int64)
    items = state["items"]
    if held_out is not None:
        by_user = np.append(held_out.numpy(), 0)  # the last is for users beyond those that have any held out
        known = pc.list_value_length(items).to_numpy() - by_user[np.minimum(idx, len(held_out))]
        items = _shortened(items, known)
    hist, hist_len = last_items(items, length)
    kept = (hist_len > 0) & (state["num_train"].to_numpy() > 0)
    return {"idx": idx[kept], "hist": hist[kept].astype(np.int32), "hist_len": hist_len[kept].astype(np.int32)}


def _shortened(items: pa.ChunkedArray, length: Integers) -> pa.ListArray:
    """The first `length` of each list."""
    lists = items.combine_chunks()
    sizes = pc.list_value_length(lists).to_numpy()
    values = np.asarray(lists.flatten())
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(values)) - np.repeat(starts, sizes)
    offsets = np.concatenate(([0], np.cumsum(np.clip(length, 0, sizes)))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[place < np.repeat(length, sizes)]))


def _held_out(samples: Samples, shared: Shared) -> Tensor:
    """int64[users + 1]: validation events by user_idx, each worker counting its share of the row groups."""
    backend, found = shared.backend, []
    groups: Sequence[int] = [number for number, valid in enumerate(samples.valid) if valid]
    for number in groups[backend.rank :: backend.size]:
        rows = read_group(samples.groups[number], ("user_idx", "split"))
        found.append(rows.filter(pc.equal(rows["split"], VALID))["user_idx"].to_numpy().astype(np.int64))
        shared.beat()
    own = np.concatenate([*found, np.zeros(0, np.int64)])
    largest = -backend.agree_min(-int(own.max(initial=0)))
    return backend.sum(torch.from_numpy(np.bincount(own, minlength=largest + 1)))
