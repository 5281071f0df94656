"""Sampled softmax: the clicked item against uniform, shared or in-batch ones. The base loss of MicRec's encoders."""

import torch
from torch import Tensor

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.objectives.contrast import nce_over, rest_of_product, rest_of_scores
from trainer.objectives.negatives import known_columns, shared_set
from trainer.objectives.objective import Objective
from trainer.objectives.similarity import precise, readout, unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose


class SampledSoftmax(Objective):
    """-s+ / t + ln(sum over the clicked and the other items of exp(s / t - ln q)), mean over rows weighted by click.

    s is the encoder's own similarity. The others, by settings.base.negatives: `uniform` num_negatives drawn for each row;
    `shared` one drawn set of that size for the whole batch; `in_batch` the targets of all rows of all ranks; `mixed` in_batch
    and shared together. q is how often an item is expected among the columns; it differs between items only where columns come
    from the batch. Columns that hold the row's own target again, or an item its user is known to like (of uniform draws: one of
    known_positives, after 3 redraws), do not count.

    Returns part "loss", >= 0.

    Source: MicRec (Xie et al. 2022) eq. 1 and 7, with the positive in the denominator; Yi et al. 2019, "Sampling-bias-corrected
    neural modeling for large corpus item recommendations", for ln q; Yang et al. 2020, "Mixed negative sampling for learning
    two-tower neural networks in recommendations".
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        self.weights = {"loss": settings.base.weight}
        self.temperature, self.num = settings.base.temperature, settings.base.num_negatives
        self.uniform = settings.base.negatives == "uniform"
        self.in_batch = settings.base.negatives in ("in_batch", "mixed")
        self.shared = settings.base.negatives in ("shared", "mixed")
        self.corrected = settings.base.logq and self.in_batch

    def forward(self, step: Step) -> dict[str, Tensor]:
        """{"loss": scalar}."""
        item_BD = self._compared(step, step.item_BD)
        user_BD = readout(self._compared(step, step.user_BKD), item_BD)
        pos_B = (user_BD * item_BD).sum(dim=1) / self.temperature
        if self.uniform:
            rest_B = self._rest_of_drawn(step, user_BD)
        else:
            column_MD, items_M, valid_BM = self._common_columns(step, item_BD)
            query_BD = user_BD / self.temperature
            if self.corrected:  # after the temperature; never at retrieval. As one more dimension: <[u / t, 1], [v, -ln q]>
                column_MD = torch.cat([column_MD, -self.log_q(step, items_M).to(column_MD.dtype)[:, None]], dim=1)
                query_BD = torch.cat([query_BD, torch.ones_like(query_BD[:, :1])], dim=1)
                pos_B = pos_B - self.log_q(step, step.batch["item_idx"]).to(pos_B.dtype)
            rest_B = rest_of_product(query_BD, column_MD, valid_BM)
        loss_B, _ = nce_over(pos_B[:, None], torch.ones_like(pos_B[:, None], dtype=torch.bool), rest_B)
        weight_B = step.batch["weight"].to(loss_B.dtype)
        return {"loss": step.share_of_mean((loss_B * weight_B).sum(), step.backend.sum(weight_B.sum()))}

    def log_q(self, step: Step, items: Tensor) -> Tensor:
        """float64: ln(N p + m / num_items), the number of columns expected to hold each item.

        p: its share of the train clicks, at least that of one click.
        """
        counts = step.item_counts.to(items.device, torch.float64)
        expected = sum(step.counts) * counts[items].clamp(min=1) / counts.sum()
        if self.shared:
            expected = expected + min(self.num, step.catalogue.num_items) / step.catalogue.num_items
        return expected.log()

    def _compared(self, step: Step, vectors: Tensor) -> Tensor:
        return unit(vectors) if step.encoder.similarity == "cosine" else precise(vectors)

    def _rest_of_drawn(self, step: Step, user_BD: Tensor) -> Tensor:
        """float[B]: each row against its own draws."""
        drawn_nD, which_BM, valid_BM = step.drawn_items(self.num)
        drawn_BMD = self._compared(step, drawn_nD).index_select(0, which_BM.flatten()).view(*which_BM.shape, -1)
        return rest_of_scores(torch.einsum("bd,bmd->bm", user_BD, drawn_BMD) / self.temperature, valid_BM)

    def _common_columns(self, step: Step, item_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors [M, D], item_idx [M], valid [B, M]) of the columns that all rows are compared with."""
        vectors, items, valid = [], [], []
        if self.in_batch:
            vectors += step.gather([item_BD])
            items.append(step.all_ids("item_idx"))
            valid.append(step.negative_items_BN)
        if self.shared:
            drawn = shared_set(step.catalogue.num_items, self.num, seed=step.seed, step=step.step, device=item_BD.device)
            noise = step.words(Purpose.SHARED_ITEMS, torch.arange(len(drawn), device=drawn.device))
            vectors.append(self._compared(step, step.encoder.item(drawn, noise=noise)))  # every rank encodes the same set
            items.append(drawn)
            valid.append((drawn != step.batch["item_idx"][:, None]) & ~known_columns(step.known_positives, drawn))
        return torch.cat(vectors), torch.cat(items), torch.cat(valid, dim=1)
