"""What mining adds to MIC's contrasts among users and among items.

Source: MIC (Lu et al. 2022) 3.3.2; Dwibedi et al. 2021 (NNCLR) for neighbours as positives.
"""

# ruff: noqa: N815  (names of fields carry shapes, too)

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.mining import Mined
from trainer.mining.recent import Recent
from trainer.mining.side import Drawn, Key
from trainer.objectives.contrast import joined, rest_of_scores
from trainer.objectives.similarity import paired_set_similarity, set_similarity, unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose

Compared = Callable[[Tensor], Tensor]
"""Vectors of the towers [n, K, D] -> as the loss compares them."""


@dataclass(frozen=True)
class MinedPairs:
    """Of n anchors of this rank. pos_idx_nP: int64, user_idx or item_idx, 0 = none. M hard negatives, 0 of a queue.

    replaces: the positive takes the anchor's place.
    """

    pos_nPKD: Tensor
    pos_valid_nP: Tensor
    pos_idx_nP: Tensor
    hard_nMKD: Tensor
    hard_valid_nM: Tensor
    replaces: bool

    def positives(self, anchor_nKD: Tensor) -> Tensor:
        """float[n, P]: similarity of each anchor with its positives."""
        return _own_similarity(anchor_nKD, self.pos_nPKD)

    def replaced(self, anchor_nKD: Tensor) -> Tensor:
        """The anchors, those with a positive replaced by it."""
        return torch.where(self.pos_valid_nP[:, :1, None], self.pos_nPKD[:, 0], anchor_nKD)

    def not_positive(self, idx_M: Tensor) -> Tensor:
        """bool[n, M]: whether each entity is none of the anchor's positives."""
        return (idx_M != self.pos_idx_nP[:, :, None]).all(dim=1)

    def rest(self, rest_n: Tensor, anchor_nKD: Tensor, temperature: float) -> Tensor:
        """float[n]: ln of the sum of exp over the hard negatives and what rest_n already sums up."""
        return joined(rest_n, rest_of_scores(_own_similarity(anchor_nKD, self.hard_nMKD) / temperature, self.hard_valid_nM))


def mined_pairs(step: Step, part: Literal["uu", "vv"], anchor_nKD: Tensor, chosen_B: Tensor, compared: Compared) -> MinedPairs | None:
    """What is drawn for the rows chosen_B, whose vectors as compared are anchor_nKD; None before the first search.

    Notes, as means over the anchors of all ranks or over what was drawn for them: mined.<part>.staleness (steps since the search),
    .positives (share of anchors with one), .similarity (of the positives, as of the search), .false_negatives (share of the hard
    negatives that the row speaks against: items its user is known to like, users who clicked its item). Every rank calls it.
    """
    mined = step.mining
    if mined is None or not mined.usable:
        return None
    given, side = mined.given, mined.sides["user" if part == "uu" else "item"]
    idx_n = step.batch["user_idx" if part == "uu" else "item_idx"][chosen_B].cpu()
    row_n, device = step.batch["row"][chosen_B].cpu(), anchor_nKD.device
    pos_key = Key(step.seed, step.step, int(Purpose.MINED_POSITIVES if part == "uu" else Purpose.MINED_POSITIVE_ITEMS))
    hard_key = Key(step.seed, step.step, int(Purpose.HARD_NEGATIVES if part == "uu" else Purpose.HARD_NEGATIVE_ITEMS))
    if isinstance(side, Recent):
        side.hold(anchor_nKD.shape[1:])

        def compare(rows: slice, queue_QKD: Tensor) -> Tensor:
            return set_similarity(anchor_nKD[rows], unit(queue_QKD.to(device, anchor_nKD.dtype)))

        pos = side.positives(
            idx_n,
            row_n,
            given.positives,
            neighbours=given.neighbours,
            min_similarity=given.min_similarity,
            compare=compare,
            key=pos_key,
        )
        hard = _none(idx_n)
    else:
        pos = (
            side.positives(idx_n, row_n, given.positives, min_similarity=given.min_similarity, key=pos_key)
            if given.positives
            else _none(idx_n)
        )
        hard = (
            side.hard_negatives(idx_n, row_n, given.hard_negatives, how=given.hard, key=hard_key) if given.hard_negatives else _none(idx_n)
        )
        hard = _without_related(step, part, idx_n, hard)
    _note(step, mined, part, chosen_B, pos, hard)

    def from_bank(drawn: Drawn) -> Tensor:
        vectors = side.vectors_of(drawn.entity_BM.flatten()).to(device, anchor_nKD.dtype)
        return shaped(unit(vectors) if isinstance(side, Recent) else compared(vectors), drawn)

    live = given.encode == "live" and given.positives
    pos_nPKD = shaped(compared(_live(step, mined, part, pos)), pos) if live else from_bank(pos)
    return MinedPairs(pos_nPKD, pos.valid_BM.to(device), pos.idx_BM.to(device), from_bank(hard), hard.valid_BM.to(device), given.replace)


def shaped(vectors: Tensor, drawn: Drawn) -> Tensor:
    """[n M, K, D] -> [n, M, K, D]."""
    return vectors.reshape(*drawn.idx_BM.shape, *vectors.shape[1:])


def remember(step: Step, part: Literal["uu", "vv"], vector_NKD: Tensor, chosen_N: Tensor) -> None:
    """Add the clean vectors of the global batch's entities to the queue, by global row; nothing where there is none."""
    side = step.mining.sides["user" if part == "uu" else "item"] if step.mining else None
    if isinstance(side, Recent):
        order = step.all_ids("row")[chosen_N].argsort()
        side.remember(step.all_ids("user_idx" if part == "uu" else "item_idx")[chosen_N][order], vector_NKD[chosen_N][order])


def _own_similarity(anchor_nKD: Tensor, other_nMKD: Tensor) -> Tensor:
    """float[n, M]: of each anchor with those of its own row."""
    num = other_nMKD.shape[1]
    return paired_set_similarity(anchor_nKD.repeat_interleave(num, dim=0), other_nMKD.flatten(0, 1)).view(len(anchor_nKD), num)


def _none(idx_n: Tensor) -> Drawn:
    none = torch.zeros(len(idx_n), 0, dtype=torch.int64)
    return Drawn(none, none, none.bool(), none.float())


def _without_related(step: Step, part: str, idx_n: Tensor, hard: Drawn) -> Drawn:
    """Items that MicRec's sem and sess would pull towards each other are not pushed apart here."""
    valid = hard.valid_BM
    if part == "vv":
        for name in ("sem_nn", "cooc"):
            related = step.catalogue.related.get(name)
            if related is not None:
                device = related.first.device
                valid = valid & ~related.contains(idx_n.to(device), hard.idx_BM.to(device)).cpu()
    return Drawn(hard.idx_BM, hard.entity_BM, valid)


def _live(step: Step, mined: Mined, part: str, pos: Drawn) -> Tensor:
    """float[n P, K, D]: the positives encoded as they are, each once, with dropout by their own number."""
    device = step.batch["row"].device
    idx_u, which = torch.unique(pos.idx_BM.flatten(), return_inverse=True)
    if part == "vv":
        ids = idx_u.clamp(min=1).to(device)  # where none was drawn, any item: it does not count
        vectors = step.encoder.item(ids, noise=step.words(Purpose.MINED_POSITIVE_ITEMS, ids))[:, None]
    else:
        queries = mined.queries
        assert queries is not None
        rows = torch.searchsorted(queries.idx, idx_u).clamp(max=len(queries.idx) - 1)
        batch = {name: column.to(device) for name, column in queries.batch(rows).items()}
        vectors = step.encoder.user(batch, noise=step.words(Purpose.MINED_POSITIVES, batch["user_idx"]))
    return vectors.index_select(0, which.to(device))


def _note(step: Step, mined: Mined, part: Literal["uu", "vv"], chosen_B: Tensor, pos: Drawn, hard: Drawn) -> None:
    if not step.watch:
        return
    chosen = chosen_B.cpu()
    if part == "vv":
        known = step.known_positives.cpu()[chosen]
        liked = (hard.idx_BM[:, :, None] == known[:, None, :]).any(dim=2)
    elif mined.queries is not None and hard.idx_BM.shape[1]:
        rows = torch.searchsorted(mined.queries.idx, hard.idx_BM).clamp(max=len(mined.queries.idx) - 1)
        liked = (mined.queries.hist[rows] == step.batch["item_idx"].cpu()[chosen][:, None, None]).any(dim=2)
    else:
        liked = torch.zeros_like(hard.valid_BM)
    assert pos.similarity_BM is not None
    own = [
        torch.tensor(len(pos.idx_BM)),
        pos.valid_BM.any(dim=1).sum(),
        pos.valid_BM.sum(),
        pos.similarity_BM[pos.valid_BM].double().sum(),
        hard.valid_BM.sum(),
        (liked & hard.valid_BM).sum(),
    ]
    sums = step.backend.sum(torch.stack([x.double() for x in own]).to(step.batch["row"].device))
    anchors, with_one, positives, similarity, negatives, false = sums
    step.note(f"mined.{part}.staleness", sums.new_tensor(step.step - mined.step))
    if mined.given.positives:
        step.note(f"mined.{part}.positives", with_one / anchors.clamp(min=1))
        step.note(f"mined.{part}.similarity", similarity / positives.clamp(min=1))
    if mined.given.hard_negatives:
        step.note(f"mined.{part}.false_negatives", false / negatives.clamp(min=1))
