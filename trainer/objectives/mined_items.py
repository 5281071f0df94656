"""What mining adds to MIC's contrast from users to items: of the items that a user would be recommended.

Source: MIC (Lu et al. 2022) 3.3.2.
"""

# ruff: noqa: N815  (names of fields carry shapes, too)

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.mining import Mined
from trainer.mining.recommended import Recommended
from trainer.mining.side import Drawn, Key
from trainer.objectives.contrast import joined, rest_of_scores
from trainer.objectives.similarity import unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose


@dataclass(frozen=True)
class MinedItems:
    """M items of each row: one positive, or hard negatives. idx_BM: item_idx, 0 = none. vector_BMD: unit, in the joint space.

    weight: of a positive, beside the clicked item's 1.
    """

    positive: bool
    weight: float
    vector_BMD: Tensor
    valid_BM: Tensor
    idx_BM: Tensor

    def not_positive(self, valid_BN: Tensor, idx_N: Tensor) -> Tensor:
        """Which columns are negatives: none that is the row's positive."""
        return valid_BN & (idx_N != self.idx_BM) if self.positive else valid_BN

    def rest(self, rest_B: Tensor, user_BD: Tensor, temperature: float) -> Tensor:
        """float[B]: ln of the sum of exp over what rest_B sums up and the hard negatives."""
        return rest_B if self.positive else joined(rest_B, rest_of_scores(self._scores(user_BD) / temperature, self.valid_BM))

    def loss(self, rows: Callable[[Tensor], tuple[Tensor, Tensor]], own_B: Tensor, user_BD: Tensor) -> Tensor:
        """float[B]: the mean, by weight, of the row's loss and that of its positive, which is `rows` of its similarity float[B, 1]."""
        if not self.positive:
            return own_B
        weight_B = self.weight * self.valid_BM[:, 0].to(own_B.dtype)
        return (own_B + weight_B * rows(self._scores(user_BD))[0]) / (1 + weight_B)

    def _scores(self, user_BD: Tensor) -> Tensor:
        return torch.einsum("bd,bmd->bm", user_BD, self.vector_BMD)


def mined_items(step: Step, user_BD: Tensor, project: Callable[[Tensor], Tensor]) -> MinedItems | None:
    """What is drawn for the rows, whose users as compared are user_BD; None where nothing is mined between users and items.

    Notes, as means over the rows of all ranks or over what was drawn for them: mined.uv.staleness (steps since the search), .found (items
    drawn a row), .similarity (of positives, as of the search), .false_negatives (share of what hard negatives are drawn from that the row
    knows its user to like: it is not drawn, but the like of it that no row knows is). Every rank calls it. project: items into the joint
    space, for those that are encoded again.
    """
    mined = step.mining
    if mined is None or mined.recommended is None:
        return None
    given, lists, batch = mined.given, mined.recommended, step.batch
    positive, device = given.user_items == "positive", user_BD.device
    drawn = lists.draw(
        batch["user_idx"].cpu(),
        batch["row"].cpu(),
        step.known_positives.cpu(),
        1 if positive else given.hard_negatives,
        least=given.user_items_min_similarity if positive else -1.0,
        key=Key(step.seed, step.step, int(Purpose.RECOMMENDED)),
    )
    _note(step, mined, lists, drawn)
    if positive and given.encode == "live":
        idx_u, which_B = torch.unique(drawn.idx_BM.clamp(min=1).to(device).flatten(), return_inverse=True)
        encoded_uD = step.encoder.item(idx_u, noise=step.words(Purpose.RECOMMENDED, idx_u))
        vector_BMD = unit(project(encoded_uD)).index_select(0, which_B)[:, None]
    else:
        vector_BMD = unit(lists.vectors_of(drawn.entity_BM)[:, :, 0].to(device, user_BD.dtype))
    return MinedItems(positive, given.user_items_weight, vector_BMD, drawn.valid_BM.to(device), drawn.idx_BM.to(device))


def _note(step: Step, mined: Mined, lists: Recommended, drawn: Drawn) -> None:
    if not step.watch:
        return
    there_BR, liked_BR = lists.liked(step.batch["user_idx"].cpu(), step.known_positives.cpu())
    assert drawn.similarity_BM is not None
    own = [drawn.valid_BM.sum(), drawn.similarity_BM[drawn.valid_BM].double().sum(), there_BR.sum(), liked_BR.sum()]
    sums = step.backend.sum(torch.stack([x.double() for x in own]).to(step.batch["row"].device))
    found, similarity, listed, false = sums
    step.note("mined.uv.staleness", sums.new_tensor(step.step - mined.step))
    step.note("mined.uv.found", found / sum(step.counts))
    if mined.given.user_items == "positive":
        step.note("mined.uv.similarity", similarity / found.clamp(min=1))
    else:
        step.note("mined.uv.false_negatives", false / listed.clamp(min=1))
