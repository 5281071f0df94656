"""What a search found for the users or the items, as of one moment, and the draws from it."""

# ruff: noqa: N815  (names of fields carry shapes, too)

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from trainer.randomness import u01

REDRAWS = 3

ARRAYS = ("anchors", "bank", "vectors", "neighbours", "similarities", "clusters", "members", "offsets", "near")


@dataclass(frozen=True)
class Key:
    """What a draw is keyed by, beside the global numbers of the rows that ask."""

    seed: int
    step: int
    purpose: int

    def u01(self, *words: Tensor | int) -> Tensor:
        """float64 in [0, 1) of the broadcast shape of `words`."""
        return u01(self.seed, self.step, self.purpose, *words)


@dataclass(frozen=True)
class Drawn:
    """idx_BM: int64, user_idx or item_idx, 0 = none. entity_BM: int64, its place in the bank. valid_BM: bool.

    similarity_BM: float32, as of the search (positives only).
    """

    idx_BM: Tensor
    entity_BM: Tensor
    valid_BM: Tensor
    similarity_BM: Tensor | None = None


@dataclass(frozen=True)
class Side:
    """A entities that ask, n of them in the bank with K vectors each; row r of the bank is vector r % K of entity r // K.

    anchors: int64[A], idx, ascending. bank: int64[n], places in anchors, ascending. vectors: float16[n, K, D], unit or zero.
    neighbours: int32[A, K, k], rows of the bank, best first, -1 = none. similarities: float32[A, K, k].
    clusters: int32[A, K], -1 = none (a zero vector). members: int64[], rows of the bank by cluster. offsets: int64[C + 1], where each
    cluster begins. near: int32[C, m], the closest other clusters. No cluster is empty.
    """

    anchors: Tensor
    bank: Tensor
    vectors: Tensor
    neighbours: Tensor
    similarities: Tensor
    clusters: Tensor
    members: Tensor
    offsets: Tensor
    near: Tensor

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """From arrays by name."""
        return cls(**{name: arrays[name] for name in ARRAYS})

    def arrays(self) -> dict[str, Tensor]:
        """What `of` takes."""
        return {name: getattr(self, name) for name in ARRAYS}

    @property
    def num_clusters(self) -> int:
        """C."""
        return len(self.offsets) - 1

    def places(self, idx_B: Tensor) -> tuple[Tensor, Tensor]:
        """(int64[B] place among the anchors, bool[B] whether it is one)."""
        at_B = torch.searchsorted(self.anchors, idx_B).clamp(max=len(self.anchors) - 1)
        return at_B, self.anchors[at_B] == idx_B

    def vectors_of(self, entity: Tensor) -> Tensor:
        """float32[..., K, D] of places in the bank."""
        return self.vectors[entity].float()

    def positives(self, idx_B: Tensor, row_B: Tensor, num: int, *, min_similarity: float, key: Key) -> Drawn:
        """`num` different neighbours of each, uniform among those similar enough and of the cluster of the vector that they are near to."""
        at_B, known_B = self.places(idx_B)
        valid_Bc = self.good_neighbours(at_B, min_similarity).flatten(1) & known_B[:, None]
        entity_Bc = self.neighbours[at_B].long().flatten(1).clamp(min=0) // self.vectors.shape[1]
        chosen_Bn, valid_Bn = chosen_by_luck(entity_Bc, valid_Bc, row_B, num, key)
        entity_Bn = entity_Bc.gather(1, chosen_Bn)
        similar_Bn = self.similarities[at_B].flatten(1).gather(1, chosen_Bn)
        return Drawn(self._idx(entity_Bn, valid_Bn), entity_Bn, valid_Bn, similar_Bn)

    def good_neighbours(self, at_B: Tensor, min_similarity: float) -> Tensor:
        """bool[B, K, k], by place among the anchors: which neighbours are similar enough and of the same cluster."""
        near_BKk = self.neighbours[at_B].long()
        same_BKk = self._cluster_of(near_BKk.clamp(min=0)) == self.clusters[at_B].long()[:, :, None]
        return (near_BKk >= 0) & (self.similarities[at_B] >= min_similarity) & same_BKk

    def hard_negatives(self, idx_B: Tensor, row_B: Tensor, num: int, *, how: Literal["near", "literal"], key: Key) -> Drawn:
        """`num` of each, uniform members of another cluster: one of the closest ones (near), or any (literal).

        Of several vectors, one drawn uniformly says which cluster is the own. Never the entity itself or a neighbour of it: after 3
        redraws such a draw stays and is not valid.
        """
        at_B, known_B = self.places(idx_B)
        none = torch.zeros(len(idx_B), num, dtype=torch.int64)
        if self.num_clusters < 2:
            return Drawn(none, none, none.bool())
        own_BK = self.neighbours[at_B].flatten(1).long()
        rejected_Br = torch.cat([torch.where(own_BK >= 0, own_BK // self.vectors.shape[1], -1), self._entity_of(at_B)[:, None]], dim=1)
        rejected_Br = rejected_Br.sort(dim=1).values
        entity_Bn, valid_Bn = none, none.bool()
        for attempt in range(1 + REDRAWS):
            drawn_Bn, any_Bn = self._members(at_B, row_B, num, how, key, attempt)
            entity_Bn = torch.where(valid_Bn, entity_Bn, drawn_Bn)
            valid_Bn = valid_Bn | (any_Bn & ~_contains(rejected_Br, drawn_Bn))
            if bool(valid_Bn.all()):
                break
        valid_Bn = valid_Bn & known_B[:, None]
        return Drawn(self._idx(entity_Bn, valid_Bn), entity_Bn, valid_Bn)

    def _members(
        self, at_B: Tensor, row_B: Tensor, num: int, how: Literal["near", "literal"], key: Key, attempt: int
    ) -> tuple[Tensor, Tensor]:
        """(int64[B, num] drawn entities, bool[B, num] whether the own cluster is known)."""

        def lucky(which: int) -> Tensor:
            return key.u01(row_B[:, None], attempt, which, torch.arange(num))  # the widest word last: one pass over [B, num], not four

        which_Bn = _below(self.vectors.shape[1], lucky(0))
        own_Bn = self.clusters[at_B].long().gather(1, which_Bn)
        choices = self.near.shape[1] if how == "near" else self.num_clusters - 1
        choice_Bn = _below(choices, lucky(1))
        near = how == "near"
        cluster_Bn = self.near[own_Bn.clamp(min=0), choice_Bn].long() if near else choice_Bn + (choice_Bn >= own_Bn)
        first_Bn, stop_Bn = self.offsets[cluster_Bn], self.offsets[cluster_Bn + 1]
        member_Bn = first_Bn + _below(stop_Bn - first_Bn, lucky(2))
        return self.members[member_Bn] // self.vectors.shape[1], own_Bn >= 0

    def _cluster_of(self, rows: Tensor) -> Tensor:
        interests = self.vectors.shape[1]
        return self.clusters[self.bank[rows // interests], rows % interests].long()

    def _entity_of(self, at_B: Tensor) -> Tensor:
        """int64[B]: place in the bank of each anchor, -1 where it is not there."""
        entity_B = torch.searchsorted(self.bank, at_B).clamp(max=len(self.bank) - 1)
        return torch.where(self.bank[entity_B] == at_B, entity_B, -1)

    def _idx(self, entity: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, self.anchors[self.bank[entity]], 0)


def chosen_by_luck(
    entity_Bc: Tensor, valid_Bc: Tensor, row_B: Tensor, num: int, key: Key, *, repeats: bool = True
) -> tuple[Tensor, Tensor]:
    """(int64[B, min(num, c)] columns, bool which are valid): different entities, uniform among the valid ones of each row.

    repeats: an entity may stand in several columns, as it may be near in several of its vectors.
    """
    if repeats:
        valid_Bc = valid_Bc & ~_repeated(entity_Bc.masked_fill(~valid_Bc, -1))
    luck_Bc = key.u01(row_B[:, None], torch.arange(entity_Bc.shape[1])).masked_fill(~valid_Bc, -1)
    chosen_Bn = luck_Bc.topk(min(num, entity_Bc.shape[1]), dim=1).indices
    return chosen_Bn, valid_Bc.gather(1, chosen_Bn)


def _below(bound: Tensor | int, u: Tensor) -> Tensor:
    """int64 in [0, bound) from u in [0, 1)."""
    return torch.minimum((u * bound).long(), torch.as_tensor(bound) - 1)


def _contains(sorted_Br: Tensor, values_Bn: Tensor) -> Tensor:
    at_Bn = torch.searchsorted(sorted_Br, values_Bn.contiguous()).clamp(max=sorted_Br.shape[1] - 1)
    return sorted_Br.gather(1, at_Bn) == values_Bn


def _repeated(values_Bc: Tensor) -> Tensor:
    """bool[B, c]: whether the value stands earlier in its row; -1 never does."""
    same_Bcc = values_Bc[:, :, None] == values_Bc[:, None, :]
    earlier_cc = torch.ones(values_Bc.shape[1], values_Bc.shape[1], dtype=torch.bool).tril(-1)
    return (same_Bcc & earlier_cc).any(dim=2) & (values_Bc >= 0)
