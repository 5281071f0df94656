"""Exact scores as sortable numbers, against numpy in float64."""

import itertools

import numpy as np
import pytest

from retrieval.kernels.exact_pairs import NOTHING, dot, write_pairs
from retrieval.ragged import scores_of


def test_dot_adds_up_in_float64():
    assert dot(np.array([1e8, 1, -1e8], dtype=np.float32), np.ones(3, dtype=np.float32)) == 1.0


@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("cuts", [(0, 50), (0, 1, 30, 50)])
def test_pairs_hold_id_and_score_of_each_row_whatever_part_it_stands_in(cuts, is_unit):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50, 19)).astype(np.float32), rng.normal(size=(7, 19)).astype(np.float32)
    ids, rows, counts = np.arange(100, 150, dtype=np.int32), rng.integers(0, 50, (7, 12)), np.array([12, 0, 3, 12, 1, -1, 5])
    keys, pairs = rows | (rng.integers(-9, 9, (7, 12)) << 32), np.full((7, 12), NOTHING)
    for low, high in itertools.pairwise(cuts):
        write_pairs(queries, keys, counts, vectors[low:high], ids[low:high], low, is_unit, pairs)
    for q, count in enumerate(counts):
        scores = vectors[rows[q, : max(count, 0)]].astype(np.float64) @ queries[q].astype(np.float64)
        wanted = np.clip(scores, -1, 1) if is_unit else scores
        found = pairs[q, : max(count, 0)]
        np.testing.assert_array_equal(found >> np.uint64(32), ids[rows[q, : max(count, 0)]])
        np.testing.assert_array_equal(scores_of(found & np.uint64(0xFFFFFFFF)), wanted.astype(np.float32))
        assert (pairs[q, max(count, 0) :] == NOTHING).all()


def test_minus_zero_ties_with_zero():
    pairs = np.full((1, 2), NOTHING)
    vectors = np.array([[-0.0], [0.0]], dtype=np.float32)
    write_pairs(np.ones((1, 1), dtype=np.float32), np.array([[0, 1]]), np.array([2]), vectors, np.zeros(2, dtype=np.int32), 0, False, pairs)
    assert pairs[0, 0] == pairs[0, 1]
