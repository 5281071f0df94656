"""Sampled softmax: the clicked item against uniform, shared or in-batch ones. The base loss of MicRec's encoders."""

import torch
from torch import Tensor

from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.objectives.contrast import nce_over, rest_of_product, rest_of_scores
from trainer.objectives.negatives import known_columns, shared_set
from trainer.objectives.objective import Objective
from trainer.objectives.pairs import Pairs, pairs_of
from trainer.objectives.similarity import precise, readout, unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose


class SampledSoftmax(Objective):
    """-s+ / t + ln(sum over the clicked and the other items of exp(s / t - ln q)), mean over clicks by their weight: the rows' targets,
    or all clicks that rows train on (see `pairs_of`).

    s is the encoder's own similarity. The others, by settings.base.negatives: `uniform` num_negatives drawn for each row;
    `shared` one drawn set of that size for the whole batch; `in_batch` the targets of all rows of all ranks; `mixed` in_batch
    and shared together. q is how often an item is expected among the columns; it differs between items only where columns come
    from the batch. With base.logq_positive false the clicked item's is 1: it is always there. Columns that hold the row's own target
    again, or an item its user is known to like (of uniform draws: see Step.drawn_items), do not count.

    Returns part "loss", >= 0.

    Source: MicRec (Xie et al. 2022) eq. 1 and 7, with the positive in the denominator; Yi et al. 2019, "Sampling-bias-corrected
    neural modeling for large corpus item recommendations", for ln q; Yang et al. 2020, "Mixed negative sampling for learning
    two-tower neural networks in recommendations".
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        self.weights = {"loss": settings.base.weight}
        self.temperature, self.num = settings.base.temperature, settings.base.num_drawn
        self.uniform = settings.base.negatives == "uniform"
        self.in_batch = settings.base.negatives in ("in_batch", "mixed")
        self.shared = settings.base.negatives in ("shared", "mixed")
        self.corrected, self.corrected_pos = settings.base.logq and self.in_batch, settings.base.logq_positive

    def forward(self, step: Step) -> dict[str, Tensor]:
        """{"loss": scalar}."""
        pairs = pairs_of(step)
        item_TD = self._compared(step, pairs.item_TD)
        user_TD = readout(self._compared(step, pairs.user_TKD), item_TD)
        pos_T = (user_TD * item_TD).sum(dim=1) / self.temperature
        if self.uniform:
            rest_T = self._rest_of_drawn(step, pairs, user_TD)
        else:
            column_MD, items_M, valid_BM = self._common_columns(step)
            extra_M = None
            if self.corrected:  # after the temperature; never at retrieval
                extra_M = -self.log_q(step, items_M).to(column_MD.dtype)
                if self.corrected_pos:
                    pos_T = pos_T - self.log_q(step, pairs.item_T).to(pos_T.dtype)
            valid_TM = valid_BM if pairs.places == 1 else valid_BM[pairs.row_T]
            rest_T = rest_of_product(user_TD / self.temperature, column_MD, valid_TM, extra_M)
        loss_T, _ = nce_over(pos_T[:, None], torch.ones_like(pos_T[:, None], dtype=torch.bool), rest_T)
        weight_T = pairs.weight_T.to(loss_T.dtype)
        return {"loss": step.share_of_mean((loss_T * weight_T).sum(), step.backend.sum(weight_T.sum()))}

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

    def _rest_of_drawn(self, step: Step, pairs: Pairs, user_TD: Tensor) -> Tensor:
        """float[T]: each click against draws of its own."""
        drawn_nD, which_BM, valid_BM = step.drawn_items(self.num * pairs.places)
        spot_T = pairs.row_T * pairs.places + pairs.place_T
        which_TM, valid_TM = (x.view(-1, self.num).index_select(0, spot_T) for x in (which_BM, valid_BM))
        drawn_TMD = self._compared(step, drawn_nD).index_select(0, which_TM.flatten()).view(*which_TM.shape, -1)
        return rest_of_scores(torch.einsum("td,tmd->tm", user_TD, drawn_TMD) / self.temperature, valid_TM)

    def _common_columns(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors [M, D], item_idx [M], valid [B, M]) of the columns that all clicks of the rows are compared with."""
        vectors, items, valid = [], [], []
        if self.in_batch:
            vectors += step.gather([self._compared(step, step.item_BD)])
            items.append(step.all_ids("item_idx"))
            valid.append(step.negative_items_BN)
        if self.shared:
            drawn = shared_set(step.catalogue.num_items, self.num, seed=step.seed, step=step.step, device=step.batch["row"].device)
            noise = step.words(Purpose.SHARED_ITEMS, torch.arange(len(drawn), device=drawn.device))
            vectors.append(self._compared(step, step.encoder.item(drawn, noise=noise)))  # every rank encodes the same set
            items.append(drawn)
            valid.append((drawn != step.batch["item_idx"][:, None]) & ~known_columns(step.known_positives, drawn))
        return torch.cat(vectors), torch.cat(items), torch.cat(valid, dim=1)
