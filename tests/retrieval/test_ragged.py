"""Ragged lists against plain Python lists."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import ragged
from retrieval.ragged import Ragged

LISTS = st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=6)


def plain(lists: Ragged) -> list[list[int]]:
    return [lists.values[a:b].tolist() for a, b in zip(lists.starts, lists.starts[1:], strict=False)]


@given(LISTS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_last_distinct_keeps_the_last_place_of_a_repeated_value_newest_first(lists, num):
    expected = [list(dict.fromkeys(reversed(one))) for one in lists]
    assert plain(ragged.last_distinct(Ragged.of(lists))) == expected
    assert plain(ragged.last_distinct(Ragged.of(lists), num)) == [one[:num] for one in expected]


@given(LISTS)
@settings(max_examples=60, deadline=None)
def test_sorted_distinct_and_contains(lists):
    distinct = ragged.sorted_distinct(Ragged.of(lists))
    assert plain(distinct) == [sorted(set(one)) for one in lists]
    asked = [(row, value) for row in range(len(lists)) for value in range(8)]
    rows, values = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    assert ragged.contains(distinct, rows, values.astype(np.int32)).tolist() == [value in lists[row] for row, value in asked]


@given(LISTS, st.lists(st.integers(-2, 8), max_size=10))
@settings(max_examples=60, deadline=None)
def test_take_gives_the_lists_asked_for_and_empty_ones_for_unknown_ids(lists, ids):
    taken = Ragged.of(lists, [[v / 2 for v in one] for one in lists]).take(np.array(ids, dtype=np.int64))
    assert plain(taken) == [lists[i] if 0 <= i < len(lists) else [] for i in ids]
    assert taken.weights.tolist() == [v / 2 for one in plain(taken) for v in one]


def test_best_first_orders_by_weight_then_by_value_and_knows_negative_zero():
    lists = Ragged.of([[1, 2, 3, 4, 5], [7, 9]], [[0.0, -1.0, 2.0, -0.0, 2.0], [-3.0, -2.0]])
    best = ragged.best_first(lists)
    assert plain(best) == [[3, 5, 1, 4, 2], [9, 7]]
    assert best.weights.tolist() == [2, 2, 0, 0, -1, -2, -3]
    assert plain(ragged.best_first(lists, 2)) == [[3, 5], [9, 7]]
    assert plain(ragged.best_first(lists, np.array([3, 1]))) == [[3, 5, 1], [9]]


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=30))
@settings(max_examples=60, deadline=None)
def test_best_first_sorts_any_floats_as_they_sort(weights):
    lists = Ragged.of([list(range(len(weights)))], [weights])
    expected = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    assert plain(ragged.best_first(lists)) == [expected]


@pytest.mark.parametrize(
    ("agg", "expected"), [("sum", [[(3, 1.5), (8, 2.0)], [], [(3, 4.0)]]), ("max", [[(3, 1.0), (8, 2.0)], [], [(3, 4.0)]])]
)
def test_aggregate_puts_equal_values_of_a_row_together(agg, expected):
    rows, values = np.array([2, 0, 0, 0]), np.array([3, 8, 3, 3], dtype=np.int32)
    total = ragged.aggregate(rows, values, np.array([4.0, 2.0, 1.0, 0.5]), 3, agg=agg)
    assert [
        list(zip(total.values[a:b], total.weights[a:b], strict=True)) for a, b in zip(total.starts, total.starts[1:], strict=False)
    ] == expected


def test_arrow_lists_come_in_with_nulls_slices_and_chunks_and_go_out_again():
    column = pa.array([[9], [1, 2], None, [], [3]], pa.list_(pa.int32()))
    assert plain(Ragged.from_arrow(column)) == [[9], [1, 2], [], [], [3]]
    assert plain(Ragged.from_arrow(column.slice(1, 3))) == [[1, 2], [], []]
    assert plain(Ragged.from_arrow(pa.chunked_array([column.slice(1, 2), column.slice(4)]))) == [[1, 2], [], [3]]
    weights = pa.array([[0.5], [1.0, 2.0]], pa.list_(pa.float32()))
    lists = Ragged.from_arrow(column.slice(0, 2), weights)
    assert lists.to_arrow().to_pylist() == [[9], [1, 2]]
    assert lists.weights_to_arrow().to_pylist() == [[0.5], [1.0, 2.0]]


def test_parts_put_together_are_the_whole():
    lists = Ragged.of([[1], [], [2, 3], [4]], [[1.0], [], [2.0, 3.0], [4.0]])
    whole = ragged.concatenate([lists.part(0, 1), lists.part(1, 3), lists.part(3, 4)])
    assert plain(whole) == plain(lists)
    assert whole.weights.tolist() == [1, 2, 3, 4]


def test_falling_numbers_sort_against_the_weights_and_give_them_back():
    weights = np.array([np.inf, 3.0, 0.5, 1e-30, 0.0, -1e-30, -2.5, -np.inf], dtype=np.float32)
    assert (np.diff(ragged.falling(weights).astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(ragged.scores_of(ragged.falling(weights)), weights)
    assert ragged.falling(np.array([-0.0]))[0] == ragged.falling(np.array([0.0]))[0]
