"""Rank fusion by hand, and against plain loops."""

import numpy as np
import pytest

from retrieval.merge import fuse, merge
from retrieval.ragged import Ragged
from tests.retrieval.small_world import lists_of


def lists(*items):
    """Lists with scores 1, 1/2, 1/3 ..."""
    return Ragged.of(items, [[1 / (place + 1) for place in range(len(one))] for one in items])


def slow_fuse(channels, user, weights, top):
    """[(item, score, [(channel, rank, score)])], straight from the definition."""
    scores, sources = {}, {}
    for name, ragged in channels.items():
        if weights.get(name, 1) == 0:
            continue
        for rank, (item, score) in enumerate(lists_of(ragged)[user], start=1):
            scores[item] = scores.get(item, 0.0) + weights.get(name, 1) / (60 + rank)
            sources.setdefault(item, []).append({"channel": name, "rank": rank, "score": score})
    rounded = {item: float(np.float32(score)) for item, score in scores.items()}
    best = sorted(rounded.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    return [(item, score, sources[item]) for item, score in best]


def as_seen(merged):
    sources = merged.sources_to_arrow().to_pylist()
    return [
        [(item, score, source) for (item, score), source in zip(one, brought, strict=True)]
        for one, brought in zip(lists_of(merged.lists), sources, strict=True)
    ]


def test_p7_3_identical_lists_fuse_to_the_list():
    same = lists([5, 9, 2], [], [7])
    assert [[item for item, _ in one] for one in lists_of(fuse({"a": same, "b": same}, weights={}, top=10).lists)] == [[5, 9, 2], [], [7]]


def test_p7_3_ranks_1_and_2_score_1_61_plus_1_62():
    merged = fuse({"a": lists([4, 8]), "b": lists([8, 4])}, weights={}, top=10)
    assert as_seen(merged) == [
        [
            (4, pytest.approx(0.0325225, abs=1e-7), [{"channel": "a", "rank": 1, "score": 1.0}, {"channel": "b", "rank": 2, "score": 0.5}]),
            (8, pytest.approx(0.0325225, abs=1e-7), [{"channel": "a", "rank": 2, "score": 0.5}, {"channel": "b", "rank": 1, "score": 1.0}]),
        ]
    ]
    assert merged.lists.weights[0] == merged.lists.weights[1]  # equal scores: the smaller item_idx comes first


@pytest.mark.parametrize("weights", [{}, {"a": 3.0}, {"b": 0.0, "c": 0.5}, {"a": 0.0, "b": 0.0, "c": 0.0}])
@pytest.mark.parametrize("top", [1, 7, 100])
def test_equals_the_definition_written_as_loops(weights, top):
    rng = np.random.default_rng(top)
    channels = {name: lists(*[rng.permutation(30)[: rng.integers(0, 15)].tolist() for _ in range(9)]) for name in "abc"}
    merged = fuse(channels, weights=weights, top=top)
    assert as_seen(merged) == [slow_fuse(channels, user, weights, top) for user in range(9)]


def test_popular_serves_only_users_without_history():
    channels = {"u2i": lists([1, 2], [1, 2]), "popular": lists([3], [3])}
    merged = merge(channels, weights={}, top=10, has_history=np.array([True, False]))
    assert [[item for item, _ in one] for one in lists_of(merged.lists)] == [[1, 2], [3]]
    assert merged.is_fallback.tolist() == [False, True]
    assert merged.sources_to_arrow().to_pylist()[1] == [[{"channel": "popular", "rank": 1, "score": 1.0}]]


def test_popular_joins_everybody_when_it_is_given_a_weight():
    channels = {"u2i": lists([1, 2], [1]), "popular": lists([3, 1], [3])}
    merged = merge(channels, weights={"popular": 0.5}, top=10, has_history=np.array([True, False]))
    assert [[item for item, _ in one] for one in lists_of(merged.lists)] == [[1, 2, 3], [3]]


def test_a_popular_weight_of_0_keeps_the_fallback():
    channels = {"u2i": lists([1], [1]), "popular": lists([3], [3])}
    merged = merge(channels, weights={"popular": 0}, top=10, has_history=np.array([True, False]))
    assert [[item for item, _ in one] for one in lists_of(merged.lists)] == [[1], [3]]


def test_without_a_popular_channel_nobody_falls_back():
    merged = merge({"u2i": lists([1], [2])}, weights={}, top=10, has_history=np.array([True, False]))
    assert [[item for item, _ in one] for one in lists_of(merged.lists)] == [[1], [2]]
    assert not merged.is_fallback.any()
