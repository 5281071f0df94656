"""What lists are made of: by hand, and against the slow twin on random lists."""

from collections.abc import Sequence

import numpy as np
import pytest

from spark_jobs.metrics import VARIETY
from tests.spark_jobs.metrics.blocks import block, known
from tests.spark_jobs.metrics.slow import variety_twin


def measured(
    lists: Sequence[Sequence[int] | None], n: int, clicks: Sequence[int], category: Sequence[int] | None
) -> dict[str, list[float]]:
    made = block(lists, [[1]] * len(lists), n, known(clicks, category))
    return {name: metric(made).tolist() for name, metric in VARIETY.items()}


def test_novelty_is_the_mean_surprise_in_bits() -> None:
    # 3, 1, 0 and 0 clicks, one more each: shares 4/8, 2/8, 1/8, 1/8
    assert measured([[1], [2, 3], [4, 1]], 2, [3, 1, 0, 0], None)["novelty"] == pytest.approx([1.0, (2 + 3) / 2, (3 + 1) / 2])


def test_diversity_is_the_share_of_pairs_of_two_categories() -> None:
    # items 1, 2, 3 are of category 4; item 4 of 5; items 5 and 6 have none and are like nothing
    found = measured([[1, 2, 3, 4], [1, 2], [5, 6], [5, 1, 2], [1]], 4, [1] * 6, [4, 4, 4, 5, 0, 0])["diversity"]
    assert found[:4] == pytest.approx([3 / 6, 0.0, 1.0, 2 / 3])
    assert np.isnan(found[4])  # one item is no pair


def test_without_lists_or_categories_there_is_nothing_to_tell() -> None:
    found = measured([[], None], 3, [5, 1], [4, 4])
    assert all(np.isnan(values).all() for values in found.values())
    assert np.isnan(measured([[1, 2]], 2, [5, 1], None)["diversity"]).all()


def test_the_head_is_what_is_clicked_most() -> None:
    # the 95th of 100 numbers, 1 to 100, is 96 (the next higher one): items 96 to 100 are the head
    assert measured([[96, 95, 100, 1], [1, 2]], 4, range(1, 101), None)["pop_share"] == [0.5, 0.0]


def test_every_number_is_that_of_the_twin() -> None:
    # P8.9
    rng = np.random.default_rng(2)
    clicks, category = rng.zipf(1.6, 40) - 1, rng.choice([0, 4, 5, 6], 40)
    lists = [rng.choice(np.arange(1, 41), rng.integers(0, 15), replace=False).tolist() for _ in range(60)]
    items = known(clicks.tolist(), category.tolist())
    made = block(lists, [[1]] * len(lists), 15, items)
    about = {
        "clicks": {i + 1: int(c) for i, c in enumerate(clicks)},
        "category": {i + 1: int(c) for i, c in enumerate(category) if c},
        "head": set(np.flatnonzero(items.head).tolist()),
    }
    assert 0 < len(about["head"]) < 10
    for n in (1, 4, 15):
        found = {name: metric(made.first(n)) for name, metric in VARIETY.items()}
        for row, mine in enumerate(lists):
            for name, want in variety_twin(mine, n, **about).items():
                assert found[name][row] == pytest.approx(np.nan if want is None else want, abs=1e-9, nan_ok=True), (name, mine, n)
