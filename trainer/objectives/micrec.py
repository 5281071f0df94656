"""MicRec: contrasts among items by their features, their content and their sessions.

Source: Xie et al. 2022, "Multi-granularity item-based contrastive recommendation", 3.3-3.5, eq. 2-5. Read with the positive in the
denominator, without which a loss by inner product has no lower bound.
"""

import torch
from torch import Tensor

from conf.masks import FieldRule, hidden_fields
from conf.settings import Settings
from trainer.encoders.encoder import Encoder
from trainer.encoders.layers import Dense, dropout
from trainer.objectives.contrast import nce_over, rest_of_scores
from trainer.objectives.item_anchors import ItemAnchors
from trainer.objectives.negatives import shared_set
from trainer.objectives.objective import Objective
from trainer.objectives.similarity import precise
from trainer.objectives.step import Step
from trainer.objectives.values import drop_values
from trainer.randomness import Purpose, below, u01

# What sem and sess take positives from; and what holds all that goes with an item, so that the rest may be negatives, first found first.
TABLES = {"sem": ("sem_nn", ("sem_nn",)), "sess": ("cooc", ("cooc_pairs", "cooc"))}


class MicRec(Objective):
    """Parts "fea", "sem", "sess", each >= 0, without those of weight 0. Each by inner product in a linear space of its own.

    fea: an item's features against the same with parts dropped; negatives: the like of other items of the batch. sem, sess: an item
    against one that is alike in content, or that it met in sessions; negatives: uniform items that are not and did not. An item that
    nothing goes with is no anchor of theirs.
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        super().__init__()
        given = settings.objectives.micrec
        assert given is not None
        self.given = given
        self.weights = {
            part: given.weight * weight for part, weight in (("fea", given.fea), ("sem", given.sem), ("sess", given.sess)) if weight > 0
        }
        width = encoder.features_dim if given.fea_input == "raw" else encoder.dim
        if "fea" in self.weights:
            self.project_fea = Dense(width, settings.model.dim)
        if "sem" in self.weights:
            self.project_sem = Dense(encoder.dim, settings.model.dim)
        if "sess" in self.weights:
            self.project_sess = Dense(encoder.dim, settings.model.dim)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The parts that have a weight."""
        anchors = ItemAnchors(step, self.given.items)
        losses: dict[str, Tensor] = {}
        if "fea" in self.weights:
            losses["fea"] = self._features(step, anchors)
        if "sem" in self.weights or "sess" in self.weights:
            losses |= self._relations(step, anchors)
        return losses

    # ---- features: eq. 2 and 3 ---------------------------------------------------------------------------------------

    def _features(self, step: Step, anchors: ItemAnchors) -> Tensor:
        """Negatives of the anchor at place p of m: those at p + r modulo m, for the same shifts r, all different, of every anchor."""
        own_BD, fewer_BD = (precise(self.project_fea(x)) for x in self._whole_and_fewer(step, anchors.items_B))
        (fewer_ND,) = step.gather([fewer_BD])
        order_m = step.all_ids("row").argsort()
        order_m = order_m[anchors.counted_N[order_m]]  # places are by global row, whatever rank holds it
        num = len(order_m)
        place_N = torch.zeros_like(anchors.all_items_N).index_put_((order_m,), torch.arange(num, device=order_m.device))
        shift_M = shared_set(
            num - 1, self.given.num_negatives, seed=step.seed, step=step.step, device=order_m.device, purpose=Purpose.SHIFTS
        )
        own_place_B = torch.split(place_N, step.counts)[step.backend.rank]
        column_BM = order_m[(own_place_B[:, None] + shift_M) % num]
        valid_BM = anchors.all_items_N[column_BM] != anchors.items_B[:, None]
        scores_BM = (own_BD @ fewer_ND.T).gather(1, column_BM)
        return self._mean(step, (own_BD * fewer_BD).sum(dim=1), scores_BM, valid_BM, anchors.counted_B)

    def _whole_and_fewer(self, step: Step, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """The items' features whole and with parts dropped; or what the tower makes of both."""
        given, encoder = self.given, step.encoder
        noise_B = step.words(Purpose.FEATURES, step.batch["row"])
        vm = self._hidden(step, noise_B) if given.field_p > 0 else None
        multi = self._fewer_values(step, items_B, noise_B) if given.value_p > 0 and step.catalogue.multi else None
        if given.fea_input == "tower":
            fewer_BD = encoder.item(items_B, vm=vm, multi=multi, noise=noise_B, drop=given.element_p)
            return encoder.item(items_B), fewer_BD
        return encoder.features(items_B), dropout(encoder.features(items_B, vm=vm, multi=multi), given.element_p, noise_B)

    def _hidden(self, step: Step, noise_B: Tensor) -> Tensor:
        rule = FieldRule("each", step.masking.item_fields if step.masking.item_fields > 1 else 0, int(Purpose.FEATURES))
        hidden = hidden_fields(rule, noise_B.cpu().numpy(), p=self.given.field_p, seed=step.seed, draw=0)
        return torch.from_numpy(hidden).to(noise_B.device)

    def _fewer_values(self, step: Step, items_B: Tensor, noise_B: Tensor) -> dict[str, Tensor]:
        none_B, what = torch.zeros_like(noise_B), int(Purpose.FEATURES)
        return {
            name: drop_values(ids[items_B], noise_B, none_B, p=self.given.value_p, seed=step.seed, what=what, field=number)
            for number, (name, ids) in enumerate(step.catalogue.multi.items())
        }

    # ---- content and sessions: eq. 4 and 5 -----------------------------------------------------------------------------

    def _relations(self, step: Step, anchors: ItemAnchors) -> dict[str, Tensor]:
        """Both with one pass of the item tower over all their positives and one shared pool of negatives."""
        parts = [part for part in TABLES if part in self.weights]
        pool_P = shared_set(
            step.catalogue.num_items, self.given.pool, seed=step.seed, step=step.step, device=anchors.items_B.device, purpose=Purpose.POOL
        )
        drawn = {part: self._positives(step, part, anchors.items_B) for part in parts}
        wanted = [pool_P, *(positive_B.clamp(min=1) for positive_B, _ in drawn.values())]
        if anchors.source == "uniform":
            wanted.append(anchors.items_B)
        items_n, which = torch.unique(torch.cat(wanted), return_inverse=True)
        vectors_nD = step.encoder.item(items_n, noise=step.words(Purpose.RELATED_ITEMS, items_n))
        pool_PD, *rest = (vectors_nD[part] for part in torch.split(which, [len(ids) for ids in wanted]))
        own_BD = rest[-1] if anchors.source == "uniform" else step.item_BD
        column_BM = self._columns(step, len(pool_P))
        losses: dict[str, Tensor] = {}
        for part, positive_BD in zip(parts, rest, strict=False):
            project = self.project_sem if part == "sem" else self.project_sess
            anchor_BD = precise(project(own_BD))
            scores_BM = (anchor_BD @ precise(project(pool_PD)).T).gather(1, column_BM)
            pos_B = (anchor_BD * precise(project(positive_BD))).sum(dim=1)
            valid_BM = self._strangers(step, part, anchors.items_B, pool_P[column_BM])
            losses[part] = self._mean(step, pos_B, scores_BM, valid_BM, anchors.counted_B & drawn[part][1])
        return losses

    def _positives(self, step: Step, part: str, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """(item_idx int64[B], found bool[B]) of one item that goes with each."""
        number = list(TABLES).index(part)
        return step.catalogue.related[TABLES[part][0]].draw(
            items_B, u01(step.seed, step.step, int(Purpose.RELATED), number, step.batch["row"])
        )

    def _columns(self, step: Step, num: int) -> Tensor:
        """int64[B, M]: places of the pool, from a place of the row's own on, by the same shifts for every row."""
        given = {"seed": step.seed, "step": step.step}
        shift_M = shared_set(num, self.given.num_negatives, **given, device=step.batch["row"].device, purpose=Purpose.SHIFTS)
        return (below(num, step.seed, step.step, int(Purpose.POOL), step.batch["row"])[:, None] + shift_M) % num

    def _strangers(self, step: Step, part: str, items_B: Tensor, others_BM: Tensor) -> Tensor:
        known = next(step.catalogue.related[table] for table in TABLES[part][1] if table in step.catalogue.related)
        return (others_BM != items_B[:, None]) & ~known.contains(items_B, others_BM)

    def _mean(self, step: Step, pos_B: Tensor, scores_BM: Tensor, valid_BM: Tensor, counted_B: Tensor) -> Tensor:
        rest_B = rest_of_scores(scores_BM / self.given.temperature, valid_BM)
        loss_B, _ = nce_over(pos_B[:, None] / self.given.temperature, counted_B[:, None], rest_B)
        return step.share_of_mean(loss_B.sum(), step.backend.sum(counted_B.sum()))
