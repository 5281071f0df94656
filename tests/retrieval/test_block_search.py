"""Search list by list: the ids that FAISS finds, the scores and ties of numpy."""

import faiss
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from retrieval.block_search import BlockSearch, block_search, in_threads
from retrieval.index_inputs import Vectors
from retrieval.index_measure import make
from retrieval.index_parts import Parts
from retrieval.vector_index import VectorIndex, set_effort, unit
from tests.retrieval.small_world import lists_of


def vectors_of(rows, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def index_of(factory, vectors, *, is_unit=True):
    return make("items", Vectors(np.arange(1, len(vectors) + 1, dtype=np.int32), vectors), factory, is_unit=is_unit).index


def by_faiss(index, queries, num):
    """Ids of each query as sets, from FAISS's own search; -1 left out."""
    asked = unit(queries) if index.is_unit else queries
    return [set((row[row >= 0] + 1).tolist()) for row in index.searcher.search(asked, min(num, len(index)))[1]]


def of_products():
    """Threads of the library that compiled functions call for a product: the one inside SciPy."""
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas" and "scipy" in one["filepath"]]


@pytest.fixture
def three_threads():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("num_queries", [1, 127, 300])
@pytest.mark.parametrize(("factory", "effort"), [("Flat", 0), ("IVF16,Flat", 1), ("IVF16,Flat", 5), ("IVF16,Flat", 99)])
def test_ids_are_those_of_faiss_and_scores_those_of_numpy(factory, effort, num_queries, is_unit):
    index, queries = index_of(factory, vectors_of(1500), is_unit=is_unit), vectors_of(num_queries, seed=1)
    set_effort(index.searcher, effort)
    for num in (1, 40, 1400, 5000):
        found = index.nearest(queries[:, None], num)
        assert [{i for i, _ in one} for one in lists_of(found)] == by_faiss(index, queries, num)
        asked = (unit(queries) if is_unit else queries).astype(np.float64)
        exact = np.einsum("nd,nd->n", asked[found.rows], index.vectors[found.values - 1].astype(np.float64))
        np.testing.assert_array_equal(found.weights, (np.clip(exact, -1, 1) if is_unit else exact).astype(np.float32))


def test_threads_share_the_queries_and_change_nothing(three_threads):
    queries = vectors_of(50, seed=1)[:, None]
    for factory in ("Flat", "IVF16,Flat"):
        index = index_of(factory, vectors_of(1500))
        set_effort(index.searcher, 4)
        shared = lists_of(index.nearest(queries, 30))
        assert lists_of(index.nearest(queries[:1], 30)) == shared[:1]  # fewer queries than threads
        faiss.omp_set_num_threads(1)
        assert lists_of(index.nearest(queries, 30)) == shared
        faiss.omp_set_num_threads(3)


def test_work_in_threads_is_cut_into_slices_and_products_take_one_thread_each(three_threads):
    slices, inside = [], []

    def work(part):
        slices.append((part.start, part.stop))
        inside.append(of_products())

    before = of_products()
    in_threads(10, work)
    assert sorted(slices) == [(0, 3), (3, 6), (6, 10)]
    assert inside == [[1]] * 3
    assert of_products() == before


def test_ties_beyond_the_room_are_told_and_then_settled():
    """Five different vectors, two hundred times each, in lists of which some stay empty."""
    index = index_of("IVF12,Flat", np.tile(vectors_of(5), (200, 1)))
    set_effort(index.searcher, 12)
    queries = unit(vectors_of(9, seed=2))
    _, counts = BlockSearch([index.searcher]).search(queries, np.full(9, 3), np.zeros(9, dtype=np.float32), 16)
    assert (counts == -1).all()
    best = np.argmax(queries @ index.vectors[:5].T, axis=1)
    for one, nearest in zip(lists_of(index.nearest(queries[:, None], 3)), best.tolist(), strict=True):
        assert [i for i, _ in one] == [nearest + 1, nearest + 6, nearest + 11]


def test_several_vectors_a_query_find_what_each_finds():
    index, queries = index_of("IVF16,Flat", vectors_of(900)), vectors_of(60, seed=3).reshape(20, 3, 8)
    set_effort(index.searcher, 3)
    each = by_faiss(index, queries.reshape(60, 8), 25)
    pool, nearest = lists_of(index.pool(queries, 25)), lists_of(index.nearest(queries, 25))
    for user, (one, best) in enumerate(zip(pool, nearest, strict=True)):
        assert set.union(*each[3 * user : 3 * user + 3]) <= {i for i, _ in one}
        assert one == sorted(one)
        assert best == sorted(one, key=lambda pair: (-pair[1], pair[0]))[:25]


def test_queries_that_find_nothing_and_an_index_without_rows():
    whole = index_of("IVF8,Flat", vectors_of(400))
    empty = faiss.clone_index(whole.searcher)
    empty.reset()
    rows, counts = BlockSearch([empty]).search(vectors_of(4), np.full(4, 2), np.zeros(4, dtype=np.float32), 8)
    assert counts.tolist() == [0] * 4
    assert len(rows) == 4
    assert (
        len(VectorIndex(empty, np.empty(0, dtype=np.int32), np.empty((0, 8), dtype=np.float32), True).nearest(vectors_of(4)[:, None], 2))
        == 4
    )


def test_kinds_that_only_faiss_can_search():
    vectors = vectors_of(400)
    for factory, ours in (("Flat", True), ("IVF4,Flat", True), ("HNSW8", False), ("IVF4,SQ8", False), ("PCA4,Flat", False)):
        searcher = index_of(factory, vectors).searcher
        assert (block_search(searcher) is not None) == ours, factory
        assert (block_search(Parts([searcher, searcher])) is not None) == ours, factory
    assert block_search(Parts([index_of(factory, vectors).searcher for factory in ("Flat", "IVF4,Flat")])) is None
