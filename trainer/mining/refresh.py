"""One search: the vectors of all users or items as the model sees them now, their clusters and their neighbours.

Source: MIC (Lu et al. 2022) 3.3.2; the rules it leaves open are stated at the settings (conf.sections.training.Mining).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from conf.draws import seed_of, words64
from conf.sections.training import Mining
from trainer.mining.clusters import CHUNK, POINTS, closest, find_centres, near_centres, num_clusters
from trainer.mining.search import build_search, unit
from trainer.mining.side import Side
from trainer.shared import Shared

_MEASURED = 1 << 18  # entities looked at together
_PRODUCTS = 1 << 27  # of a query and a vector of the bank, at a time
ROWS = 1024  # entities encoded, or vectors searched for, at a time

Encode = Callable[[Tensor], Tensor]
"""int64[n], places among the entities -> float[n, K, D], not normalised."""


def sample(idx: Tensor, most: int | None) -> Tensor:
    """int64: places of the entities that are in the bank, ascending: all, or `most` by smallest hash of idx."""
    if most is None or len(idx) <= most:
        return torch.arange(len(idx))
    return torch.from_numpy(np.sort(_by_hash(idx, "mining bank")[:most]))


def mine(
    idx: Tensor, encode: Encode, given: Mining, shared: Shared, *, seed: int, most: int | None = None
) -> tuple[Side, dict[str, float]]:
    """(what was found for the entities, what was measured on the way); collective.

    idx: int64[A], ascending, A >= 1. most: vectors are kept of so many only; the others look for neighbours among those.
    """
    bank = sample(idx, most)
    whole = len(bank) == len(idx)

    def unit_vectors(places: Tensor) -> Tensor:
        return unit(encode(places)).to(torch.float16)

    vectors = shared.fill(len(bank), ("vectors",), lambda rows: (unit_vectors(bank[rows]),), chunk=ROWS)["vectors"]
    interests = vectors.shape[1]
    bank_RD = vectors.flatten(0, 1)
    centre_CD, cluster_R = clusters(bank_RD, given, shared, seed=seed)
    find, recall = build_search(bank_RD, interests, shared)

    def found(rows: slice) -> tuple[Tensor, ...]:
        """Of these places: neighbours and their similarities, and the cluster of each, by interest."""
        places = torch.arange(rows.start, rows.stop)
        unit_nKD = vectors[rows] if whole else unit_vectors(places).cpu()
        query_QD = unit(unit_nKD.flatten(0, 1).to(shared.device))
        owner_n = torch.searchsorted(bank, places).clamp(max=len(bank) - 1)
        owner_n = torch.where(bank[owner_n] == places, owner_n, -1)
        row_Qk, score_Qk = find(query_QD, owner_n.repeat_interleave(interests), given.neighbours)
        cluster_Q = closest(query_QD, centre_CD)[0].masked_fill((query_QD == 0).all(dim=1), -1)
        return tuple(x.view(-1, interests, *x.shape[1:]) for x in (row_Qk, score_Qk, cluster_Q))

    names = ("neighbours", "similarities", "clusters")
    # so few at a time that another worker, which waits for these, hears of them before it seems to hang
    at_once = min(ROWS, max(64, _PRODUCTS // len(bank_RD)))
    arrays = shared.fill(len(idx), names, found, chunk=max(1, at_once // interests))
    members, offsets = by_cluster(cluster_R.cpu(), len(centre_CD))
    near = near_centres(centre_CD, given.near_clusters).cpu()
    side = Side(idx, bank, vectors, **arrays, members=members, offsets=offsets, near=near)
    return side, measured(side, given, recall)


def clusters(bank_RD: Tensor, given: Mining, shared: Shared, *, seed: int) -> tuple[Tensor, Tensor]:
    """(float[C, D] centres none of which is without a row of the bank, int32[R] the closest one of each row, -1 of a zero vector).

    Found on a sample by hash of at most 256 rows a cluster; collective.
    """
    rows = (bank_RD != 0).any(dim=1).nonzero()[:, 0]
    if not len(rows):
        return bank_RD[:1].to(shared.device, torch.float32), torch.full((len(bank_RD),), -1, dtype=torch.int32)
    num = num_clusters(len(rows), given.clusters, cuda=shared.device.type == "cuda")
    sampled = rows[torch.from_numpy(_by_hash(rows, "mining clusters")[: POINTS * num])]
    points_nD = unit(bank_RD[sampled].to(shared.device))
    centre_CD = find_centres(points_nD, num, shared, seed=seed)

    def of(part: slice) -> tuple[Tensor, ...]:
        return (closest(bank_RD[rows[part]].to(shared.device, torch.float32), centre_CD)[0],)

    cluster_r = shared.everywhere(len(rows), of, chunk=CHUNK)[0].long()
    used, cluster_r = torch.unique(cluster_r, return_inverse=True)
    cluster_R = torch.full((len(bank_RD),), -1, dtype=torch.int32)
    cluster_R[rows] = cluster_r.to("cpu", torch.int32)
    return centre_CD[used], cluster_R


def by_cluster(cluster_R: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """(int64: rows in order of their cluster, those of cluster -1 left out; int64[num + 1]: where each cluster begins)."""
    order = torch.argsort(cluster_R, stable=True)
    members = order[int((cluster_R < 0).sum()) :]
    counts = torch.bincount(cluster_R[cluster_R >= 0].long(), minlength=num)
    return members, F.pad(counts.cumsum(0), (1, 0))


def measured(side: Side, given: Mining, recall: float) -> dict[str, float]:
    """What is said of a search: sizes, the mean similarity to the nearest neighbour, the share of entities with one that is good enough."""
    good = [
        side.good_neighbours(torch.arange(start, min(start + _MEASURED, len(side.anchors))), given.min_similarity).flatten(1).any(dim=1)
        for start in range(0, len(side.anchors), _MEASURED)
    ]
    return {
        "bank": len(side.bank),
        "clusters": side.num_clusters,
        "similarity": float(side.similarities[:, :, 0].double().mean()),
        "with_positive": float(torch.cat(good).double().mean()),
        "search_recall": recall,
    }


def _by_hash(idx: Tensor, what: str) -> npt.NDArray[np.int64]:
    return np.argsort(words64(seed_of(what), idx.numpy()), kind="stable").astype(np.int64)
