"""One training step as the losses see it: the batch, its encodings (made once, shared by all losses) and what other ranks hold."""

# ruff: noqa: N802  (names of properties carry shapes, too)

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from conf.masks import I64, Masking, hidden_fields
from conf.schemas.table import View
from conf.settings import Settings
from trainer.backends.backend import Backend
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch, Encoder
from trainer.mining import Mined
from trainer.objectives.negatives import known_spots, uniform_negatives
from trainer.objectives.values import fewer_values
from trainer.randomness import Purpose, words64

IDS = ("row", "user_idx", "item_idx")


@dataclass
class Step:
    """seed, step: key the draws, with the batch's global rows. item_counts: [num_items + 1], train clicks by item_idx.
    masking: how views hide fields, for items that are not the batch's. mining: what was mined so far.
    watch: whether what is noted is read. notes: what a loss tells of its step, see `note`.

    Shapes: B rows of this rank, N rows of all ranks (rank order), K interests, D dimension. The views a and b, and all
    that knows of the N rows, talk to the other ranks: read on every rank or on none, in the same order.
    """

    encoder: Encoder
    batch: Batch
    backend: Backend
    settings: Settings
    catalogue: Catalogue
    seed: int
    step: int
    item_counts: Tensor
    masking: Masking
    mining: Mined | None = None
    watch: bool = True
    notes: dict[str, Tensor] = field(default_factory=dict)

    # ---- this rank's rows ------------------------------------------------------------------------------------------

    @cached_property
    def known_positives(self) -> Tensor:
        """int64[B, R]: item_idx that the row's user is known to like, history and target; 0 = none. R is the same on every rank."""
        return torch.cat([self.batch["hist"], self.batch["item_idx"][:, None]], dim=1)

    @cached_property
    def user_BKD(self) -> Tensor:
        """Users as they are."""
        if "hist_weight" in self.batch:
            rows = torch.arange(len(self.batch["row"]), device=self.batch["row"].device)
            return self.position_BPD[rows, self.batch["hist_len"]][:, None]
        return self.encoder.user(self.batch, noise=self.words(Purpose.USER_CLEAN, self.batch["row"]))

    @cached_property
    def position_BPD(self) -> Tensor:
        """Users as they are after each number of clicks of their history."""
        return self.encoder.prefixes(self.batch, noise=self.words(Purpose.USER_CLEAN, self.batch["row"]))

    @cached_property
    def item_BD(self) -> Tensor:
        """Target items as they are."""
        return self.encoder.item(self.batch["item_idx"], noise=self.words(Purpose.ITEM_CLEAN, self.batch["row"]))

    @cached_property
    def user_a_BKD(self) -> Tensor:
        """Users of view a: as they are; perturbed like view b, and with masks of its own, where the masks' strategy hides in both views."""
        return self.user_view("a", self.first_users[0]) if "um_a" in self.batch else self.user_BKD

    @cached_property
    def user_b_BKD(self) -> Tensor:
        """Users perturbed: fields masked, values and history positions dropped; zero in rows that do not stand for their user."""
        return self.user_view("b", self.first_users[0])

    @cached_property
    def item_a_BD(self) -> Tensor:
        """Target items of view a: as they are, or perturbed; see user_a_BKD."""
        return self.item_view("a", self.first_items[0]) if "vm_a" in self.batch else self.item_BD

    @cached_property
    def item_b_BD(self) -> Tensor:
        """Target items perturbed: fields masked, values dropped; zero in rows that do not stand for their item (`first_items`)."""
        return self.item_view("b", self.first_items[0])

    def user_view(self, view: View, chosen_B: Tensor, *, masked: bool = True) -> Tensor:
        """float[B, K, D]: users perturbed, zero in rows that are not chosen. masked: False leaves dropout alone to make the difference."""
        rows, batch = self._rows(chosen_B)
        noise_n, masks = self.words(Purpose.USER_VIEW if view == "b" else Purpose.USER_VIEW_A, batch["row"]), {}
        if masked:
            fewer = fewer_values(self.settings, "user", view, batch, {name[5:]: ids for name, ids in batch.items() if name[:5] == "user."})
            batch = batch | {f"user.{name}": ids for name, ids in fewer.items()}
            masks = {"um": batch[f"um_{view}"], "uh": batch[f"uh_{view}"]}
        view_nKD = self.encoder.user(batch, **masks, noise=noise_n)
        return view_nKD.new_zeros(len(self.batch["row"]), *view_nKD.shape[1:]).index_copy(0, rows, view_nKD)

    def item_view(self, view: View, chosen_B: Tensor) -> Tensor:
        """float[B, D]: target items perturbed, zero in rows that are not chosen."""
        rows, batch = self._rows(chosen_B)
        item_n = batch["item_idx"]
        noise_n = self.words(Purpose.ITEM_VIEW if view == "b" else Purpose.ITEM_VIEW_A, batch["row"])
        fewer = fewer_values(self.settings, "item", view, batch, {name: ids[item_n] for name, ids in self.catalogue.multi.items()})
        given = {"multi": fewer} if fewer else {}
        view_nD = self.encoder.item(item_n, vm=batch[f"vm_{view}"], noise=noise_n, drop=self.settings.model.dropout, **given)
        return view_nD.new_zeros(len(self.batch["row"]), *view_nD.shape[1:]).index_copy(0, rows, view_nD)

    def _rows(self, chosen_B: Tensor) -> tuple[Tensor, Batch]:
        rows = chosen_B.nonzero()[:, 0]
        return rows, {name: column[rows] for name, column in self.batch.items()}

    def masked_items(self, items_n: Tensor, view: View, noise_n: Tensor) -> Tensor:
        """float[n, D] of any items in a view, with masks drawn for these rows. noise: int64[n], a word a row, which all is drawn from."""
        drop, masks = self.settings.model.dropout, self.settings.samples.masks
        if view not in self.masking.views:
            return self.encoder.item(items_n, noise=noise_n, drop=drop)
        keys: I64 = noise_n.cpu().numpy()
        hidden = hidden_fields(self.masking.fields("item", view), keys, p=masks.p_field, seed=masks.seed, draw=0)
        rows = {"sample_id": noise_n, "draw": torch.zeros_like(noise_n)}
        fewer = fewer_values(self.settings, "item", view, rows, {name: ids[items_n] for name, ids in self.catalogue.multi.items()})
        given = {"multi": fewer} if fewer else {}
        return self.encoder.item(items_n, vm=torch.from_numpy(hidden).to(items_n.device), noise=noise_n, drop=drop, **given)

    def drawn_items(self, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Uniform negatives, `num` a row: (vectors float[n, D] of the different ones, which of them int64[B, num], valid bool[B, num]).

        None that is valid is a known positive of the row or, where the catalogue has them (user_state), a train item of its user.
        """
        train = self.catalogue.related.get("user_state")
        items_BM, valid_BM = uniform_negatives(
            self.catalogue.num_items,
            self.known_positives,
            self.batch["row"],
            num,
            seed=self.seed,
            step=self.step,
            clicked=None if train is None else partial(train.contains, self.batch["user_idx"]),
        )
        items_n, which_BM = torch.unique(items_BM, return_inverse=True)
        return self.encoder.item(items_n, noise=self.words(Purpose.NEGATIVE_ITEMS, items_n)), which_BM, valid_BM

    def words(self, purpose: Purpose, *words: Tensor | int) -> Tensor:
        """int64 of the broadcast shape of `words`: 64 random bits for (seed, step, purpose, *words)."""
        return words64(self.seed, self.step, int(purpose), *words)

    # ---- what all ranks hold ---------------------------------------------------------------------------------------

    @cached_property
    def _table_NC(self) -> Tensor:
        """int64[N, 4 + R]: rank, row, user_idx, item_idx, known positives; in one go, as each talk between ranks costs milliseconds."""
        own = [self.batch[name] for name in IDS]
        rank_B = torch.full_like(own[0], self.backend.rank)
        return self.backend.gather_ids(torch.cat([torch.stack([rank_B, *own], dim=1), self.known_positives], dim=1))

    def all_ids(self, name: Literal["row", "user_idx", "item_idx"]) -> Tensor:
        """int64[N] of row, user_idx or item_idx."""
        return self._table_NC[:, 1 + IDS.index(name)]

    @cached_property
    def all_known_NR(self) -> Tensor:
        """int64[N, R]: known_positives of every row."""
        return self._table_NC[:, 1 + len(IDS) :]

    @cached_property
    def counts(self) -> list[int]:
        """Rows of each rank."""
        num: list[int] = torch.bincount(self._table_NC[:, 0], minlength=self.backend.size).tolist()
        return num

    @cached_property
    def negative_items_BN(self) -> Tensor:
        """Which targets of the global batch are negatives for this rank's users: another user's, another item, not known to be liked."""
        return self._all_but(known_spots(self.known_positives, self.all_ids("item_idx")))

    @cached_property
    def negative_users_BN(self) -> Tensor:
        """Which users of the global batch are negatives for this rank's targets: the same seen from the item."""
        own_B = self.batch["item_idx"]
        spots = known_spots(self.all_known_NR, own_B)
        return self._all_but(spots % len(own_B) * len(self.all_known_NR) + spots // len(own_B))

    def _all_but(self, liked: Tensor) -> Tensor:
        """bool[B, N]: neither one of these spots (row * N + column) nor of the row's own user."""
        # the same user's other targets are liked, too, even where they lie in the future of this row's history
        own_user = known_spots(self.batch["user_idx"][:, None], self.all_ids("user_idx"))
        out_BN = torch.ones(len(self.batch["row"]), sum(self.counts), dtype=torch.bool, device=liked.device)
        for spots in (liked, own_user):
            out_BN.view(-1).index_fill_(0, spots, False)
        return out_BN

    def gather(self, tensors: Sequence[Tensor], *, exact: bool = True) -> list[Tensor]:
        """[B, ...] -> [N, ...] each, all in one go. exact: with the gradient of all ranks, else of this rank's own rows only."""
        flat = torch.cat([x.flatten(1) for x in tensors], dim=1)
        if exact:
            gathered = self.backend.gather(flat, self.counts)
        else:
            start = sum(self.counts[: self.backend.rank])
            others = self.backend.gather_ids(flat)
            gathered = torch.cat([others[:start], flat, others[start + len(flat) :]])
        parts = torch.split(gathered, [x[0].numel() for x in tensors], dim=1)
        return [part.reshape(-1, *x.shape[1:]) for part, x in zip(parts, tensors, strict=True)]

    @cached_property
    def first_users(self) -> tuple[Tensor, Tensor]:
        """(bool[B], bool[N]): the rows that stand for their user, one for each user of the global batch.

        It is the row with the smallest global number, whatever rank holds it.
        """
        return self._first_of("user_idx")

    @cached_property
    def first_items(self) -> tuple[Tensor, Tensor]:
        """(bool[B], bool[N]): the rows that stand for their target item; see first_users."""
        return self._first_of("item_idx")

    def _first_of(self, name: Literal["user_idx", "item_idx"]) -> tuple[Tensor, Tensor]:
        rows_N = self.all_ids("row")
        _, entity_N = torch.unique(self.all_ids(name), return_inverse=True)
        first = torch.full_like(rows_N, torch.iinfo(torch.int64).max).scatter_reduce_(0, entity_N, rows_N, "amin")
        chosen_N = rows_N == first[entity_N]
        return torch.split(chosen_N, self.counts)[self.backend.rank], chosen_N

    def note(self, name: str, value: Tensor) -> None:
        """Keep a scalar for metrics.jsonl, as "watch.<name>"; its mean over ranks is the global value. All ranks note the same names."""
        self.notes[name] = value.detach()

    def share_of_mean(self, local_sum: Tensor, global_count: Tensor | int) -> Tensor:
        """local_sum / (global_count / W): its mean over the W ranks is the global sum over the global count (0 where nothing counts).

        Dividing by the rank's own count instead would give the anchors of ranks with few of them too much weight.
        """
        count = torch.as_tensor(global_count, dtype=local_sum.dtype, device=local_sum.device)
        return local_sum * torch.where(count > 0, self.backend.size / count.clamp(min=torch.finfo(count.dtype).tiny), 0)
