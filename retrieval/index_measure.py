"""What an index can do, over arrays: its recall against exact search, and each kind's recall, size and speed on a sample."""

import time
from dataclasses import dataclass

import faiss
import numpy as np

from conf.draws import words64
from conf.errors import Fault, SettingsError
from conf.sections.retrieval import Index
from retrieval.index_choice import KINDS, Goals, Trial, scaled, worth_it
from retrieval.index_inputs import Vectors
from retrieval.ragged import F32
from retrieval.vector_index import VectorIndex, efforts, set_effort, unit
from retrieval.worker import task_cpus

_SAMPLE_SEED = 21  # of the choice of vectors that kinds are measured on: any fixed number does
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
    ids, starts = np.unique(index.ids, return_index=True)
    wanted = min(at, len(ids))
    step, least = max(1, (1 << 26) // (len(index) * queries.shape[1])), [np.empty(0, dtype=np.float32)]
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = (block.reshape(-1, block.shape[2]) @ index.vectors.T).reshape(len(block), block.shape[1], -1).max(axis=1)
        if len(ids) < scores.shape[1]:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        least.append(np.partition(scores, len(ids) - wanted, axis=1)[:, len(ids) - wanted])
    return Truth(queries_QKD, np.concatenate(least), wanted)


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


def make(name: str, vectors: Vectors, factory: str, *, is_unit: bool) -> tuple[VectorIndex, float]:
    """(the index, seconds to train and fill it). The same vectors give the same index.

    Raises:
        SettingsError: FAISS refuses the factory string, or cannot train it on so few vectors.
    """
    matrix = np.ascontiguousarray(unit(vectors.matrix) if is_unit else vectors.matrix)
    started = time.perf_counter()
    try:
        searcher = faiss.index_factory(matrix.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        searcher.train(matrix)
        # threads that link one graph finish in any order, and so would the links: two builds would answer differently
        faiss.omp_set_num_threads(1 if isinstance(searcher, faiss.IndexHNSW) else task_cpus())
        searcher.add(matrix)
    except RuntimeError as error:  # all that FAISS raises
        reason = str(error).rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1]
        fix = "choose a factory that fits this many vectors; Flat always does"
        raise SettingsError(f"index.factory {factory!r}, {name}: {len(matrix)} vectors", [Fault(reason, fix=fix)]) from error
    finally:
        faiss.omp_set_num_threads(task_cpus())
    return VectorIndex(searcher, vectors.idx, matrix, is_unit), time.perf_counter() - started


# ---- trials --------------------------------------------------------------------------------------------------------


def sampled(vectors: Vectors, num: int) -> Vectors:
    """About `num` rows: all of the ids whose hashes are smallest, the same ones on every run."""
    ids, counts = np.unique(vectors.idx, return_counts=True)
    order = np.argsort(words64(_SAMPLE_SEED, ids), kind="stable")
    chosen = order[: max(1, int(np.searchsorted(np.cumsum(counts[order]), num, side="right")))]
    return vectors.of(np.isin(vectors.idx, ids[chosen]))


def trials(name: str, vectors: Vectors, settings: Index, *, is_unit: bool, queries: F32, asked: int) -> list[Trial]:
    """Every kind, measured on a sample if it is worth it, by `queries`, float32[Q, K, D]; of such a day asks `asked`."""
    rows, dim = vectors.matrix.shape
    goals = Goals(settings.min_recall, settings.max_bytes)
    measured, large = worth_it(rows, dim, goals)
    sample, truth = sampled(vectors, settings.sample_rows), None
    found = []
    for kind in measured:
        index, build_s = make(name, sample, KINDS[kind].factory(len(sample.idx), dim), is_unit=is_unit)
        truth = truth or exact(index, queries, at=settings.recall_at)
        effort, recall = widen(index, truth, goals.min_recall)
        size = len(faiss.serialize_index(index.searcher))
        trial = Trial(kind, "", size, effort, recall, _rate(index, truth), build_s)
        found.append(scaled(trial, sample=len(sample.idx), rows=rows, dim=dim, queries=asked))
    return [*found, *large]


def _rate(index: VectorIndex, truth: Truth) -> float:
    """Queries a second, the best of a few: what else runs on the machine only slows a search."""
    best = float("inf")
    for _ in range(_TIMED):
        started = time.perf_counter()
        index.nearest(truth.queries, truth.wanted)
        best = min(best, time.perf_counter() - started)
    return len(truth.queries) / best
