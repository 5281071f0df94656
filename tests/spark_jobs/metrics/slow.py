"""Every metric of one list, written as its definition reads: no arrays, no sharing."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import log2


def twin(items: Sequence[int], clicked: Sequence[int], n: int) -> dict[str, float]:
    """What is measured by held-out clicks, an item clicked twice standing twice in `clicked`."""
    truth = set(clicked)
    hits = [item in truth for item in items[:n]]
    dcg = sum(1 / log2(rank + 1) for rank, hit in enumerate(hits, start=1) if hit)
    n_hit = sum(hits)
    ideal = [sum(1 / log2(rank + 1) for rank in range(1, k + 1)) for k in (n_hit, min(len(truth), n))]
    return {
        "recall": n_hit / len(truth),
        "precision": n_hit / n,
        "ndcg_hit": dcg / ideal[0] if n_hit else 0.0,
        "ndcg_std": dcg / ideal[1],
        "hr": float(n_hit > 0),
        "mrr": next((1 / rank for rank, hit in enumerate(hits, start=1) if hit), 0.0),
        "n_truth": len(truth),
        "n_hit": n_hit,
        "n_click": len(clicked),
        "n_click_hit": sum(item in items[:n] for item in clicked),
    }


def variety_twin(
    items: Sequence[int], n: int, *, clicks: Mapping[int, int], category: Mapping[int, int], head: set[int]
) -> dict[str, float | None]:
    """What is measured by the list alone. clicks: of every item of the catalogue, 0 included. category: of those that have one."""
    first = items[:n]
    all_clicks = sum(clicks.values()) + len(clicks)
    pairs = list(combinations(first, 2))
    alike = sum(a in category and b in category and category[a] == category[b] for a, b in pairs)
    return {
        "novelty": sum(-log2((clicks[i] + 1) / all_clicks) for i in first) / len(first) if first else None,
        "pop_share": sum(i in head for i in first) / len(first) if first else None,
        "diversity": 1 - alike / len(pairs) if pairs else None,
    }


def gini_twin(times: Sequence[int]) -> float:
    """Half the mean absolute difference of all pairs, by the mean. times: of every item, 0 included."""
    mean = sum(times) / len(times)
    return sum(abs(a - b) for a in times for b in times) / (2 * len(times) ** 2 * mean)
