"""Validation recall: does the model find what a sample of users clicked next, among all eligible items?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional as F

from conf import draws
from conf.fields import Registry
from conf.settings import Settings
from conf.tables import VALID
from trainer.backends import Backend
from trainer.batches import Samples
from trainer.batches.arrow import read_group
from trainer.batches.columns import PLAIN, to_numpy
from trainer.catalogue import UserTable, padded
from trainer.encoders import Batch, Encoder
from trainer.shared import Shared
from trainer.tables import read_table

_BATCH = "batch."  # before a column of the batch, in the name of its array
_SCORES = 1 << 24  # scores held at a time: 64 MB
_ITEMS = 8192  # items encoded at a time
_USERS = 1024  # users encoded at a time, at most

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Queries:
    """One query a user.

    batch: the history before the user's first validation click, and the user fields. truth: int64[U, T], item_idx of all validation
    clicks of the user, each once, 0-padded. seen: int64[U, S], item_idx never recommended, 0-padded.
    """

    batch: Batch
    truth: Tensor
    seen: Tensor

    def to(self, device: torch.device) -> "Queries":
        """The same on a device."""
        return Queries({name: column.to(device) for name, column in self.batch.items()}, self.truth.to(device), self.seen.to(device))

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """From arrays by name."""
        batch = {name.removeprefix(_BATCH): column for name, column in arrays.items() if name.startswith(_BATCH)}
        return cls(batch, arrays["truth"], arrays["seen"])

    def arrays(self) -> dict[str, Tensor]:
        """What `of` takes."""
        return {f"{_BATCH}{name}": column for name, column in self.batch.items()} | {"truth": self.truth, "seen": self.seen}

    def share(self, rank: int, size: int) -> "Queries":
        """Every size-th user, from this one on."""
        rows = slice(rank, None, size)
        return Queries({name: column[rows] for name, column in self.batch.items()}, self.truth[rows], self.seen[rows])

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self.truth)


def read_queries(
    samples: Samples, settings: Settings, users: UserTable | None, user_state: Sequence[str], shared: Shared
) -> Queries | None:
    """This rank's share of the queries, which one worker of each host reads; None where nothing was held out. Collective.

    Args:
        user_state: files of the table, from which the train items of these users are read if they are to be masked.

    Raises:
        BadDataError: a file cannot be read. TrainingError: that happened to another worker.
    """
    if not samples.valid_rows:
        return None
    whole = Queries.of(shared.once(lambda: _of_everyone(samples, settings, users, user_state).arrays()))
    return whole.share(shared.backend.rank, shared.backend.size)


def _of_everyone(samples: Samples, settings: Settings, users: UserTable | None, user_state: Sequence[str]) -> Queries:
    """The queries of at most trainer.valid_users users, by smallest hash of user_idx."""
    rows = _valid_rows(samples, settings)
    everyone = np.unique(rows["user_idx"])
    by_hash = np.lexsort((everyone, draws.words64(settings.trainer.seed, everyone)))
    chosen = np.sort(everyone[by_hash[: settings.trainer.valid_users]])
    order = np.argsort(rows["sample_id"], kind="stable")  # by user, then by time
    order = order[np.isin(rows["user_idx"][order], chosen)]
    _, first = np.unique(rows["user_idx"][order], return_index=True)
    batch = _batch({name: column[order[first]] for name, column in rows.items()}, settings.registry(), users)
    truth = _grouped(rows["user_idx"][order], rows["item_idx"][order], chosen)
    held_out = np.bincount(np.searchsorted(chosen, rows["user_idx"][order]), minlength=len(chosen))
    return Queries(batch, truth, _seen(batch["hist"], chosen, settings, user_state, held_out))


def recall(
    encoder: Encoder, queries: Queries, eligible: Tensor, *, at: int, backend: Backend, beat: Callable[[], None] = lambda: None
) -> float:
    """Mean over users of the share of their truth among the first `at` items; collective.

    Args:
        eligible: int64[n], item_idx of the items that may be recommended.
        beat: called as work goes on.
    """
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        items_nD = torch.cat([_comparable(encoder, encoder.item(part)) for part in torch.split(eligible, _ITEMS)])
        column = torch.full(
            (int(eligible.max()) + 1,), -1, dtype=torch.int64, device=eligible.device
        )  # item_idx -> column of the scores, -1 = not eligible
        column[eligible] = torch.arange(len(eligible), device=eligible.device)
        total, step = 0.0, max(1, min(_USERS, _SCORES // len(eligible)))
        # every rank as often as the one with the most users: encoding is collective where tables are divided over the ranks
        for start in range(0, -backend.agree_min(-queries.users), step):
            beat()
            rows = slice(start, start + step)
            users_BKD = _comparable(encoder, encoder.user({name: x[rows] for name, x in queries.batch.items()}))
            scores_Bn = torch.einsum("bkd,nd->bkn", users_BKD, items_nD).amax(dim=1)
            truth_BT = queries.truth[rows]
            hits_B = _hits(scores_Bn, _columns(column, queries.seen[rows]), _columns(column, truth_BT), at)
            total += float((hits_B / (truth_BT > 0).sum(dim=1)).double().sum())
    encoder.train(training)
    hits, users = backend.sum(torch.tensor([total, queries.users], dtype=torch.float64)).tolist()
    return float(hits / users)


def _hits(scores_Bn: Tensor, seen_BS: Tensor, truth_BT: Tensor, at: int) -> Tensor:
    """int64[B]: how much of the truth is among the best `at` that are not seen. seen, truth: columns of the scores, n = none."""
    padded_Bn = F.pad(scores_Bn, (0, 1), value=-torch.inf).scatter_(1, seen_BS, -torch.inf)
    best = padded_Bn.topk(min(at, scores_Bn.shape[1]), dim=1)
    chosen_Bn = torch.zeros_like(padded_Bn, dtype=torch.bool).scatter_(1, best.indices, best.values > -torch.inf)
    return chosen_Bn.gather(1, truth_BT).sum(dim=1)


def _columns(column: Tensor, ids: Tensor) -> Tensor:
    """item_idx (0-padded) -> column of the scores; one past the last where the item is not eligible, or padding."""
    known = torch.where(ids < len(column), column[ids.clamp(max=len(column) - 1)], -1)
    return torch.where((ids > 0) & (known >= 0), known, int(column.max()) + 1)


def _comparable(encoder: Encoder, vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1, eps=1e-6) if encoder.similarity == "cosine" else vectors


def _valid_rows(samples: Samples, settings: Settings) -> dict[str, npt.NDArray[np.generic]]:
    singles = tuple(field.name for field in settings.registry().user if field.role == "single")
    parts: list[Mapping[str, npt.NDArray[np.generic]]] = []
    for group, valid in zip(samples.groups, samples.valid, strict=True):
        if valid:
            table = read_group(group, PLAIN + singles)
            parts.append(to_numpy(table.filter(pc.equal(table["split"], VALID)), group, settings.model.history))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batch(rows: Mapping[str, npt.NDArray[np.generic]], registry: Registry, users: UserTable | None) -> Batch:
    batch = {name: torch.from_numpy(rows[name].astype(np.int64)) for name in ("user_idx", "item_idx", "hist", "hist_len")}
    for field in registry.user:
        if field.role == "single":
            batch[f"user.{field.name}"] = torch.from_numpy(rows[field.name].astype(np.int64))
        elif users is not None:
            batch[f"user.{field.name}"] = users.multi[field.name][batch["user_idx"]].long()
    return batch


def _grouped(user: npt.NDArray[np.generic], item: npt.NDArray[np.generic], chosen: npt.NDArray[np.generic]) -> Tensor:
    """int64[U, most]: the distinct items of each chosen user (sorted), 0-padded; every chosen user has one at least."""
    pairs = np.unique(np.stack([user.astype(np.int64), item.astype(np.int64)]), axis=1)
    row = np.searchsorted(chosen, pairs[0])
    start = np.searchsorted(pairs[0], chosen)
    place = np.arange(pairs.shape[1]) - start[row]
    out = np.zeros((len(chosen), int(place.max(initial=0)) + 1), dtype=np.int64)
    out[row, place] = pairs[1]
    return torch.from_numpy(out)


def _seen(
    hist_UL: Tensor, chosen: npt.NDArray[np.generic], settings: Settings, user_state: Sequence[str], held_out: npt.NDArray[np.int64]
) -> Tensor:
    """held_out: validation clicks of each user; with split.refit the state of a user ends with them."""
    if settings.channels.seen == "none":
        return hist_UL[:, :0]
    if settings.channels.seen == "history":
        return hist_UL
    table = read_table(user_state, ["user_idx", "items"], pc.field("user_idx").isin(pa.array(chosen)))
    table = table.sort_by("user_idx")
    width = int(pc.max(pc.list_value_length(table["items"])).as_py() or 1)
    items = np.zeros((len(chosen), width), dtype=np.int64)
    place = np.searchsorted(chosen, table["user_idx"].to_numpy())
    items[place] = padded(table["items"], width)
    if settings.split.refit:
        kept = pc.list_value_length(table["items"]).to_numpy() - held_out[place]
        items[place] = np.where(np.arange(width) < kept[:, None], items[place], 0)
    return torch.cat([hist_UL, torch.from_numpy(items)], dim=1)
