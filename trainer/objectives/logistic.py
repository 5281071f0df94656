"""Binary cross-entropy over clicked and other items: the base loss of MIC's DSSM."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.objectives.objective import Objective
from trainer.objectives.similarity import readout, unit
from trainer.objectives.step import Step

SCALE, MAX_SCALE = 10.0, 100.0  # a = 1 / temperature of the contrastive losses at the start


class Logistic(Objective):
    """softplus(z) - y z with z = a cos(u, v) + b, averaged over clicked pairs (y = 1) and others (y = 0), weighted by click.

    The others, by settings.base.negatives: `uniform` num_negatives drawn for each row; `in_batch` the targets of all other rows of all
    ranks, 1 / (N - 1) each, so that together they weigh as much as the clicked one. Columns that hold the row's own target again, or an
    item its user is known to like, do not count.

    Returns part "loss", >= 0; ln 2 where z = 0. a = exp(log_a) is kept in [1, 100].

    Source: MIC (Lu et al. 2022) eq. 7, with its parenthesis corrected to (1 - y) log(1 - p), and p = sigmoid(z) since a
    cosine is no probability; 3.4 for the batch as a matrix with clicks on its diagonal.
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        self.weights = {"loss": settings.base.weight}
        self.num_negatives, self.in_batch = settings.base.num_drawn, settings.base.negatives == "in_batch"
        self.learned = settings.base.scale == "learned"
        if self.learned:
            self.log_scale, self.bias = nn.Parameter(torch.empty(())), nn.Parameter(torch.empty(()))

    def reset(self, seed: int, name: str) -> None:
        """a = 10, b = 0."""
        if self.learned:
            self.log_scale.fill_(math.log(SCALE))
            self.bias.zero_()

    def forward(self, step: Step) -> dict[str, Tensor]:
        """{"loss": scalar}."""
        others, weight_BM = self._batch(step) if self.in_batch else self._drawn(step)
        item_BD = unit(step.item_BD)
        chosen_BD = readout(unit(step.user_BKD), item_BD)
        pos_B1 = (chosen_BD * item_BD).sum(dim=1, keepdim=True)
        cosine_BM = torch.cat([pos_B1, torch.einsum("bd,md->bm" if self.in_batch else "bd,bmd->bm", chosen_BD, others)], dim=1)
        weight_BM = step.batch["weight"].to(cosine_BM.dtype)[:, None] * F.pad(weight_BM, (1, 0), value=1)
        local_sum = (cross_entropy(self.logits(cosine_BM)) * weight_BM).sum()
        return {"loss": step.share_of_mean(local_sum, step.backend.sum(weight_BM.sum()))}

    def _drawn(self, step: Step) -> tuple[Tensor, Tensor]:
        """(each row's own draws [B, M, D], their weights [B, M])."""
        drawn_nD, which_BM, valid_BM = step.drawn_items(self.num_negatives)
        drawn_BMD = unit(drawn_nD).index_select(0, which_BM.flatten()).view(*which_BM.shape, -1)
        return drawn_BMD, valid_BM.to(drawn_BMD.dtype)

    def _batch(self, step: Step) -> tuple[Tensor, Tensor]:
        """(the targets of all ranks [N, D], their weights [B, N])."""
        (item_ND,) = step.gather([unit(step.item_BD)])
        return item_ND, step.negative_items_BN.to(item_ND.dtype) / max(sum(step.counts) - 1, 1)

    def logits(self, cosine: Tensor) -> Tensor:
        """a cos + b."""
        if not self.learned:
            return SCALE * cosine
        return self.log_scale.exp() * cosine + self.bias

    def keep_in_range(self) -> None:
        """1 <= a <= 100. Clamped in the loss, a parameter beyond would have no gradient and never come back."""
        if self.learned:
            self.log_scale.clamp_(0, math.log(MAX_SCALE))


def cross_entropy(z_BM: Tensor) -> Tensor:
    """float[B, M]: -ln sigmoid(z) in column 0 (the clicked item), -ln(1 - sigmoid(z)) in the others."""
    return torch.cat([F.softplus(-z_BM[:, :1]), F.softplus(z_BM[:, 1:])], dim=1)
