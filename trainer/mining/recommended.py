"""What each training user would be recommended, as of one search: mining between users and items, in their joint space.

Source: MIC (Lu et al. 2022) 3.3.2, "users retrieve items". What a model recommends may be wrong, and learning from it is
self-training: off by default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.mining.queries import UserQueries
from trainer.mining.search import unit
from trainer.mining.side import Drawn, Key, chosen_by_luck
from trainer.shared import Shared

RANKS: Mapping[str, tuple[int, int]] = {"positive": (0, 1), "hard_negative": (50, 200)}  # of the list, from 0, that are kept
MIN_SIMILARITY, WEIGHT = 0.8, 0.5  # of a positive, and what it counts beside the clicked item
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
        at_B = torch.searchsorted(self.users, user_B).clamp(max=len(self.users) - 1)
        listed_BR = self.listed[at_B].long()
        entity_BR = listed_BR.clamp(min=0)
        known_BRr = (self.items[entity_BR][:, :, None] == known_BR[:, None, :]).any(dim=2)
        similar_BR = self.similarities[at_B]
        there_BR = (listed_BR >= 0) & (self.users[at_B] == user_B)[:, None]
        chosen_Bn, valid_Bn = chosen_by_luck(entity_BR, there_BR & ~known_BRr & (similar_BR >= least), row_B, num, key, repeats=False)
        entity_Bn = entity_BR.gather(1, chosen_Bn)
        idx_Bn = self.items[entity_Bn].masked_fill(~valid_Bn, 0)
        return Drawn(idx_Bn, entity_Bn, valid_Bn, similar_BR.gather(1, chosen_Bn))

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
    keep: Literal["positive", "hard_negative"],
) -> Recommended:
    """Exact search of all items for all users; collective. items: int64[n], ascending."""
    vectors = shared.fill(len(items), ("vectors",), lambda rows: (_half(encode_items(torch.arange(rows.start, rows.stop))),), chunk=1024)
    bank_nD = vectors["vectors"][:, 0]
    first, last = RANKS[keep]

    def found(rows: slice) -> tuple[Tensor, ...]:
        user_cKD = unit(encode_users(torch.arange(rows.start, rows.stop)))
        known_cL = _places(items, queries.hist[rows].long()).to(shared.device)
        place_cm, score_cm = best_items(user_cKD, bank_nD, known_cL, last)
        return place_cm[:, first:].to(torch.int32), score_cm[:, first:]

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
