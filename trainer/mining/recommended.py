"""What each training user would be recommended, as of one search: mining between users and items, in their joint space.

Source: MIC (Lu et al. 2022) 3.3.2, "users retrieve items". What a model recommends may be wrong, and learning from it is
self-training: off by default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.mining.queries import UserQueries
from trainer.mining.search import unit
from trainer.mining.side import Drawn, Key, chosen_by_luck
from trainer.shared import Shared

USERS, _BLOCK = 256, 16384  # users that are served at a time; items compared with them at a time

LISTS = ("users", "items", "vectors", "listed", "similarities")

Encode = Callable[[Tensor], Tensor]
"""int64[n], places among the users or items -> float[n, K, D] in the joint space, not normalised; items have K = 1."""


@dataclass(frozen=True)
class Recommended:
    """users: int64[U], user_idx, ascending. items: int64[n], item_idx, ascending. vectors: float16[n, 1, D], unit.

    listed: int32[U, R], places among the items, best first, none of the user's history, -1 = none. similarities: float32[U, R], cosine
    with the closest of the user's vectors.
    """

    users: Tensor
    items: Tensor
    vectors: Tensor
    listed: Tensor
    similarities: Tensor

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """From arrays by name."""
        return cls(**{name: arrays[name] for name in LISTS})

    def arrays(self) -> dict[str, Tensor]:
        """What `of` takes."""
        return {name: getattr(self, name) for name in LISTS}

    def draw(self, user_B: Tensor, row_B: Tensor, known_BR: Tensor, num: int, *, least: float, key: Key) -> Drawn:
        """`num` different items of each user's list, uniform among those not in known_BR (item_idx, 0 = none) and similar enough."""
        at_B = self._at(user_B)
        entity_BR, similar_BR = self.listed[at_B].long().clamp(min=0), self.similarities[at_B]
        there_BR, liked_BR = self.liked(user_B, known_BR)
        chosen_Bn, valid_Bn = chosen_by_luck(entity_BR, there_BR & ~liked_BR & (similar_BR >= least), row_B, num, key, repeats=False)
        entity_Bn = entity_BR.gather(1, chosen_Bn)
        idx_Bn = self.items[entity_Bn].masked_fill(~valid_Bn, 0)
        return Drawn(idx_Bn, entity_Bn, valid_Bn, similar_BR.gather(1, chosen_Bn))

    def liked(self, user_B: Tensor, known_BR: Tensor) -> tuple[Tensor, Tensor]:
        """(bool[B, R]: whether there is an item at that place of the user's list; bool[B, R]: whether it is in known_BR)."""
        at_B = self._at(user_B)
        listed_BR = self.listed[at_B].long()
        there_BR = (listed_BR >= 0) & (self.users[at_B] == user_B)[:, None]
        liked_BR = (self.items[listed_BR.clamp(min=0)][:, :, None] == known_BR[:, None, :]).any(dim=2)
        return there_BR, there_BR & liked_BR

    def _at(self, user_B: Tensor) -> Tensor:
        return torch.searchsorted(self.users, user_B).clamp(max=len(self.users) - 1)

    def vectors_of(self, entity: Tensor) -> Tensor:
        """float32[..., 1, D] of places among the items."""
        return self.vectors[entity].float()


def recommend(
    queries: UserQueries,
    items: Tensor,
    encode_users: Encode,
    encode_items: Encode,
    shared: Shared,
    *,
    first: int,
    last: int,
) -> Recommended:
    """Exact search of all items for all users; collective. items: int64[n], ascending. first, last: ranks that are kept, from 1."""
    vectors = shared.fill(len(items), ("vectors",), lambda rows: (_half(encode_items(torch.arange(rows.start, rows.stop))),), chunk=1024)
    bank_nD = vectors["vectors"][:, 0]

    def found(rows: slice) -> tuple[Tensor, ...]:
        user_cKD = unit(encode_users(torch.arange(rows.start, rows.stop)))
        known_cL = _places(items, queries.hist[rows].long()).to(shared.device)
        place_cm, score_cm = best_items(user_cKD, bank_nD, known_cL, last)
        return place_cm[:, first - 1 :].to(torch.int32), score_cm[:, first - 1 :]

    lists = shared.fill(len(queries.idx), ("listed", "similarities"), found, chunk=USERS)
    return Recommended(queries.idx, items, vectors["vectors"], lists["listed"], lists["similarities"])


def best_items(user_cKD: Tensor, bank_nD: Tensor, known_cL: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """(int64[c, num] places, -1 where there is none; float[c, num] similarities, 0 there), without the known places (-1 = none)."""
    device = user_cKD.device
    score_cm = torch.full((len(user_cKD), num), -torch.inf, device=device)
    place_cm = torch.full((len(user_cKD), num), -1, dtype=torch.int64, device=device)
    for start in range(0, len(bank_nD), _BLOCK):
        block_bD = unit(bank_nD[start : start + _BLOCK].to(device))
        score_cb = torch.einsum("ckd,bd->ckb", user_cKD, block_bD).amax(dim=1)
        local_cL = torch.where((known_cL >= start) & (known_cL < start + len(block_bD)), known_cL - start, len(block_bD))
        score_cb = F.pad(score_cb, (0, 1)).scatter_(1, local_cL, -torch.inf)[:, :-1]
        best = torch.cat([score_cm, score_cb], dim=1).topk(num, dim=1)
        places = torch.arange(start, start + len(block_bD), device=device).expand(len(user_cKD), -1)
        place_cm, score_cm = torch.cat([place_cm, places], dim=1).gather(1, best.indices), best.values
    none_cm = score_cm == -torch.inf
    return place_cm.masked_fill(none_cm, -1), score_cm.masked_fill(none_cm, 0)


def _places(items: Tensor, wanted: Tensor) -> Tensor:
    """int64: the place of each item_idx among the items, -1 where it is not there."""
    at = torch.searchsorted(items, wanted).clamp(max=len(items) - 1)
    return torch.where(items[at] == wanted, at, -1)


def _half(vectors: Tensor) -> Tensor:
    return unit(vectors).to(torch.float16)
