"""Which items are drawn as negatives, and which columns must not count as one.

All draws are keyed by (seed, step, global row): a worker draws for its rows what one worker alone would draw for them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.randomness import Purpose, below

REDRAWS = 3


def uniform_negatives(
    num_items: int,
    known_BR: Tensor,
    row_B: Tensor,
    num: int,
    *,
    seed: int,
    step: int,
    clicked: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(item_idx int64[B, num], valid bool[B, num]): uniform over items 1..num_items, not among the row's known ones.

    A draw that hits a known item is drawn again, at most 3 times, then it stays and is not valid.

    known_BR: 0 = none. clicked: item_idx int64[B, num] -> bool[B, num], which of them are known beside these; None = none.
    """
    known_BR = known_BR.sort(dim=1).values

    def known(items_BM: Tensor) -> Tensor:
        hit_BM = contains(known_BR, items_BM)
        return hit_BM if clicked is None else hit_BM | clicked(items_BM)

    words = (int(Purpose.NEGATIVES), row_B[:, None], torch.arange(num, device=row_B.device))
    items_BM = 1 + below(num_items, seed, step, *words, 0)
    hit_BM = known(items_BM)
    for attempt in range(1, REDRAWS + 1):
        if not bool(hit_BM.any()):
            break
        items_BM = torch.where(hit_BM, 1 + below(num_items, seed, step, *words, attempt), items_BM)
        hit_BM &= known(items_BM)
    return items_BM, ~hit_BM


def shared_set(
    num_items: int, num: int, *, seed: int, step: int, device: torch.device | str = "cpu", purpose: Purpose = Purpose.SHARED_SET
) -> Tensor:
    """int64[min(num, num_items)]: different items of 1..num_items, uniform without replacement, the same on every rank."""
    if num >= num_items:
        return torch.arange(1, num_items + 1, device=device)
    draws = 2 * num
    while True:  # the first `num` different values of an endless row of draws; more draws never change an earlier one
        items = 1 + below(num_items, seed, step, int(purpose), torch.arange(draws, device=device))
        _, group = torch.unique(items, return_inverse=True)
        position = torch.arange(draws, device=device)
        first = torch.full_like(position, draws).scatter_reduce_(0, group, position, "amin")
        chosen = items[position == first[group]]
        if len(chosen) >= num:
            return chosen[:num]
        draws *= 2


def contains(sorted_BR: Tensor, values_BM: Tensor) -> Tensor:
    """bool[B, M]: whether each value stands in its row of sorted_BR."""
    at_BM = torch.searchsorted(sorted_BR, values_BM.contiguous()).clamp_(max=sorted_BR.shape[1] - 1)
    return sorted_BR.gather(1, at_BM) == values_BM


def known_columns(known_BR: Tensor, columns_N: Tensor) -> Tensor:
    """bool[B, N]: whether the item of each column is among the row's known ones (0 = none)."""
    out_BN = torch.zeros(len(known_BR), len(columns_N), dtype=torch.bool, device=columns_N.device)
    out_BN.view(-1).index_fill_(0, known_spots(known_BR, columns_N), True)
    return out_BN


def known_spots(known_BR: Tensor, columns_N: Tensor) -> Tensor:
    """int64[n]: where the item of a column is among the row's known ones (0 = none), as row * N + column; a spot may come twice.

    Searches each known item among the sorted columns: O(B R log N) instead of the O(B R N) of comparing all with all.
    """
    if not len(columns_N):
        return columns_N
    num_rows, num_known = known_BR.shape
    sorted_N, order_N = columns_N.sort(stable=True)
    items_U, counts_U = torch.unique_consecutive(sorted_N, return_counts=True)
    wanted = known_BR.reshape(-1).contiguous()
    which = torch.searchsorted(items_U, wanted).clamp_(max=len(items_U) - 1)
    num_hits = counts_U[which].masked_fill_((items_U[which] != wanted) | (wanted == 0), 0)
    low = (counts_U.cumsum(0) - counts_U)[which]
    total_hits = num_hits.cumsum(0)
    num = int(total_hits[-1]) if len(wanted) else 0
    start = torch.arange(num_rows, device=wanted.device).repeat_interleave(num_known) * len(columns_N)
    at = torch.repeat_interleave(low - total_hits + num_hits, num_hits, output_size=num) + torch.arange(num, device=wanted.device)
    return torch.repeat_interleave(start, num_hits, output_size=num) + order_N[at]
