"""What is measured by held-out clicks: by hand, by its bounds, and against the slow twin on random lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_jobs.metrics import ACCURACY
from tests.spark_jobs.metrics.blocks import block
from tests.spark_jobs.metrics.slow import twin

ITEMS = st.integers(1, 12)
LISTS = st.lists(st.tuples(st.lists(ITEMS, unique=True, max_size=9), st.lists(ITEMS, min_size=1, max_size=9)), min_size=1, max_size=6)


def measured(lists: list[list[int]], clicked: list[list[int]], n: int) -> dict[str, list[float]]:
    made = block(lists, clicked, n)
    counts = {
        "n_truth": made.truth_B,
        "n_hit": made.hits_BN.sum(axis=1),
        "n_click": made.all_clicks_B,
        "n_click_hit": made.clicks_BN.sum(axis=1),
    }
    return {name: values.tolist() for name, values in {**{name: f(made) for name, f in ACCURACY.items()}, **counts}.items()}


def test_the_worked_example() -> None:
    # P8.1: held out {a, b, c}; the list is x a y b
    found = {name: values[0] for name, values in measured([[9, 1, 8, 2]], [[1, 2, 3]], 4).items()}
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["ndcg_std"] == pytest.approx(0.4981893, abs=1e-7)
    assert found["ndcg_hit"] == pytest.approx(0.6509209, abs=1e-7)
    assert (found["hr"], found["precision"], found["mrr"]) == (1.0, 0.5, 0.5)
    assert (found["n_truth"], found["n_hit"], found["n_click"], found["n_click_hit"]) == (3, 2, 3, 2)


def test_a_perfect_list_scores_one_and_none_zero() -> None:
    # P8.2
    found = measured([[3, 1, 2], []], [[1, 2, 3], [5]], 3)
    assert [found[name] for name in ACCURACY] == [[1.0, 0.0]] * len(ACCURACY)


def test_clicks_of_one_item_count_one_by_one_as_clicks_and_together_as_item() -> None:
    found = measured([[4, 7]], [[7, 7, 7, 5]], 2)
    assert (found["n_truth"], found["n_hit"], found["n_click"], found["n_click_hit"]) == ([2], [1], [4], [3])


@given(LISTS, st.integers(1, 9))
def test_every_number_is_that_of_the_twin(rows: list[tuple[list[int], list[int]]], n: int) -> None:
    # P8.9, with P8.2's order and P8.3's single item on the way
    lists, clicked = [items for items, _ in rows], [clicks for _, clicks in rows]
    found = measured(lists, clicked, n)
    for row, (items, clicks) in enumerate(rows):
        mine = {name: values[row] for name, values in found.items()}
        assert mine == pytest.approx(twin(items, clicks, n), abs=1e-9)
        assert mine["ndcg_std"] <= mine["ndcg_hit"] + 1e-12
        assert all(0 <= mine[name] <= 1 + 1e-12 for name in ACCURACY)
        if mine["n_truth"] == 1:
            assert mine["recall"] == mine["hr"]


@given(LISTS, st.permutations(range(1, 13)))
def test_names_of_items_do_not_matter_and_more_places_never_lose_a_hit(rows: list[tuple[list[int], list[int]]], order: list[int]) -> None:
    # P8.2
    lists, clicked = [items for items, _ in rows], [clicks for _, clicks in rows]
    renamed = [[[order[item - 1] for item in mine] for mine in part] for part in (lists, clicked)]
    assert measured(renamed[0], renamed[1], 5) == measured(lists, clicked, 5)
    made = block(lists, clicked, 9)
    for name in ("recall", "hr"):
        values = np.array([ACCURACY[name](made.first(n)) for n in range(1, 10)])
        assert (np.diff(values, axis=0) >= 0).all()
    assert (np.diff([made.first(n).clicks_BN.sum(axis=1) for n in range(1, 10)], axis=0) >= 0).all()  # HIT
