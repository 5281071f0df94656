"""Values of multi-valued fields that a view drops: recomputed here, not stored in `samples`.

Yao et al. 2021, "Self-supervised learning for large-scale item recommendations": dropout of categorical features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from conf.fields import PAD, Side
from conf.masks import VALUES
from conf.schemas.table import View
from conf.settings import Settings
from trainer.encoders.encoder import Batch
from trainer.randomness import u01


def fewer_values(settings: Settings, side: Side, view: View, batch: Batch, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """int[n, M] of each multi-valued field of a side with some values turned into PAD; {} where samples.masks.p_val is 0.

    ids: of all such fields, for the rows of the batch, from which sample_id and draw are read. Pooling is over what is left.
    """
    masks = settings.samples.masks
    if masks.p_val == 0:
        return {}
    registry, what = settings.registry(), VALUES[side, view]
    fields = enumerate(registry.user if side == "user" else registry.item)
    return {
        field.name: drop_values(ids[field.name], batch["sample_id"], batch["draw"], p=masks.p_val, seed=masks.seed, what=what, field=number)
        for number, field in fields
        if field.role == "multi"
    }


def drop_values(ids_nM: Tensor, sample_id_n: Tensor, draw_n: Tensor, *, p: float, seed: int, what: int, field: int) -> Tensor:
    """ids with PAD in place of what `conf.masks.value_mask` drops: each value with probability p, never all of them."""
    position_M = torch.arange(ids_nM.shape[1], device=ids_nM.device)
    drawn_nM = u01(seed, sample_id_n[:, None], draw_n[:, None], what, field, position_M)
    there_nM = ids_nM != PAD
    last_n1 = drawn_nM.masked_fill(~there_nM, -1.0).argmax(dim=1, keepdim=True)
    kept_nM = (drawn_nM >= p) | (position_M == last_n1)  # if any is kept, the one with the largest number is among them
    return ids_nM.masked_fill(~(there_nM & kept_nM), PAD)
