"""One training step as the losses see it: the batch, its encodings (made once, shared by all losses) and what other ranks hold."""

# ruff: noqa: N802  (names of properties carry shapes, too)

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from conf.settings import Settings
from trainer.backends.backend import Backend
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch, Encoder
from trainer.randomness import Purpose, words64


@dataclass
class Step:
    """seed, step: key the draws, with the batch's global rows. known_positives: int64[B, R], item_idx that the row's user is known to
    like (history and target), 0 = none; R is the same on every rank. item_counts: [num_items + 1], train clicks by item_idx.

    Shapes: B rows of this rank, N rows of all ranks (rank order), K interests, D dimension. The collective properties (`counts`, `all_*`)
    are to be read on every rank or on none.
    """

    encoder: Encoder
    batch: Batch
    backend: Backend
    settings: Settings
    catalogue: Catalogue
    seed: int
    step: int
    known_positives: Tensor
    item_counts: Tensor

    # ---- this rank's rows ------------------------------------------------------------------------------------------

    @cached_property
    def user_BKD(self) -> Tensor:
        """Users as they are."""
        return self.encoder.user(self.batch, noise=self.words(Purpose.USER_CLEAN, self.batch["row"]))

    @cached_property
    def item_BD(self) -> Tensor:
        """Target items as they are."""
        return self.encoder.item(self.batch["item_idx"], noise=self.words(Purpose.ITEM_CLEAN, self.batch["row"]))

    @cached_property
    def user_b_BKD(self) -> Tensor:
        """Users perturbed: fields masked, history positions dropped."""
        noise = self.words(Purpose.USER_VIEW, self.batch["row"])
        return self.encoder.user(self.batch, um=self.batch["um_b"], uh=self.batch["uh_b"], noise=noise)

    @cached_property
    def item_b_BD(self) -> Tensor:
        """Target items perturbed: fields masked."""
        noise = self.words(Purpose.ITEM_VIEW, self.batch["row"])
        return self.encoder.item(self.batch["item_idx"], vm=self.batch["vm_b"], noise=noise)

    def words(self, purpose: Purpose, *words: Tensor | int) -> Tensor:
        """int64 of the broadcast shape of `words`: 64 random bits for (seed, step, purpose, *words)."""
        return words64(self.seed, self.step, int(purpose), *words)

    # ---- what all ranks hold ---------------------------------------------------------------------------------------

    @cached_property
    def counts(self) -> list[int]:
        """Rows of each rank."""
        return [int(n) for n in self.backend.gather_ids(self.batch["row"].new_tensor([len(self.batch["row"])]))]

    @cached_property
    def own_columns_B(self) -> Tensor:
        """int64[B]: where this rank's rows stand among the N."""
        start = sum(self.counts[: self.backend.rank])
        return torch.arange(start, start + self.counts[self.backend.rank], device=self.batch["row"].device)

    @cached_property
    def all_ids_N3(self) -> Tensor:
        """int64[N, 3]: global row, user_idx, item_idx."""
        return self.backend.gather_ids(torch.stack([self.batch[name] for name in ("row", "user_idx", "item_idx")], dim=1))

    @cached_property
    def all_known_NR(self) -> Tensor:
        """int64[N, R]: known_positives of every row."""
        return self.backend.gather_ids(self.known_positives)

    def all_ids(self, name: str) -> Tensor:
        """int64[N] of row, user_idx or item_idx."""
        return self.all_ids_N3[:, ("row", "user_idx", "item_idx").index(name)]

    def gather(self, x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """[B, ...] -> [N, ...] with gradient; counts: rows of each rank where they are not those of the batch."""
        return self.backend.gather(x, self.counts if counts is None else counts)

    def representatives(self, name: str) -> "Representatives":
        """One row for each different user_idx or item_idx of the global batch: the one with the smallest global row."""
        ids_N, rows_N = self.all_ids(name), self.all_ids("row")
        _, entity_N = torch.unique(ids_N, return_inverse=True)
        first = torch.full_like(rows_N, torch.iinfo(torch.int64).max).scatter_reduce_(0, entity_N, rows_N, "amin")
        chosen_N = rows_N == first[entity_N]
        return Representatives(
            local=chosen_N[self.own_columns_B].nonzero()[:, 0],
            all_ids=ids_N[chosen_N],
            counts=[int(part.sum()) for part in torch.split(chosen_N, self.counts)],
        )

    def share_of_mean(self, local_sum: Tensor, global_count: Tensor | int) -> Tensor:
        """local_sum / (global_count / W): its mean over the W ranks is the global sum over the global count (0 where nothing counts).

        Dividing by the rank's own count instead would give the anchors of ranks with few of them too much weight.
        """
        count = torch.as_tensor(global_count, dtype=local_sum.dtype, device=local_sum.device)
        return local_sum * torch.where(count > 0, self.backend.size / count.clamp(min=torch.finfo(count.dtype).tiny), 0)


@dataclass(frozen=True)
class Representatives:
    """local: int64[n_r], rows of this rank that stand for their entity. all_ids: int64[n], entities in rank order.

    counts: n_r of each rank.
    """

    local: Tensor
    all_ids: Tensor
    counts: list[int]
