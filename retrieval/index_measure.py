"""What an index can do, over arrays: its recall against exact search, and each kind's recall, size and speed on a sample."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np

from conf.errors import Fault, SettingsError
from retrieval.index_choice import KINDS, Goals, Trial, found_in_sample, scaled, worth_it
from retrieval.index_inputs import Vectors
from retrieval.index_parts import blocks
from retrieval.ragged import F32, I32
from retrieval.vector_index import TOGETHER, VectorIndex, efforts, set_effort, unit
from retrieval.worker import task_cpus

_TIMED = 3


# ---- recall --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What a search should find: the `wanted` best ids of each query. queries: float32[Q, K, D]. least: float32[Q], score of the last."""

    queries: F32
    least: F32
    wanted: int


def exact(index: VectorIndex, queries_QKD: F32, *, at: int) -> Truth:
    """The truth about the vectors of an index, by brute force over every one; its own search is not used."""
    queries = unit(queries_QKD) if index.is_unit else queries_QKD
    wanted, start = min(at, len(np.unique(index.ids))), 0
    best = np.empty((len(queries), 0), dtype=np.float32)
    for rows in blocks(index.vectors):  # no id has rows in two of them
        best = np.concatenate([best, _best_scores(queries, index.ids[start : start + len(rows)], rows, wanted)], axis=1)
        start += len(rows)
    return Truth(queries_QKD, np.partition(best, best.shape[1] - wanted, axis=1)[:, best.shape[1] - wanted], wanted)


def _best_scores(queries_QKD: F32, ids: I32, vectors: F32, num: int) -> F32:
    """float32[Q, at most num]: the best scores of these ids, in no order; an id scores the best of its rows and the query's vectors."""
    starts = np.unique(ids, return_index=True)[1]
    num = min(num, len(starts))
    step, best = max(1, (1 << 26) // (len(ids) * queries_QKD.shape[1])), [np.empty((0, num), dtype=np.float32)]
    for first in range(0, len(queries_QKD), step):
        block = queries_QKD[first : first + step]
        scores = (block.reshape(-1, block.shape[2]) @ vectors.T).reshape(len(block), block.shape[1], -1).max(axis=1)
        if len(starts) < len(ids):
            scores = np.maximum.reduceat(scores, starts, axis=1)
        best.append(np.partition(scores, len(starts) - num, axis=1)[:, len(starts) - num :])
    return np.concatenate(best)


def recall_of(index: VectorIndex, truth: Truth) -> float:
    """Share of the truth that the index finds; equal scores count as right."""
    found = index.nearest(truth.queries, truth.wanted)
    assert found.weights is not None
    # the truth is a product in float32: two scores nearer than that are equal
    least = truth.least - 1e-5 * np.maximum(1, np.abs(truth.least))
    return int((found.weights >= least[found.rows]).sum()) / (truth.wanted * len(truth.queries))


def measure_recall(index: VectorIndex, queries_QKD: F32, *, at: int) -> float:
    """Share of each query's exact `at` best that the index finds, by brute force over every vector; equal scores count as right."""
    return recall_of(index, exact(index, queries_QKD, at=at))


def widen(index: VectorIndex, truth: Truth, min_recall: float, *, begin: int = 0) -> tuple[int, float]:
    """Let the index look as hard as it takes to reach min_recall; (the effort it was left at, its recall), the largest if none does."""
    effort, recall = 0, 0.0
    for effort in [one for one in efforts(index.searcher) if one >= begin] or efforts(index.searcher)[-1:]:
        set_effort(index.searcher, effort)
        recall = recall_of(index, truth)
        if recall >= min_recall:
            break
    return effort, recall


# ---- making --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """An index and the seconds to train and fill it.

    parts: where it lies in the run folder already, each of its parts with its files: bytes, sha256.
    """

    index: VectorIndex
    build_s: float
    parts: Mapping[str, Mapping[str, tuple[int, str]]] = field(default_factory=dict)


def make(name: str, vectors: Vectors, factory: str, *, is_unit: bool) -> Made:
    """The index of these vectors, in memory; the same vectors give the same index. Raises as `trained`."""
    matrix = ready(vectors, is_unit=is_unit)
    started = time.perf_counter()
    searcher = trained(name, matrix, factory)
    fill(searcher, matrix)
    return Made(VectorIndex(searcher, vectors.idx, matrix, is_unit), time.perf_counter() - started)


def ready(vectors: Vectors, *, is_unit: bool) -> F32:
    """The matrix as FAISS takes it, at unit length if it is to be."""
    return np.ascontiguousarray(unit(vectors.matrix) if is_unit else vectors.matrix)


def trained(name: str, matrix: F32, factory: str) -> Any:
    """A FAISS index by inner product that has seen the matrix and holds nothing.

    Raises:
        SettingsError: FAISS refuses the factory string, or cannot train it on so few vectors.
    """
    try:
        searcher = faiss.index_factory(matrix.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        searcher.train(matrix)
    except RuntimeError as error:  # all that FAISS raises
        reason = str(error).rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1]
        fix = "choose a factory that fits this many vectors; Flat always does"
        raise SettingsError(f"index.factory {factory!r}, {name}: {len(matrix)} vectors", [Fault(reason, fix=fix)]) from error
    return searcher


def fill(searcher: Any, matrix: F32) -> None:
    """Add the rows."""
    # threads that link one graph finish in any order, and so would the links: two builds would answer differently
    faiss.omp_set_num_threads(1 if isinstance(searcher, faiss.IndexHNSW) else task_cpus())
    searcher.add(matrix)
    faiss.omp_set_num_threads(task_cpus())


# ---- trials --------------------------------------------------------------------------------------------------------


def trials(name: str, sample: Vectors, *, rows: int, goals: Goals, is_unit: bool, queries: F32, at: int, asked: int) -> list[Trial]:
    """Every kind, for `rows` rows; those worth it are measured on a sample of them.

    queries: float32[Q, K, D], those that measure recall at `at`. asked: how many a day asks.
    """
    dim = sample.matrix.shape[1]
    measured, large = worth_it(rows, dim, goals)
    truths, found = dict[int, Truth](), []
    for kind in measured:
        made = make(name, sample, KINDS[kind].factory(len(sample.idx), dim), is_unit=is_unit)
        wanted = found_in_sample(kind, at, sample=len(sample.idx), rows=rows)
        truths[wanted] = truths.get(wanted) or exact(made.index, queries, at=wanted)
        effort, recall = widen(made.index, truths[wanted], goals.min_recall)
        size = len(faiss.serialize_index(made.index.searcher))
        trial = Trial(kind, "", size, effort, recall, _rate(made.index, queries, at), made.build_s)
        found.append(scaled(trial, sample=len(sample.idx), rows=rows, dim=dim, queries=asked))
    return [*found, *large]


def _rate(index: VectorIndex, queries_QKD: F32, at: int) -> float:
    """Queries for `at` ids each a second, the best of a few: what else runs on the machine only slows a search.

    As many together as the jobs search: a search by lists takes the less time for each, the more look into a list.
    """
    queries_QKD = np.resize(queries_QKD, (TOGETHER, *queries_QKD.shape[1:]))
    best = float("inf")
    for _ in range(_TIMED):
        started = time.perf_counter()
        index.nearest(queries_QKD, at)
        best = min(best, time.perf_counter() - started)
    return len(queries_QKD) / best
