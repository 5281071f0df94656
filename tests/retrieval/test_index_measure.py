"""Making an index and measuring its recall, over arrays."""

import faiss
import numpy as np
import pytest

from conf.errors import SettingsError
from retrieval.index_inputs import Vectors
from retrieval.index_measure import exact, make, measure_recall, widen
from retrieval.vector_index import efforts, set_effort, unit
from tests.retrieval.small_world import flat_index


def random_vectors(num, dim=16, seed=0):
    return Vectors(np.arange(1, num + 1, dtype=np.int32), np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32))


@pytest.mark.parametrize("factory", ["SQ8", "IVF8,SQ8", "PQ4x4", "HNSW8"])
def test_coded_indexes_answer_with_exact_scores(factory):
    """Quantised codes decide who is found; scores come from the vectors."""
    vectors = random_vectors(600)
    index = make("items", vectors, factory, is_unit=True).index
    set_effort(index.searcher, 8)
    assert 0.3 < measure_recall(index, vectors.matrix[:50, None], at=10) <= 1
    found = index.nearest(vectors.matrix[:20, None], 5)
    exactly = np.einsum("nd,nd->n", unit(vectors.matrix)[found.rows].astype(np.float64), unit(vectors.matrix)[found.values - 1])
    np.testing.assert_allclose(found.weights, exactly, atol=1e-7)


@pytest.mark.parametrize(
    ("factory", "reason"), [("Flot", "could not parse index string"), ("IVF99,Flat", "at least as large as number of")]
)
def test_a_factory_that_faiss_refuses_is_a_settings_error(factory, reason):
    with pytest.raises(SettingsError, match=reason):
        make("items", random_vectors(50), factory, is_unit=True)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW8", "IVF16,SQ8"])
def test_equal_vectors_make_equal_indexes(factory):
    first, second = (faiss.serialize_index(make("items", random_vectors(3000), factory, is_unit=True).index.searcher) for _ in range(2))
    assert np.array_equal(first, second)


def test_efforts_are_those_of_the_kind():
    vectors = random_vectors(400)
    of = {
        factory: efforts(make("items", vectors, factory, is_unit=True).index.searcher)
        for factory in ("Flat", "IVF6,Flat", "HNSW8", "IVF1,SQ8")
    }
    assert of == {"Flat": [0], "IVF6,Flat": [1, 2, 4, 6], "HNSW8": [16, 32, 64, 128, 256, 512, 1024], "IVF1,SQ8": [1]}


def test_an_index_looks_as_hard_as_it_must_and_no_harder():
    vectors = random_vectors(2000)
    index = make("items", vectors, "IVF16,Flat", is_unit=True).index
    truth = exact(index, random_vectors(60, seed=3).matrix[:, None], at=10)
    by_effort = {}
    for effort in efforts(index.searcher):
        set_effort(index.searcher, effort)
        by_effort[effort] = measure_recall(index, truth.queries, at=10)
    assert by_effort[1] < 0.6 < by_effort[16] == 1.0
    for goal in (0.5, 0.8, 1.0):
        least = min(effort for effort, recall in by_effort.items() if recall >= goal)
        assert widen(index, truth, goal) == (least, by_effort[least])
    assert widen(index, truth, 0.1, begin=8) == (8, by_effort[8])


def test_recall_counts_what_brute_force_would_have_found():
    """Half of the vectors hidden from the search: about half of the true neighbours are missed, exactly those that are hidden."""
    whole = flat_index(np.arange(200), random_vectors(200).matrix)
    queries = random_vectors(40, seed=1).matrix[:, None]
    assert measure_recall(whole, queries, at=20) == 1.0

    class Half:
        def search(self, asked, size):
            scores, rows = whole.searcher.search(asked, 200)
            hidden = np.where(rows % 2 == 0, rows, -1)
            order = np.argsort(hidden < 0, axis=1, kind="stable")
            return np.take_along_axis(scores, order, 1)[:, :size], np.take_along_axis(hidden, order, 1)[:, :size]

    half = type(whole)(Half(), whole.ids, whole.vectors, True)
    truth = np.argsort(-(unit(queries)[:, 0] @ whole.vectors.T), axis=1)[:, :20]
    assert measure_recall(half, queries, at=20) == pytest.approx((truth % 2 == 0).mean())


def test_recall_of_several_rows_an_id_and_vectors_a_query():
    vectors = random_vectors(90)
    index = flat_index(np.repeat(np.arange(30), 3), vectors.matrix, is_unit=False)
    assert measure_recall(index, random_vectors(20, seed=2).matrix.reshape(10, 2, 16), at=7) == 1.0
    assert measure_recall(index, vectors.matrix[:4, None], at=500) == 1.0


def test_equal_scores_count_as_found():
    index = flat_index(np.arange(1, 41), np.ones((40, 4), dtype=np.float32))
    assert measure_recall(index, np.ones((3, 1, 4), dtype=np.float32), at=5) == 1.0
