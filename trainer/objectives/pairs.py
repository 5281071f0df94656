"""The clicks that a base loss learns from: each row's target, or all that the row trains on."""

# ruff: noqa: N815  (names of attributes carry shapes, too)

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.objectives.step import Step
from trainer.randomness import Purpose


@dataclass(frozen=True)
class Pairs:
    """T clicks of this rank's rows.

    user_TKD: the interests before the click. item_TD, item_T: what was clicked, vectors and item_idx. weight_T: of the click.
    row_T: its row of the batch. place_T: its place among the `places` of a row that draws are made for.
    """

    user_TKD: Tensor
    item_TD: Tensor
    item_T: Tensor
    weight_T: Tensor
    row_T: Tensor
    place_T: Tensor
    places: int


def pairs_of(step: Step) -> Pairs:
    """The targets of the rows; where rows train on more clicks of their history (`hist_weight`), those first, row by row.

    The user before such a click is the encoder's vector at its position: one pass over the history serves them all.
    """
    batch, device = step.batch, step.batch["row"].device
    row_B = torch.arange(len(batch["row"]), device=device)
    if "hist_weight" not in batch:
        target_B = batch["item_idx"]
        return Pairs(step.user_BKD, step.item_BD, target_B, batch["weight"], row_B, torch.zeros_like(row_B), 1)
    weight_BL = batch["hist_weight"]
    row_n, place_n = (weight_BL > 0).nonzero(as_tuple=True)
    row_T, place_T = torch.cat([row_n, row_B]), torch.cat([place_n, batch["hist_len"]])
    item_T = torch.cat([batch["hist"][row_n, place_n], batch["item_idx"]])
    items_n, which_T = torch.unique(item_T, return_inverse=True)
    # an item's dropout goes by the item, so that each is encoded once, whatever rows a rank holds
    item_TD = step.encoder.item(items_n, noise=step.words(Purpose.HISTORY_ITEMS, items_n)).index_select(0, which_T)
    places = step.position_BPD.shape[1]
    user_TD = step.position_BPD.flatten(0, 1).index_select(0, row_T * places + place_T)
    weight_T = torch.cat([weight_BL[row_n, place_n], batch["weight"]])
    return Pairs(user_TD[:, None], item_TD, item_T, weight_T, row_T, place_T, places)
