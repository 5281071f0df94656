"""What a researcher watches beside the losses: how near what belongs together is, how evenly the rest is spread, how strong gradients are.

Source: Wang and Isola 2020, "Understanding contrastive representation learning through alignment and uniformity on the hypersphere"
(alpha = 2, t = 2); MIC (Lu et al. 2022) Fig. 4 for the three of them that it shows.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainer.backends import Backend, Shard
from trainer.objectives import Step
from trainer.objectives.negatives import known_columns
from trainer.objectives.similarity import readout, unit

PREFIX = "watch."
VECTORS = 512  # of users and of items that a watched step compares, at most: some milliseconds
COLLAPSED = -0.2  # uniformity above which vectors hardly differ: so it is where they are alike by a mean cosine of 0.95 or more


def watched(step: Step) -> dict[str, float]:
    """The measures of one step under "watch.<name>", and what the losses have noted; collective.

    The measures are taken over the global batch, of at most 512 vectors a side and as the losses see them (with dropout), and are the
    same number on every rank, whatever the number of ranks. What a loss notes is so only in the mean over ranks.
    """
    with torch.no_grad():
        users_BKD, items_BD = unit(step.user_BKD.detach()), unit(step.item_BD.detach())
        num_rows = sum(step.counts)
        every = -(-num_rows * users_BKD.shape[1] // VECTORS)  # by the global row, so that every number of workers takes the same ones
        rows_B, rows_N = step.batch["row"] % every == 0, step.all_ids("row") % every == 0
        flat_SE = step.backend.gather_ids(torch.cat([users_BKD.flatten(1), items_BD], dim=1)[rows_B])
        order_S = step.all_ids("row")[rows_N].argsort()  # for which row of a user in several comes first
        users_SE, items_SD = torch.split(flat_SE[order_S], [users_BKD[0].numel(), items_BD.shape[1]], dim=1)
        ids = (x[rows_N][order_S] for x in (step.all_ids("user_idx"), step.all_ids("item_idx"), step.all_known_NR))
        found = measures(users_SE.reshape(-1, *users_BKD.shape[1:]), items_SD, *ids)
    return {f"{PREFIX}{name}": float(value) for name, value in (found | step.notes).items()}


def measures(users_SKD: Tensor, items_SD: Tensor, user_idx_S: Tensor, item_idx_S: Tensor, known_SR: Tensor) -> dict[str, float]:
    """Of clicked pairs of unit vectors; one that has nothing to be taken of is left out.

    ui_align: mean |u - v|^2 of a user (its interest closest to the item) and the item it clicked, 0..4, lower is nearer.
    ui_pos, ui_neg: mean cosine of a user with the item it clicked; of that interest with the other items that count as its negatives.
    masked_negatives: share of other rows' items that do not: the same item, one liked, too, or one of the same user's.
    uu_uniform, ii_uniform: ln mean exp(-2 |x - y|^2) over pairs among the different users (among all their interests) and among the
        different items; -8..0, about -4 where vectors point everywhere, 0 where all are one; lower is more even.
    uu_neg, ii_neg: mean cosine of the same pairs.
    """
    chosen_SD = readout(users_SKD, items_SD)
    pos_S = (chosen_SD * items_SD).sum(dim=1)
    same_SS = (user_idx_S[:, None] == user_idx_S) | (item_idx_S[:, None] == item_idx_S)
    negative_SS = ~(same_SS | known_columns(known_SR, item_idx_S))
    num, pairs = int(negative_SS.sum()), len(pos_S) * (len(pos_S) - 1)
    found = {"ui_align": 2 - 2 * float(pos_S.mean()), "ui_pos": float(pos_S.mean())} if len(pos_S) else {}
    if num:
        found["ui_neg"] = float((chosen_SD @ items_SD.T)[negative_SS].mean())
    if pairs:
        found["masked_negatives"] = 1 - num / pairs
    found |= spread("uu", users_SKD[first_rows(user_idx_S)].flatten(0, 1))
    return found | spread("ii", items_SD[first_rows(item_idx_S)])


def spread(name: str, x_ND: Tensor) -> dict[str, float]:
    """{<name>_uniform, <name>_neg} of unit vectors over all pairs; {} where there is no pair."""
    if len(x_ND) < 2:
        return {}
    row, column = torch.triu_indices(len(x_ND), len(x_ND), offset=1, device=x_ND.device)
    cosine_P = (x_ND @ x_ND.T)[row, column]
    uniform = float((4 * cosine_P - 4).logsumexp(dim=0)) - math.log(len(cosine_P))  # |x - y|^2 = 2 - 2 cos
    return {f"{name}_uniform": uniform, f"{name}_neg": float(cosine_P.mean())}


def first_rows(ids_S: Tensor) -> Tensor:
    """int64: a row of each different id, the first one."""
    _, group_S = torch.unique(ids_S, return_inverse=True)
    order = torch.arange(len(ids_S), device=ids_S.device)
    first = torch.full_like(order, len(ids_S)).scatter_reduce_(0, group_S, order, "amin")
    return order[order == first[group_S]]


def collapsed(averages: Mapping[str, float | int | None]) -> list[str]:
    """Which sides have collapsed, "users", "items": all their vectors point in nearly one direction, by the averages of an epoch.

    So it is where uniformity is above -0.2: a model that learns is near -2 or below after its first steps.
    """
    names = {"users": f"{PREFIX}uu_uniform", "items": f"{PREFIX}ii_uniform"}
    return [side for side, name in names.items() if (value := averages.get(name)) is not None and value > COLLAPSED]


def gradient_norms(parameters: Sequence[nn.Parameter], tables: Sequence[nn.Parameter], backend: Backend | None = None) -> dict[str, float]:
    """Euclidean norms of all gradients together, and of those of dense weights and embedding tables; nan or inf if an element is.

    backend: of the workers that tables are divided over, which hold a part of these norms each; collective where there are such tables.
    """
    own = {id(table) for table in tables}
    squares: dict[bool, list[Tensor]] = {False: [], True: []}
    divided: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            # a coalesced sparse gradient holds each row once, so the norm of its values is its norm
            grad = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
            (divided if isinstance(parameter, Shard) else squares[id(parameter) in own]).append(torch.linalg.vector_norm(grad))
    if divided and backend is not None:
        squares[True].append(backend.sum(torch.stack(divided).double().square().sum()).sqrt())
    dense, table = (float(torch.stack([norm.double() for norm in norms]).square().sum()) if norms else 0.0 for norms in squares.values())
    return {"grad_norm": math.sqrt(dense + table), "grad_norm.dense": math.sqrt(dense), "grad_norm.tables": math.sqrt(table)}
