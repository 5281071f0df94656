"""MIC's contrast between users and items, L_uv."""

import torch
from torch import Tensor, nn

from conf.sections.training import Mic
from trainer.objectives.contrast import nce_over, rest_of_product, rest_of_scores
from trainer.objectives.mined_items import MinedItems, mined_items
from trainer.objectives.similarity import closest_interest, readout, unit
from trainer.objectives.step import Step
from trainer.objectives.views import Views


class UserItem:
    """user -> items and item -> users of all ranks, summed, by cosine in a joint space. Known likings are never negatives.

    What is compared, by settings.objectives.mic.views:
        clean: users and items as they are, N - 1 negatives in each direction.
        augmented: the same, all perturbed.
        both: anchors as they are; two positives, clean and perturbed, whose losses are averaged; 2 (N - 1) negatives of both kinds.
        literal: as printed: anchors and positives as they are, N - 1 perturbed negatives, the positive not in the denominator. The
            learned MASK rows tell negatives from positives, so that this is for comparison only.
    With settings.objectives.mic.logq, scores of items are corrected for how often an item is in a batch (Yi et al. 2019). With
    settings.mining.user_items, items that a user would be recommended join in from user to items: the best as a positive of less
    weight, or some of middle ranks as negatives.

    Source: MIC (Lu et al. 2022) eq. 4. Several interests: the one closest to the clean item answers for its user in the row; an
    item is compared with the closest of each user.
    """

    def __init__(self, mic: Mic, project_user: nn.Module, project_item: nn.Module) -> None:
        self.mic, self.project_user, self.project_item = mic, project_user, project_item
        self.include_pos = mic.include_pos and mic.views != "literal"

    def own(self, views: Views) -> list[Tensor]:
        """Users [B, K, D], then items [B, D], of this rank in the joint space; where there are two kinds, the clean ones first."""
        users, items = [], []
        if self.mic.views != "augmented":
            users, items = [views.user_BKD], [views.item_BD]
        if self.mic.views != "clean":
            users, items = [*users, views.user_b_BKD], [*items, views.item_b_BD]
        return [*(unit(self.project_user(x)) for x in users), *(unit(self.project_item(x)) for x in items)]

    def loss(self, step: Step, own: list[Tensor], everyone: list[Tensor]) -> Tensor:
        """This rank's share of the mean over rows; everyone: `own` of all ranks."""
        kinds = len(own) // 2
        users, items = own[:kinds], own[kinds:]
        columns = slice(1, None) if self.mic.views == "literal" else slice(None)
        users_MKD, items_MD = torch.cat(everyone[:kinds][columns]), torch.cat(everyone[kinds:][columns])
        user_BD = readout(users[0], items[0])
        pos_B = (user_BD * items[0]).sum(dim=1)
        step.note("mic.uv.pos", step.share_of_mean(pos_B.detach().sum(), sum(step.counts)))
        to_items, to_users = [pos_B], [pos_B]
        if self.mic.views == "both":
            to_items.append((user_BD * items[1]).sum(dim=1))
            to_users.append((readout(users[1], items[0]) * items[0]).sum(dim=1))
        forth = self._to_items(step, user_BD, torch.stack(to_items, dim=1), items_MD)
        back = self._to_users(step, items[0], torch.stack(to_users, dim=1), users_MKD)
        if self.include_pos:  # every row counts, so that nobody has to be asked how many do
            return step.share_of_mean((forth[0] + back[0]).sum(), sum(step.counts))
        counted = step.backend.sum(torch.stack([forth[1].sum(), back[1].sum()]))
        return step.share_of_mean(forth[0].sum(), counted[0]) + step.share_of_mean(back[0].sum(), counted[1])

    def _to_items(self, step: Step, user_BD: Tensor, pos_BP: Tensor, items_MD: Tensor) -> tuple[Tensor, Tensor]:
        """(loss float[B], counted bool[B])."""
        query_BD, pos_BP = user_BD / self.mic.temperature, pos_BP / self.mic.temperature
        valid_BM = _repeated(step.negative_items_BN, len(items_MD))
        mined = mined_items(step, user_BD, self.project_item)
        if mined is not None:
            return self._to_mined_items(step, user_BD, pos_BP, items_MD, valid_BM, mined)
        if self.mic.logq:  # after the temperature. As one more dimension: <[u / t, 1], [v, -ln p]>
            ln_p_N = log_share(step.item_counts, step.all_ids("item_idx")).to(items_MD.dtype)
            items_MD = torch.cat([items_MD, -ln_p_N.repeat(len(items_MD) // len(ln_p_N))[:, None]], dim=1)
            query_BD = torch.cat([query_BD, torch.ones_like(query_BD[:, :1])], dim=1)
            pos_BP = pos_BP - log_share(step.item_counts, step.batch["item_idx"]).to(pos_BP.dtype)[:, None]
        return self._rows(pos_BP, rest_of_product(query_BD, items_MD, valid_BM))

    def _to_mined_items(
        self, step: Step, user_BD: Tensor, pos_BP: Tensor, items_MD: Tensor, valid_BM: Tensor, mined: MinedItems
    ) -> tuple[Tensor, Tensor]:
        """`_to_items` with what is mined; pos_BP: already divided by the temperature."""
        idx_M = step.all_ids("item_idx").repeat(len(items_MD) // sum(step.counts))
        rest_B = rest_of_product(user_BD / self.mic.temperature, items_MD, mined.not_positive(valid_BM, idx_M))
        rest_B = mined.rest(rest_B, user_BD, self.mic.temperature)
        own_B, counted_B = self._rows(pos_BP, rest_B)
        return mined.loss(lambda score_B1: self._rows(score_B1 / self.mic.temperature, rest_B), own_B, user_BD), counted_B

    def _to_users(self, step: Step, item_BD: Tensor, pos_BP: Tensor, users_MKD: Tensor) -> tuple[Tensor, Tensor]:
        """(loss float[B], counted bool[B])."""
        valid_BM = _repeated(step.negative_users_BN, len(users_MKD))
        if users_MKD.shape[1] == 1:
            rest_B = rest_of_product(item_BD / self.mic.temperature, users_MKD[:, 0], valid_BM)
        else:
            rest_B = rest_of_scores(closest_interest(users_MKD, item_BD) / self.mic.temperature, valid_BM)
        return self._rows(pos_BP / self.mic.temperature, rest_B)

    def _rows(self, pos_BP: Tensor, rest_B: Tensor) -> tuple[Tensor, Tensor]:
        return nce_over(pos_BP, torch.ones_like(pos_BP, dtype=torch.bool), rest_B, include_pos=self.include_pos)


def _repeated(valid_BN: Tensor, num: int) -> Tensor:
    """bool[B, num]: the same for each kind of column."""
    return valid_BN if valid_BN.shape[1] == num else valid_BN.repeat(1, num // valid_BN.shape[1])


def log_share(item_counts: Tensor, items: Tensor) -> Tensor:
    """float64: ln of each item's share of the train clicks, at least that of one click."""
    counts = item_counts.to(items.device, torch.float64)
    return (counts[items].clamp(min=1) / counts.sum()).log()
