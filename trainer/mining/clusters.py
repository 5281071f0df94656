"""k-means++ on unit vectors.

Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"; Dhillon and Modha 2001, "Concept decompositions
for large sparse text data using clustering" (spherical k-means). On unit vectors |x - y|^2 = 2 - 2 cos, so D^2 seeding is the right one
for cosine.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.randomness import below, u01
from trainer.shared import Shared

POINTS = 256  # a cluster at most: what the centres are found on
ITERATIONS, TOLERANCE = 20, 1e-4  # of the relative change of the objective
CHUNK = 2048  # points compared with all centres at a time
_SAME = 1e-6  # squared distances below are rounding: the points are one
_SPLIT = 1 / 1024  # relative change of the coordinates of a cluster that is split; FAISS's


def num_clusters(num: int, asked: int | None, *, cuda: bool) -> int:
    """How many clusters for `num` vectors. asked: null = sqrt(num), within 64 and 4096; without a GPU 1024, as seeding costs C^2 D."""
    wanted = asked or min(max(round(num**0.5), 64), 4096 if cuda else 1024)
    return wanted if num >= wanted else max(1, num // 2)


def seed_centres(points_nD: Tensor, num: int, *, seed: int, beat: Callable[[], None] = lambda: None) -> Tensor:
    """float[num, D], num <= n: the first uniform, each next with a chance of its squared distance to the closest one before.

    Where all points left coincide with a centre, one that is not chosen yet, uniform.
    """
    chosen = [int(below(len(points_nD), seed, 0))]
    distance_n = torch.full_like(points_nD[:, 0], torch.inf)
    for number in range(1, num):
        if number % 16 == 0:
            beat()
        from_last_n = 2 - 2 * torch.mv(points_nD, points_nD[chosen[-1]])
        distance_n = torch.minimum(distance_n, from_last_n.masked_fill(from_last_n < _SAME, 0))
        total_n = distance_n.cpu().double().cumsum(0)  # CUDA has no deterministic one
        if float(total_n[-1]) > 0:
            at = int(torch.searchsorted(total_n, float(u01(seed, number)) * total_n[-1], right=True))
            chosen.append(min(at, int(distance_n.nonzero()[-1, 0])))
        else:
            left = torch.ones(len(points_nD), dtype=torch.bool)
            left[chosen] = False
            others = left.nonzero()[:, 0]
            chosen.append(int(others[int(below(len(others), seed, number))]))
    return points_nD[chosen]


def closest(points_nD: Tensor, centre_CD: Tensor) -> tuple[Tensor, Tensor]:
    """(int32[n], float[n]): the centre with the largest inner product, and that product."""
    best = (points_nD @ centre_CD.T).max(dim=1)
    return best.indices.to(torch.int32), best.values


def lloyd(points_nD: Tensor, centre_CD: Tensor, shared: Shared, *, iterations: int = ITERATIONS) -> tuple[Tensor, list[float]]:
    """(float[C, D] unit centres, the objective before each update: mean of 1 - cos to the closest centre); collective.

    Every worker holds all points and finds the closest centres of its share of them. An empty cluster takes half of the largest.
    """
    history: list[float] = []
    for _ in range(iterations):

        def of(rows: slice, centre_CD: Tensor = centre_CD) -> tuple[Tensor, ...]:
            return closest(points_nD[rows], centre_CD)

        cluster_n, cosine_n = shared.everywhere(len(points_nD), of, chunk=CHUNK)
        history.append(float((1 - cosine_n.double()).mean()))
        centre_CD = updated(points_nD, centre_CD, cluster_n.long())
        if len(history) > 1 and history[-2] - history[-1] < TOLERANCE * max(history[-2], TOLERANCE):
            break
    return centre_CD, history


def updated(points_nD: Tensor, centre_CD: Tensor, cluster_n: Tensor) -> Tensor:
    """float[C, D]: the unit mean of each cluster; where it has no direction, the centre as it was."""
    sum_CD = torch.zeros_like(centre_CD, dtype=torch.float64).index_add_(0, cluster_n, points_nD.double())
    count_C = torch.bincount(cluster_n, minlength=len(centre_CD))
    pointless_C1 = sum_CD.norm(dim=1, keepdim=True) < _SAME
    mean_CD = torch.where(pointless_C1, centre_CD.double(), F.normalize(sum_CD, dim=1))
    sign_D = torch.where(torch.arange(centre_CD.shape[1], device=centre_CD.device) % 2 == 0, 1.0, -1.0).double()
    for empty in (count_C == 0).nonzero()[:, 0].tolist():
        largest = int(count_C.argmax())
        if count_C[largest] < 2:
            break
        mean_CD[empty] = F.normalize(mean_CD[largest] * (1 + _SPLIT * sign_D), dim=0)
        mean_CD[largest] = F.normalize(mean_CD[largest] * (1 - _SPLIT * sign_D), dim=0)
        count_C[empty] = count_C[largest] // 2
        count_C[largest] -= count_C[empty]
    return mean_CD.to(centre_CD.dtype)


def find_centres(points_nD: Tensor, num: int, shared: Shared, *, seed: int) -> Tensor:
    """float[num, D]: k-means++ seeds after Lloyd's iterations, the same on every worker; collective.

    Every worker draws the seeds, since a worker that waited for another's would seem to hang; what rank 0 drew counts.
    """
    seeds = seed_centres(points_nD, num, seed=seed, beat=shared.beat)
    seeds = shared.backend.gather_ids(seeds)[:num]
    return lloyd(points_nD, seeds, shared)[0]


def near_centres(centre_CD: Tensor, num: int) -> Tensor:
    """int32[C, min(num, C - 1)]: the other centres by falling cosine."""
    score_CC = centre_CD @ centre_CD.T
    score_CC.fill_diagonal_(-torch.inf)
    return score_CC.topk(min(num, len(centre_CD) - 1), dim=1).indices.to(torch.int32)
