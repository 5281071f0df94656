"""MIC's contrasts among users, L_uu, and among items, L_vv."""

from typing import Literal

import torch
from torch import Tensor, nn

from conf.sections.training import Mic
from trainer.objectives.contrast import nce_over, rest_of_product
from trainer.objectives.mined_pairs import MinedPairs, mined_pairs, remember
from trainer.objectives.set_contrast import rest_of_sets
from trainer.objectives.similarity import in_slots, paired_set_similarity, unit
from trainer.objectives.step import Step
from trainer.objectives.views import Views


class SameSide:
    """An entity's other view against those of all other entities of the global batch, by cosine (by set similarity for several interests).

    An entity in several rows is represented by the first one, whatever rank holds it: otherwise it would be its own negative.

    nt_xent: both views of each of the n different entities are anchors, each with 2 (n - 1) negatives (Chen et al. 2020).
    Where something is mined (settings.mining), an anchor's loss is the mean over its other view and its mined positives, none of which
    is a negative, and hard negatives join the others; or its mined positive takes its place (replace).

    literal (settings.objectives.mic.same_side): as printed: the clean view is the anchor, the perturbed one its positive, the clean
        ones of the others its n - 1 negatives, the positive not in the denominator.

    Source: MIC (Lu et al. 2022) eq. 5 and 6.
    """

    def __init__(self, mic: Mic, part: Literal["uu", "vv"], project: nn.Module) -> None:
        self.mic, self.part, self.project = mic, part, project
        self.literal = mic.same_side == "literal"
        self.include_pos = mic.include_pos and not self.literal

    def own(self, views: Views) -> list[Tensor]:
        """[B, K, D] of the two views of this rank's rows; only what stands in rows that represent their entity means anything."""
        if self.part == "uu":
            both = views.user_BKD if self.literal else views.user_a_BKD, views.user_b_BKD
        else:
            both = (views.item_BD if self.literal else views.item_a_BD)[:, None], views.item_b_BD[:, None]
        return [self.compared(x) for x in both]

    def compared(self, vectors_nKD: Tensor) -> Tensor:
        """The encoder's vectors as they are compared."""
        compared_nKD = unit(self.project(vectors_nKD))
        return in_slots(compared_nKD) if self.mic.set_similarity == "slots" else compared_nKD

    def loss(self, step: Step, own: list[Tensor], everyone: list[Tensor]) -> Tensor:
        """This rank's share of the mean over anchors; everyone: `own` of all ranks."""
        name: Literal["user_idx", "item_idx"] = "user_idx" if self.part == "uu" else "item_idx"
        chosen_B, chosen_N = step.first_users if self.part == "uu" else step.first_items
        anchors, columns = (own[:1], everyone[:1]) if self.literal else (own, everyone)
        column_MKD = torch.cat([x[chosen_N] for x in columns])
        idx_M = step.all_ids(name)[chosen_N].repeat(len(columns))
        other_nM = idx_M != step.batch[name][chosen_B][:, None]
        views = [x[chosen_B] for x in own]
        pos_n = paired_set_similarity(*views)
        step.note(f"mic.{self.part}.pos", step.share_of_mean(pos_n.detach().sum(), chosen_N.sum()))
        mined = mined_pairs(step, self.part, views[0], chosen_B, self.compared)
        if mined is None:
            losses = [self._rows(pos_n, self._rest(x, column_MKD, other_nM)) for x in views[: len(anchors)]]
        else:
            others_nM = other_nM & mined.not_positive(idx_M)
            both = zip(views[: len(anchors)], reversed(views), strict=False)
            losses = [self._with_mined(x, partner, column_MKD, others_nM, mined) for x, partner in both]
        remember(step, self.part, everyone[0], chosen_N)
        return step.share_of_mean(torch.stack(losses).sum(dim=0).sum(), len(anchors) * chosen_N.sum())

    def _rows(self, pos_n: Tensor, rest_n: Tensor) -> Tensor:
        pos_n1 = (pos_n / self.mic.temperature)[:, None]
        # without negatives nothing counts, and then it is so for every entity: no mean over fewer of them is needed
        return nce_over(pos_n1, torch.ones_like(pos_n1, dtype=torch.bool), rest_n, include_pos=self.include_pos)[0]

    def _with_mined(self, anchor_nKD: Tensor, partner_nKD: Tensor, column_MKD: Tensor, other_nM: Tensor, mined: MinedPairs) -> Tensor:
        """float[n]: `_rows` with what is mined."""
        replaces = mined.replaces
        anchor_nKD = mined.replaced(anchor_nKD) if replaces else anchor_nKD
        pos_nP = paired_set_similarity(anchor_nKD, partner_nKD)[:, None]
        valid_nP = torch.ones_like(pos_nP, dtype=torch.bool)
        if not replaces:
            pos_nP = torch.cat([pos_nP, mined.positives(anchor_nKD)], dim=1)
            valid_nP = torch.cat([valid_nP, mined.pos_valid_nP], dim=1)
        rest_n = mined.rest(self._rest(anchor_nKD, column_MKD, other_nM), anchor_nKD, self.mic.temperature)
        return nce_over(pos_nP / self.mic.temperature, valid_nP, rest_n, include_pos=self.include_pos)[0]

    def _rest(self, anchor_nKD: Tensor, column_MKD: Tensor, valid_nM: Tensor) -> Tensor:
        if anchor_nKD.shape[1] == 1:
            return rest_of_product(anchor_nKD[:, 0] / self.mic.temperature, column_MKD[:, 0], valid_nM)
        return rest_of_sets(anchor_nKD / self.mic.temperature, column_MKD, valid_nM)
