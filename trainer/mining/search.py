"""Nearest neighbours by inner product: FAISS where it is installed and the vectors are on a CPU, else a torch product.

Both are exact up to EXACT_ROWS rows and find the same. Beyond, FAISS searches the closest of some thousand lists of vectors (IVF).
"""

from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conf.draws import seed_of, words64
from trainer.mining.clusters import lloyd
from trainer.shared import Shared

EXACT_ROWS = 1_000_000
NPROBE, MIN_RECALL, QUERIES, POINTS_A_LIST, LIST_ITERATIONS = 32, 0.9, 1000, 64, 10

_BLOCK = 16384  # rows compared or added at a time
_ROUNDING = 1e-6  # by which two ways to sum up an inner product of unit vectors may differ


class Search(Protocol):
    """k nearest rows of a bank."""

    def __call__(self, query_QD: Tensor, owner_Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(int32[Q, k] rows, float32[Q, k] inner products), best first; -1 and 0 where there is none.

        owner_Q: int64[Q], the entity that asks, whose own rows do not count; -1 = one that has none. Removed by number, not by place:
        another's equal vector may come before one's own. Zero vectors find nothing and are not found.
        """


class Product:
    """Exact search by a torch product, on the device of the queries. bank_RD: float16[R, D]; rows R // interests are of one entity."""

    def __init__(self, bank_RD: Tensor, interests: int = 1) -> None:
        self._bank_RD, self._interests = bank_RD, interests

    def __call__(self, query_QD: Tensor, owner_Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See Search."""
        device = query_QD.device
        score_Qk = torch.full((len(query_QD), k), -torch.inf, device=device)
        row_Qk = torch.full((len(query_QD), k), -1, dtype=torch.int64, device=device)
        for start in range(0, len(self._bank_RD), _BLOCK):
            block_bD = unit(self._bank_RD[start : start + _BLOCK].to(device))
            row_b = torch.arange(start, start + len(block_bD), device=device)
            own_Qb = row_b // self._interests == owner_Q.to(device)[:, None]
            score_Qb = (query_QD @ block_bD.T).masked_fill_(own_Qb | (block_bD == 0).all(dim=1), -torch.inf)
            best = torch.cat([score_Qk, score_Qb], dim=1).topk(k, dim=1)
            row_Qk = torch.cat([row_Qk, row_b.expand(len(query_QD), -1)], dim=1).gather(1, best.indices)
            score_Qk = best.values
        return _answer(row_Qk, score_Qk, query_QD)


class Faiss:
    """The same by a FAISS index of the rows that are not zero. rows: int64, the row of each vector of the index."""

    def __init__(self, index: Any, rows: Tensor, interests: int = 1) -> None:
        self.index, self._rows, self._interests = index, rows, interests

    def __call__(self, query_QD: Tensor, owner_Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See Search."""
        # an entity has no more rows than interests: k others are among the first k + interests
        scores, places = self.index.search(query_QD.numpy(), k + self._interests)
        place_Qm = torch.from_numpy(places)
        row_Qm = torch.where(place_Qm >= 0, self._rows[place_Qm.clamp(min=0)], -1)
        own_Qm = row_Qm // self._interests == owner_Q[:, None]
        score_Qm = torch.from_numpy(scores).masked_fill(own_Qm | (row_Qm < 0), -torch.inf)
        best = score_Qm.sort(dim=1, descending=True, stable=True)
        return _answer(row_Qm.gather(1, best.indices)[:, :k], best.values[:, :k], query_QD)


def _answer(row_Qk: Tensor, score_Qk: Tensor, query_QD: Tensor) -> tuple[Tensor, Tensor]:
    none_Qk = (score_Qk == -torch.inf) | (query_QD == 0).all(dim=1)[:, None]
    return row_Qk.masked_fill(none_Qk, -1).to(torch.int32), score_Qk.masked_fill(none_Qk, 0)


def unit(vectors: Tensor) -> Tensor:
    """float32: made exactly unit again, as rounding to float16 changes norms by more than near neighbours differ. Zero stays zero."""
    return F.normalize(vectors.to(torch.float32), dim=-1, eps=1e-6)


def has_faiss() -> bool:
    """Whether FAISS is installed."""
    return find_spec("faiss") is not None


def build_search(bank_RD: Tensor, interests: int, shared: Shared) -> tuple[Search, float]:
    """The search of a bank, float16[R, D], and its recall, 1 where it is exact; collective."""
    rows = (bank_RD != 0).any(dim=1).nonzero()[:, 0]
    if shared.device.type != "cpu" or not has_faiss() or not len(rows):
        return Product(bank_RD, interests), 1.0
    if len(rows) <= EXACT_ROWS:
        return Faiss(_filled(_flat(bank_RD.shape[1]), bank_RD, rows, shared), rows, interests), 1.0
    return _lists(bank_RD, rows, interests, shared)


def _flat(dim: int) -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss.IndexFlatIP(dim)


def _filled(index: Any, bank_RD: Tensor, rows: Tensor, shared: Shared) -> Any:
    for part in torch.split(rows, _BLOCK):
        index.add(unit(bank_RD[part]).numpy())
        shared.beat()
    return index


def _lists(bank_RD: Tensor, rows: Tensor, interests: int, shared: Shared) -> tuple[Search, float]:
    """IVF with 4 sqrt(R) lists. One that finds less than 0.90 of the true neighbours is refused: more lists are searched, until all are."""
    import faiss

    num = round(4 * len(rows) ** 0.5)
    by_hash = np.argsort(words64(seed_of("mining lists"), rows.numpy()), kind="stable")
    sample = rows[torch.from_numpy(by_hash[: POINTS_A_LIST * num])]
    points = unit(bank_RD[sample])
    centres, _ = lloyd(points, points[:num], shared, iterations=LIST_ITERATIONS)  # in order of hash: the first are a uniform sample
    quantizer = _flat(bank_RD.shape[1])
    quantizer.add(centres.numpy())
    index = faiss.IndexIVFFlat(quantizer, bank_RD.shape[1], num, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    search = Faiss(_filled(index, bank_RD, rows, shared), rows, interests)
    asked = sample[:QUERIES]
    index.nprobe = min(NPROBE, num)
    while (recall := _recall(search, bank_RD, asked, interests, shared)) < MIN_RECALL and index.nprobe < num:
        index.nprobe = min(2 * index.nprobe, num)
    return search, recall


def _recall(search: Search, bank_RD: Tensor, asked: Tensor, interests: int, shared: Shared, k: int = 10) -> float:
    """Share of the true k nearest, or others as near, that the search finds; the same number on every worker."""

    def found(rows: slice) -> tuple[Tensor, ...]:
        queries, owners = unit(bank_RD[asked[rows]]), asked[rows] // interests
        got_qk, score_qk = search(queries, owners, k)
        _, true_qk = Product(bank_RD, interests)(queries, owners, k)
        # by score, not by row: of many equal vectors, any are the nearest
        return (((got_qk >= 0) & (score_qk >= true_qk[:, -1:] - _ROUNDING)).float().mean(dim=1),)

    return float(shared.everywhere(len(asked), found, chunk=64)[0].mean())
