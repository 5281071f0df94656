"""Parts searched as one answer as the whole would."""

import faiss
import numpy as np
import pytest

from retrieval.index_inputs import Vectors
from retrieval.index_measure import exact, make, measure_recall
from retrieval.index_parts import Parts, StackedRows, blocks
from retrieval.vector_index import VectorIndex, efforts, set_effort, unit
from tests.retrieval.small_world import lists_of


def vectors_of(rows, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def cut(whole, empty, at):
    """The index in parts that begin at these rows, each filled from an empty one that was trained as the whole."""
    searchers, rows = [], []
    for start, stop in zip([0, *at], [*at, len(whole)], strict=True):
        searcher = faiss.clone_index(empty)
        searcher.add(np.ascontiguousarray(whole.vectors[start:stop]))
        searchers.append(searcher)
        rows.append(whole.vectors[start:stop])
    return VectorIndex(Parts(searchers), whole.ids, StackedRows(rows), whole.is_unit)


def index_and_parts(factory, vectors, at, *, is_unit=True, ids=None):
    ids = np.arange(1, len(vectors) + 1, dtype=np.int32) if ids is None else ids
    whole = make("items", Vectors(ids, vectors), factory, is_unit=is_unit).index
    empty = faiss.clone_index(whole.searcher)
    empty.reset()  # keeps what was trained
    return whole, cut(whole, empty, at)


@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,SQ8"])
@pytest.mark.parametrize("at", [(1,), (100, 101, 350), tuple(range(6, 390, 6))], ids=["2 parts", "4 parts", "65 parts"])
def test_parts_of_one_training_answer_as_the_whole(factory, at, is_unit):
    """The same lists are looked into, in each part: who is found does not depend on the parts."""
    whole, parts = index_and_parts(factory, vectors_of(400, 8), at, is_unit=is_unit)
    queries = vectors_of(30, 8, seed=1)[:, None]
    for effort in (1, 4):
        for index in (whole, parts):
            set_effort(index.searcher, effort)
        for num in (1, 20, 400):
            assert lists_of(parts.nearest(queries, num)) == lists_of(whole.nearest(queries, num))


def test_ties_go_to_the_smaller_id_over_all_parts():
    """Five different vectors, eighty times each: ties reach over every border."""
    whole, parts = index_and_parts("Flat", np.tile(vectors_of(5, 4), (80, 1)), (7, 150, 390))
    queries = vectors_of(12, 4, seed=2)[:, None]
    assert lists_of(parts.nearest(queries, 100)) == lists_of(whole.nearest(queries, 100))


def test_several_vectors_a_query_and_rows_an_id():
    whole, parts = index_and_parts("Flat", vectors_of(90, 6), (30, 63), ids=np.repeat(np.arange(2, 32, dtype=np.int32), 3))
    queries = vectors_of(20, 6, seed=3).reshape(10, 2, 6)
    assert lists_of(parts.nearest(queries, 7)) == lists_of(whole.nearest(queries, 7))
    for at in (7, 500):
        assert measure_recall(parts, queries, at=at) == 1.0
        np.testing.assert_allclose(exact(parts, queries, at=at).least, exact(whole, queries, at=at).least, rtol=1e-6)


def test_ids_minus_one_of_a_part_never_leak():
    """Looking into one of 8 lists, a part finds nothing for some queries."""
    _, parts = index_and_parts("IVF8,Flat", vectors_of(60, 4), (20, 40))
    set_effort(parts.searcher, 1)
    scores, rows = parts.searcher.search(unit(vectors_of(15, 4, seed=4)), 50)
    assert rows.shape == scores.shape == (15, 50)
    assert ((rows == -1) == np.isneginf(scores)).all()
    assert (rows[:, -1] == -1).all()
    assert all(0 < len(found) < 60 for found in lists_of(parts.nearest(vectors_of(15, 4, seed=4)[:, None], 60)))


@pytest.mark.parametrize("is_unit", [True, False])
def test_cosines_of_known_ids(is_unit):
    whole, parts = index_and_parts("Flat", 3 * vectors_of(50, 5), (20,), is_unit=is_unit)
    queries = vectors_of(4, 5, seed=5)[:, None]
    rows, ids = np.repeat(np.arange(4), 50), np.tile(whole.ids, 4)
    np.testing.assert_allclose(parts.cosines(queries, rows, ids), whole.cosines(queries, rows, ids), atol=1e-12)


def test_efforts_are_those_of_a_part():
    _, parts = index_and_parts("IVF8,Flat", vectors_of(100, 4), (50,))
    assert efforts(parts.searcher) == [1, 2, 4, 8]


def test_stacked_rows_read_as_one_array():
    whole = vectors_of(20, 3)
    stacked = StackedRows([whole[:4], whole[4:5], whole[5:]])
    assert (len(stacked), stacked.shape) == (20, (20, 3))
    for rows in (np.array([19, 0, 4, 4, 3]), np.array([[5, 2], [7, 19]]), np.array([], dtype=np.int64)):
        np.testing.assert_array_equal(stacked[rows], whole[rows].reshape(*rows.shape, 3))
        np.testing.assert_array_equal(stacked.changed(unit)[rows], unit(whole)[rows].reshape(*rows.shape, 3))
    np.testing.assert_array_equal(np.concatenate(list(blocks(stacked))), whole)
    assert next(blocks(whole)) is whole
