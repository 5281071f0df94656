"""Learned quotas: every way to share the list out is tried, and the best is found."""

from itertools import product

import numpy as np
import pytest

from conf.sections.retrieval import Merge
from retrieval.merge import merge
from retrieval.merge_quotas import learn_quotas
from retrieval.ragged import Ragged
from tests.retrieval.small_world import lists_of


def recall_of(channels, truth, quotas, top):
    settings = Merge(kind="quota", quotas=quotas, top=top)
    merged = merge(channels, settings, has_history=np.ones(len(truth), dtype=np.bool_))
    found = [{item for item, _ in one} for one in lists_of(merged.lists)]
    return float(np.mean([len(one & set(wanted)) / len(wanted) for one, wanted in zip(found, truth, strict=True)]))


def lists(*items):
    return Ragged.of(items, [[1 / (place + 1) for place in range(len(one))] for one in items])


@pytest.mark.parametrize(("seed", "top", "steps"), [(0, 6, 6), (1, 7, 3), (2, 10, 5)])
def test_finds_the_best_of_all_ways_written_as_loops(seed, top, steps):
    rng = np.random.default_rng(seed)
    channels = {name: lists(*[rng.permutation(25)[: rng.integers(0, 12)].tolist() for _ in range(12)]) for name in "abc"}
    truth = [sorted(rng.permutation(25)[: rng.integers(1, 5)].tolist()) for _ in range(12)]
    bounds = [done * top // steps for done in range(steps + 1)]
    ways = {}
    for a, b in product(range(steps + 1), repeat=2):
        if a + b <= steps:
            quotas = {"a": bounds[a], "b": bounds[a + b] - bounds[a], "c": top - bounds[a + b]}
            ways[a, b] = (recall_of(channels, truth, quotas, top), quotas)
    learned = learn_quotas(channels, Ragged.of(truth), top=top, steps=steps)
    best = max(recall for recall, _ in ways.values())
    assert learned.tried == len(ways) == (steps + 1) * (steps + 2) // 2
    assert learned.recall == pytest.approx(best, abs=1e-6)
    first = max((way for way, (recall, _) in ways.items() if recall > best - 1e-9))  # the earlier channels get more
    assert learned.quotas == ways[first][1]
    assert sum(learned.quotas.values()) == top


def test_by_hand():
    """Only b's second item and c's first are wanted: a gets nothing, and b the place that c does not need."""
    channels = {"a": lists([1, 2, 3], [1, 2, 3]), "b": lists([4, 5, 6], [4, 5, 6]), "c": lists([7, 8, 9], [7, 8, 9])}
    learned = learn_quotas(channels, Ragged.of([[5, 7], [5]]), top=3, steps=3)
    assert (learned.quotas, learned.recall) == ({"a": 0, "b": 2, "c": 1}, 1.0)


def test_one_channel_gets_everything():
    learned = learn_quotas({"a": lists([1, 2])}, Ragged.of([[2]]), top=4, steps=10)
    assert (learned.quotas, learned.recall, learned.tried) == ({"a": 4}, 1.0, 1)
