"""MIC: contrast between users and items, among users, and among items.

Source: Lu et al. 2022, "MIC: Model-agnostic integrated cross-channel recommenders", eq. 4-6. Read with the positive in the
denominator, sums over j != k, and every comparison between views of the same kind: a negative that alone carries mask
embeddings would give itself away.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.encoders.layers import Dense
from trainer.objectives.contrast import nce_over, rest_of_product, rest_of_scores
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
        own: dict[str, tuple[Tensor, Tensor]] = {}  # what each part compares, of this rank's rows
        if "uv" in self.weights:
            own["uv"] = unit(self.project_user(step.user_BKD)), unit(self.project_item(step.item_BD))
        if "uu" in self.weights:
            own["uu"] = unit(step.user_a_BKD), unit(step.user_b_BKD)
        if "vv" in self.weights:
            own["vv"] = unit(step.item_a_BD)[:, None], unit(step.item_b_BD)[:, None]
        gathered = step.gather([x for pair in own.values() for x in pair])
        everyone = {part: (gathered[2 * i], gathered[2 * i + 1]) for i, part in enumerate(own)}
        losses: dict[str, Tensor] = {}
        if "uv" in own:
            losses["uv"] = self._user_item(step, own["uv"], everyone["uv"])
        if "uu" in own:
            losses["uu"] = self._same_side(step, "user_idx", own["uu"], everyone["uu"])
        if "vv" in own:
            losses["vv"] = self._same_side(step, "item_idx", own["vv"], everyone["vv"])
        return losses

    def _user_item(self, step: Step, own: tuple[Tensor, Tensor], everyone: tuple[Tensor, Tensor]) -> Tensor:
        """Eq. 4 on clean views: user -> items and item -> users of all ranks, summed. Known likings are never negatives."""
        (user_BKD, item_BD), (user_NKD, item_ND) = own, everyone
        user_BD = readout(user_BKD, item_BD)
        pos_B = (user_BD * item_BD).sum(dim=1)
        to_items_B = rest_of_product(user_BD / self.temperature, item_ND, step.negative_items_BN)
        to_users_B = self._rest_of_users(item_BD, user_NKD, step.negative_users_BN)
        return step.share_of_mean((self._rows(pos_B, to_items_B) + self._rows(pos_B, to_users_B)).sum(), sum(step.counts))

    def _same_side(
        self, step: Step, name: Literal["user_idx", "item_idx"], own: tuple[Tensor, Tensor], everyone: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Eq. 5 and 6 as NT-Xent (Chen et al. 2020) over two views of each of the n different entities of the global batch.

        2n anchors, each with 2(n - 1) negatives. An entity in several rows is represented by the first one, whatever rank holds
        it: otherwise it would be its own negative.
        """
        chosen_B, chosen_N = step.first_users if name == "user_idx" else step.first_items
        view_a_nKD, view_b_nKD = (x[chosen_B] for x in own)
        column_MKD = torch.cat([x[chosen_N] for x in everyone])
        other_nM = step.all_ids(name)[chosen_N].repeat(2) != step.batch[name][chosen_B][:, None]
        pos_n = paired_set_similarity(view_a_nKD, view_b_nKD)
        loss_n = self._rows(pos_n, self._rest_of_sets(view_a_nKD, column_MKD, other_nM))
        loss_n = loss_n + self._rows(pos_n, self._rest_of_sets(view_b_nKD, column_MKD, other_nM))
        return step.share_of_mean(loss_n.sum(), 2 * chosen_N.sum())

    def _rows(self, pos_B: Tensor, rest_B: Tensor) -> Tensor:
        pos_B1 = (pos_B / self.temperature)[:, None]
        return nce_over(pos_B1, torch.ones_like(pos_B1, dtype=torch.bool), rest_B)[0]

    def _rest_of_users(self, item_BD: Tensor, user_NKD: Tensor, valid_BN: Tensor) -> Tensor:
        if user_NKD.shape[1] == 1:
            return rest_of_product(item_BD / self.temperature, user_NKD[:, 0], valid_BN)
        return rest_of_scores(closest_interest(user_NKD, item_BD) / self.temperature, valid_BN)

    def _rest_of_sets(self, anchor_AKD: Tensor, column_MKD: Tensor, valid_AM: Tensor) -> Tensor:
        if anchor_AKD.shape[1] == 1:
            return rest_of_product(anchor_AKD[:, 0] / self.temperature, column_MKD[:, 0], valid_AM)
        return rest_of_scores(set_similarity(anchor_AKD, column_MKD) / self.temperature, valid_AM)


def projection(kind: str, dim: int) -> nn.Module:
    """Into the joint space of users and items; MIC 3.4: non-linear. Raises ValueError for an unknown kind."""
    if kind == "mlp":
        return nn.Sequential(Dense(dim, dim), nn.ReLU(), Dense(dim, dim))
    if kind == "linear":
        return Dense(dim, dim)
    if kind == "identity":
        return nn.Identity()
    raise ValueError(f"unknown projection {kind!r}; known: identity, linear, mlp")
