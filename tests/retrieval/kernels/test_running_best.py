"""The running threshold against a full sort: what may belong to the best is always kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.kernels import running_best
from retrieval.kernels.running_best import STRIDE, edge_of, key_of, offer, score_of, settle, start, tile


def keys_of(scores):
    bits = np.asarray(scores, dtype=np.float32).view(np.int32)
    return np.array([key_of(bit, row) for row, bit in enumerate(bits)], dtype=np.int64)


def test_keys_sort_as_score_and_row_do_and_give_the_score_back():
    scores = np.array([-np.inf, -2.5, -1e-30, 0.0, 1e-30, 0.5, 0.5, 3.0, np.inf], dtype=np.float32)
    keys, one = keys_of(scores), np.empty(1, dtype=np.float32)
    assert (np.diff(keys) > 0).all()
    assert [score_of(key, one) for key in keys] == scores.tolist()
    assert (keys & 0xFFFFFFFF).tolist() == list(range(9))


@given(st.integers(1, 400), st.integers(0, 10_000), st.sampled_from(["normal", "few values", "one far out"]))
@settings(max_examples=60, deadline=None)
def test_the_edge_leaves_the_wanted_and_few_more(num, seed, kind):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-2, 3, num) if kind == "few values" else rng.normal(size=num)
    scores = np.r_[scores[:-1], 1e30] if kind == "one far out" else scores
    keys, wanted = keys_of(scores), int(rng.integers(1, num + 1))
    edge = edge_of(keys, wanted, np.empty(512, dtype=np.int32))
    last = np.sort(scores.astype(np.float32))[-wanted]
    assert wanted <= (keys >= edge).sum() <= wanted + STRIDE + (scores.astype(np.float32) == last).sum()


@pytest.mark.parametrize("num_rows", [1, STRIDE - 1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize("num_queries", [1, 127, 129])
def test_everything_within_the_slack_of_the_last_wanted_is_kept(num_queries, num_rows):
    """Rows come in two lots of unlike size; products of small integers are exact, and ties everywhere."""
    rng = np.random.default_rng(num_rows)
    rows = rng.integers(-9, 10, (num_rows, 6)).astype(np.float32)
    queries = rng.integers(-9, 10, (num_queries + 3, 6)).astype(np.float32)
    wanted = rng.integers(1, 60, num_queries + 3)
    which = np.sort(rng.choice(num_queries + 3, num_queries, replace=False))
    best, room = start(wanted, np.full(num_queries + 3, 2.5, dtype=np.float32), 600), tile(6)
    cut = num_rows // 3
    for part in (slice(0, cut), slice(cut, None)):
        offer(queries, which, rows[part], np.arange(num_rows)[part], best, room)
    settle(best, room)
    for q, (query, num) in enumerate(zip(queries, wanted, strict=True)):
        kept = (best.keys[q, : best.counts[q]] & 0xFFFFFFFF).tolist()
        if q not in which:
            assert kept == []
            continue
        scores = rows @ query
        least = np.sort(scores)[-min(num, num_rows)] - 2.5
        assert set(np.flatnonzero(scores >= least)) <= set(kept)
        assert len(kept) == len(set(kept)) <= (scores >= least).sum() + STRIDE


def test_more_ties_than_there_is_room_for_are_told():
    rows, queries = np.ones((500, 4), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    rows[:400] *= 2
    best, room = start(np.array([5, 450]), np.zeros(2, dtype=np.float32), 5 + 2 * STRIDE), tile(4)
    for first in (0, 250):
        offer(queries, np.arange(2), rows[first : first + 250], np.arange(first, first + 250), best, room)
    settle(best, room)
    assert best.counts.tolist() == [-1, -1]


def test_minus_zero_is_as_good_as_zero():
    rows = np.array([[0.0], [-0.0], [-1.0], [0.0]] * 60, dtype=np.float32)
    best, room = start(np.array([100]), np.zeros(1, dtype=np.float32), 100 + 4 * STRIDE), tile(1)
    best.keys[0, :200], best.counts[0] = keys_of(rows[:200, 0]), 200
    settle(best, room)
    assert best.counts[0] == 150
    assert set(rows[best.keys[0, :150] & 0xFFFFFFFF, 0]) == {0.0}


def test_a_tile_fits_the_cache():
    assert running_best.TILE_QUERIES * running_best.TILE_ROWS * 4 == 512 * 1024
