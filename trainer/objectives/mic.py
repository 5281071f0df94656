"""MIC: contrast between users and items, among users, and among items.

Source: Lu et al. 2022, "MIC: Model-agnostic integrated cross-channel recommenders", eq. 4-6. Read with the positive in the
denominator, sums over j != k, and every comparison between views of the same kind: a negative that alone carries mask
embeddings would give itself away.
"""

import torch
from torch import Tensor, nn

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.encoders.layers import Dense
from trainer.objectives.contrast import nce_rows
from trainer.objectives.negatives import known_columns
from trainer.objectives.objective import Objective
from trainer.objectives.similarity import closest_interest, paired_set_similarity, readout, set_similarity, unit
from trainer.objectives.step import Step


class MicContrast(Objective):
    """Parts "uv", "uu", "vv", each >= 0, without those of weight 0. All by cosine, with settings.objectives.mic.temperature."""

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        mic = settings.objectives.mic
        assert mic is not None
        self.weights = {part: mic.weight * weight for part, weight in (("uv", mic.uv), ("uu", mic.uu), ("vv", mic.vv)) if weight > 0}
        self.temperature = mic.temperature
        if "uv" in self.weights:
            self.project_user, self.project_item = projection(mic.projection, encoder.dim), projection(mic.projection, encoder.dim)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The parts that have a weight."""
        parts: dict[str, Tensor] = {}
        if "uv" in self.weights:
            parts["uv"] = self._user_item(step)
        if "uu" in self.weights:
            parts["uu"] = self._same_side(step, "user_idx", step.user_BKD, step.user_b_BKD)
        if "vv" in self.weights:
            parts["vv"] = self._same_side(step, "item_idx", step.item_BD[:, None], step.item_b_BD[:, None])
        return parts

    def _user_item(self, step: Step) -> Tensor:
        """Eq. 4 on clean views: user -> items and item -> users of all ranks, summed. Known likings are never negatives."""
        user_BKD, item_BD = unit(self.project_user(step.user_BKD)), unit(self.project_item(step.item_BD))
        own_user_BD, own_item_B = readout(user_BKD, item_BD), step.batch["item_idx"]
        pos_B = (own_user_BD * item_BD).sum(dim=1)
        all_users_N, all_items_N = step.all_ids("user_idx"), step.all_ids("item_idx")
        to_items_BN = own_user_BD @ step.gather(item_BD).T
        other_item_BN = (all_items_N != own_item_B[:, None]) & ~known_columns(step.known_positives, all_items_N)
        to_users_BN = closest_interest(step.gather(user_BKD), item_BD)
        other_user_BN = (all_users_N != step.batch["user_idx"][:, None]) & ~known_columns(step.all_known_NR, own_item_B).T
        rows_B, columns_B = (
            self._rows(pos_B, scores_BN, valid_BN) for scores_BN, valid_BN in ((to_items_BN, other_item_BN), (to_users_BN, other_user_BN))
        )
        return step.share_of_mean((rows_B + columns_B).sum(), sum(step.counts))

    def _same_side(self, step: Step, name: str, clean_BKD: Tensor, view_BKD: Tensor) -> Tensor:
        """Eq. 5 and 6 as NT-Xent (Chen et al. 2020) over two views of each of the n different entities of the global batch.

        2n anchors, each with 2(n - 1) negatives. An entity in several rows is represented by the first one, whatever rank holds
        it: otherwise it would be its own negative.
        """
        chosen = step.representatives(name)
        views_n2KD = torch.stack([unit(clean_BKD[chosen.local]), unit(view_BKD[chosen.local])], dim=1)
        all_2NKD = step.gather(views_n2KD, chosen.counts).flatten(0, 1)
        anchors_AKD = views_n2KD.flatten(0, 1)
        pos_n = paired_set_similarity(views_n2KD[:, 0], views_n2KD[:, 1])
        own_A, all_2N = step.batch[name][chosen.local].repeat_interleave(2), chosen.all_ids.repeat_interleave(2)
        loss_A = self._rows(pos_n.repeat_interleave(2), set_similarity(anchors_AKD, all_2NKD), all_2N != own_A[:, None])
        return step.share_of_mean(loss_A.sum(), 2 * sum(chosen.counts))

    def _rows(self, pos_B: Tensor, neg_BM: Tensor, valid_BM: Tensor) -> Tensor:
        pos_B1 = pos_B[:, None]
        return nce_rows(pos_B1, torch.ones_like(pos_B1, dtype=torch.bool), neg_BM, valid_BM, temperature=self.temperature)[0]


def projection(kind: str, dim: int) -> nn.Module:
    """Into the joint space of users and items; MIC 3.4: non-linear. Raises ValueError for an unknown kind."""
    if kind == "mlp":
        return nn.Sequential(Dense(dim, dim), nn.ReLU(), Dense(dim, dim))
    if kind == "linear":
        return Dense(dim, dim)
    if kind == "identity":
        return nn.Identity()
    raise ValueError(f"unknown projection {kind!r}; known: identity, linear, mlp")
