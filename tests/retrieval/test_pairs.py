"""Pairs become lists: by hand."""

import numpy as np

from retrieval.kernels.exact_pairs import NOTHING
from retrieval.pairs import by_id, by_score
from retrieval.ragged import falling
from tests.retrieval.small_world import lists_of


def line(*entries):
    """(id, score), ... or None for a place that holds nothing."""
    return [NOTHING if one is None else (np.uint64(one[0]) << np.uint64(32)) | falling(np.float32([one[1]]))[0] for one in entries]


def test_by_score_ties_go_to_the_smaller_id_and_short_lines_stay_short():
    pairs = np.array([line((7, 0.5), (3, 0.5), (9, -0.25), (1, 0.75)), line((4, -1), None, (2, 0), None), line(*[None] * 4)])
    assert lists_of(by_score(pairs, np.array([3, 3, 3]))) == [[(1, 0.75), (3, 0.5), (7, 0.5)], [(2, 0.0), (4, -1.0)], []]
    assert lists_of(by_score(pairs, np.array([0, 1, 9]))) == [[], [(2, 0.0)], []]


def test_by_id_keeps_the_best_score_of_each():
    pairs = np.array([line((7, 0.5), (3, 0.25), (7, 0.75), (3, 0.25)), line((2**31 - 1, 1.0), (5, -3.0), None, (5, -2.5))])
    assert lists_of(by_id(pairs)) == [[(3, 0.25), (7, 0.75)], [(5, -2.5), (2**31 - 1, 1.0)]]
