"""Contrast between two masked views of items: self-supervision for items that have few clicks.

Source: Yao et al. 2021, "Self-supervised learning for large-scale item recommendations", eq. 1-2 (RFM and CFM are ways of masking:
samples.masks.strategy). The baseline without masks: Zhang et al. 2017, "Learning spread-out local feature descriptors".
"""

import torch
from torch import Tensor

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.objectives.contrast import nce_over, rest_of_product
from trainer.objectives.item_anchors import ItemAnchors
from trainer.objectives.objective import Objective
from trainer.objectives.similarity import unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose


class MaskedViews(Objective):
    """Part "loss", >= 0: each item's view a against the views b of all items, its own being the positive; by cosine.

    Rows that hold the same item are no negatives of one another. spread_out: an item as it is against all others as they are, where the
    positive is 1 whatever the item.
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        given = settings.objectives.masked_views
        assert given is not None
        self.given, self.weights = given, {"loss": given.weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """{"loss": scalar}."""
        anchors = ItemAnchors(step, self.given.items)
        noise_B = step.words(Purpose.MASKED_VIEWS, step.batch["row"])
        if self.given.spread_out:
            view_a_BD = view_b_BD = unit(step.encoder.item(anchors.items_B, noise=noise_B))
        else:
            view_a_BD = unit(step.masked_items(anchors.items_B, "a", noise_B))
            view_b_BD = unit(step.masked_items(anchors.items_B, "b", step.words(Purpose.MASKED_VIEWS, step.batch["row"], 1)))
        gathered = step.gather([view_b_BD, view_a_BD] if self.given.symmetric else [view_b_BD])
        other_BN = anchors.all_items_N != anchors.items_B[:, None]
        loss_B = self._rows(view_a_BD, view_b_BD, gathered[0], other_BN & anchors.counted_N)
        if self.given.symmetric:
            loss_B = (loss_B + self._rows(view_b_BD, view_a_BD, gathered[1], other_BN & anchors.counted_N)) / 2
        return {"loss": step.share_of_mean((loss_B * anchors.counted_B).sum(), anchors.counted_N.sum())}

    def _rows(self, anchor_BD: Tensor, positive_BD: Tensor, column_ND: Tensor, valid_BN: Tensor) -> Tensor:
        pos_B1 = (anchor_BD * positive_BD).sum(dim=1, keepdim=True) / self.given.temperature
        rest_B = rest_of_product(anchor_BD / self.given.temperature, column_ND, valid_BN)
        return nce_over(pos_B1, torch.ones_like(pos_B1, dtype=torch.bool), rest_B)[0]
