"""Counts that go on from those of an earlier day equal those of all sessions: by hand, and for random days in any order of sessions."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import BadDataError
from spark_jobs import baskets
from spark_jobs.baskets import Block, changed
from spark_jobs.increment import known_in
from spark_jobs.pair_counts import Categories, Keeping, Rule, Since, count_pairs
from tests.spark_jobs.test_cooccurrence import ALL, UNKNOWN

NUM_ITEMS = 8
# (user, start, items), by user and start
YESTERDAY = [
    (1, 0, [1, 2]),  # falls out of the window
    (1, 100, [1, 3]),
    (2, 50, [2, 3, 2]),  # is cut at its boundary
    (4, 70, [4, 5]),
]
TODAY = [
    (1, 100, [1, 3]),
    (1, 200, [1, 2, 3]),  # new
    (2, 60, [3, 2]),
    (3, 10, [7]),  # a new user
    (4, 70, [4, 5]),
]


def table_of(sessions):
    user, start, items = zip(*sessions, strict=True) if sessions else ((), (), ())
    columns = [pa.array(user, pa.int32()), pa.array(start, pa.int64()), pa.array(items, pa.list_(pa.int32()))]
    return pa.table(columns, ["user_idx", "start_ts", "items"])


def baskets_of(items, rule, block):
    if rule.counting == "window":
        return baskets.clicks(items, block)
    return baskets.distinct_items(items, block, max_items=rule.max_session_items)


def all_of(parts):
    """(rows of cooc, rows of cooc_pairs, the counters) of parts."""
    parts, total = list(parts), Counter()
    for part in parts:
        total.update(part.counts)
    rows = [row for part in parts for row in part.rows.to_pylist()]
    return rows, pa.Table.from_batches([part.pairs for part in parts]), total


def count(sessions, rule, block, keeping=ALL, categories=UNKNOWN, since=None, a_part=3):
    found = baskets_of(sessions, rule, block)
    return all_of(count_pairs(found, block, rule, keeping, categories, since=since, all_pairs=True, pairs_a_part=a_part))


def gone_on(yesterday, today, rule, block, keeping=ALL, categories=UNKNOWN, a_part=3):
    """What `count` gives for today, from the counts of yesterday and the difference; a_part: of yesterday's counts."""
    _, pairs, _ = count(table_of(yesterday)["items"].combine_chunks(), rule, block, a_part=a_part)
    new, gone = changed(table_of(today), table_of(yesterday))
    return count(new, rule, block, keeping, categories, Since(known_in(pairs, block), baskets_of(gone, rule, block), "yesterday"))


def test_what_came_and_went_by_hand():
    new, gone = changed(table_of(TODAY), table_of(YESTERDAY))
    assert new.to_pylist() == [[1, 2, 3], [3, 2], [7]]
    assert gone.to_pylist() == [[1, 2], [2, 3, 2]]
    assert [side.to_pylist() for side in changed(table_of(TODAY), table_of([]))] == [[items for _, _, items in TODAY], []]
    assert [side.to_pylist() for side in changed(table_of([])[:0], table_of(TODAY).slice(1, 1))] == [[], [[1, 2, 3]]]


@pytest.mark.parametrize(
    ("counting", "want"),
    [
        ("set", {(1, 2): 1, (1, 3): 2, (2, 3): 2, (4, 5): 1}),
        ("multiset", {(1, 2): 1, (1, 3): 2, (2, 3): 2, (4, 5): 1}),  # yesterday (2, 3) met twice, all in the session that was cut
        ("window", {(1, 2): 1, (1, 3): 1, (2, 3): 2, (4, 5): 1}),  # 1 and 3 are not side by side in the new session
    ],
)
def test_two_days_by_hand(counting, want):
    rule = Rule(counting, 1, 50) if counting == "window" else Rule(counting, 5, 50)
    rows, pairs, total = gone_on(YESTERDAY, TODAY, rule, Block(0, 1, NUM_ITEMS))
    both = {**want, **{(j, i): met for (i, j), met in want.items()}}
    assert {(row["item_i"], row["item_j"]): row["count"] for row in rows} == both
    # Every pair, in order of both items.
    assert [tuple(row.values()) for row in pairs.to_pylist()] == [(*pair, both[pair]) for pair in sorted(both)]
    assert (total["pairs"], total["meetings"]) == (4, sum(want.values()))


days = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9), st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=9)), max_size=9)


@settings(max_examples=300, deadline=None)
@given(
    days,
    days,
    st.data(),
    st.sampled_from(["set", "multiset", "window"]),
    st.integers(1, 4),
    st.integers(2, 5),
    st.integers(1, 5),
    st.booleans(),
)
def test_equals_counting_all_sessions(before, added, data, counting, window, cap, blocks, in_order):
    """Rows, pairs and counters; also where sessions are out of order, so that few twins are found."""
    kept = data.draw(st.lists(st.sampled_from(before), unique_by=id, max_size=len(before))) if before else []
    yesterday, today = before, kept + added
    if in_order:
        yesterday, today = (sorted(day, key=lambda session: session[:2]) for day in (yesterday, today))
    rule = Rule(counting, window, cap)
    keeping = Keeping(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), 0.5, drop_other=data.draw(st.booleans()))
    categories = Categories(np.array([0, 0, 1, 2, 3, 4, 4, 5, 6, 6], np.int64), np.array([4, 5, 4, 5, 6, 4], np.int32))
    for number in range(blocks):
        block = Block(number, blocks, NUM_ITEMS)
        whole = count(table_of(today)["items"].combine_chunks(), rule, block, keeping, categories, a_part=10**6)
        assert gone_on(yesterday, today, rule, block, keeping, categories, a_part=data.draw(st.integers(1, 9))) == whole


@settings(max_examples=100, deadline=None)
@given(days, days, st.booleans())
def test_what_is_in_both_cancels(before, added, in_order):
    today = before + added
    if in_order:
        before, today = (sorted(day, key=lambda session: session[:2]) for day in (before, today))
    new, gone = ([tuple(items) for items in side.to_pylist()] for side in changed(table_of(today), table_of(before)))
    counted = [Counter(tuple(items) for _, _, items in day) for day in (before, today)]
    counted[0].subtract(gone)
    counted[1].subtract(new)
    assert +counted[0] == +counted[1]
    assert not -counted[0]
    assert not -counted[1]


def test_a_day_that_only_adds_has_nothing_gone():
    day = sorted((user, start, [user, start]) for user in range(1, 5) for start in range(1, 9))
    added = [(2, 99, [1, 2]), (9, 0, [3])]
    new, gone = changed(table_of(sorted(day + added)), table_of(day))
    assert sorted(new.to_pylist()) == [[1, 2], [3]]
    assert gone.to_pylist() == []


def test_counts_of_other_sessions_are_refused():
    """2 and 3 met in one session of those counted, and are gone from another one, too."""
    rule, block = Rule("set", 5, 50), Block(0, 1, NUM_ITEMS)
    _, pairs, _ = count(table_of([(1, 0, [2, 3])])["items"].combine_chunks(), rule, block)
    gone = baskets_of(pa.array([[2, 3], [3, 2]], pa.list_(pa.int32())), rule, block)
    with pytest.raises(BadDataError, match=r"the pairs of that day are not of its sessions.*cooc.increment=false"):
        count(pa.array([[1, 2]], pa.list_(pa.int32())), rule, block, since=Since(known_in(pairs, block), gone, "that day"))


@pytest.mark.parametrize("rows", [[(2, 1, 1)], [(3, 9, 1)], [(3, 0, 1)], [(9, 1, 1)], [(-1, 1, 1)], [(3, 1, 0)], [(3, 1, 1), (1, 3, 1)]])
def test_pairs_that_are_not_those_of_the_block_are_refused(rows):
    columns = [pa.array(column, pa.int32()) for column in zip(*rows, strict=True)]
    with pytest.raises(BadDataError, match="does not hold the pairs of block 1 of 2"):
        known_in(pa.table(columns, ["item_i", "item_j", "count"]), Block(1, 2, NUM_ITEMS))
