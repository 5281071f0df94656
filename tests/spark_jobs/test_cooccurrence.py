"""Pair counts of the compiled engine against loops over sessions, whatever the blocks; weights, tops and counters by hand."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spark_jobs.cooccurrence as job
import spark_jobs.kernels.strongest as kernel
from conf.errors import BadDataError, SettingsError
from conf.fields import Field, Registry
from conf.sections.data import Cooc
from spark_jobs import baskets
from spark_jobs.baskets import Baskets, Block
from spark_jobs.cooccurrence import num_blocks
from spark_jobs.pair_counts import COUNTERS, Categories, Keeping, Rule, count_pairs

SESSIONS = [[1, 2, 2], [2, 1], [3]]
ALL = Keeping(min_count=1, top=99, beta=1.0, drop_other=False)
UNKNOWN = Categories(np.zeros(99, np.int64), np.empty(0, np.int32))
many_sessions = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=12), max_size=8)


def column(sessions):
    return pa.array(sessions, pa.list_(pa.int32()))


def rows_of(found_in, rule, blocks=1, keeping=ALL, categories=UNKNOWN):
    """(rows of all blocks as dicts, the summed counters); found_in(block) -> Baskets."""
    rows, total = [], Counter()
    for number in range(blocks):
        block = Block(number, blocks, 8)
        for part in count_pairs(found_in(block), block, rule, keeping, categories):
            rows += part.rows.to_pylist()
            total.update(part.counts)
    return rows, total


def in_sessions(sessions, rule):
    """Sessions in two files, as `rows_of` wants them."""

    def found(block):
        parts = [column(sessions[: len(sessions) // 2]), column(sessions[len(sessions) // 2 :])]
        if rule.counting == "window":
            return Baskets.joined([baskets.clicks(part, block) for part in parts])
        return Baskets.joined([baskets.distinct_items(part, block, max_items=rule.max_session_items) for part in parts])

    return found


def once(rows):
    """{(item_i, item_j): count} with item_i < item_j, of rows that hold both directions."""
    counts = {(row["item_i"], row["item_j"]): row["count"] for row in rows}
    assert len(counts) == len(rows)
    assert all(counts[j, i] == count for (i, j), count in counts.items())
    return {pair: count for pair, count in counts.items() if pair[0] < pair[1]}


def counted(sessions, rule, blocks=1):
    rows, total = rows_of(in_sessions(sessions, rule), rule, blocks)
    pairs = once(rows)
    assert total["pairs"] == len(pairs)
    assert total["meetings"] == sum(pairs.values())
    assert total["items_with_neighbours"] == len({row["item_i"] for row in rows})
    return pairs


def slow_pairs(sessions, rule):
    total = Counter()
    for items in sessions:
        if rule.counting == "window":
            near = {(i, j) for i, j in combinations(range(len(items)), 2) if j - i <= rule.window and items[i] != items[j]}
            total.update({tuple(sorted((items[i], items[j]))) for i, j in near})
            continue
        distinct, times = list(dict.fromkeys(items)), Counter(items)
        for at in range(0, len(distinct), rule.max_session_items):
            for i, j in combinations(sorted(distinct[at : at + rule.max_session_items]), 2):
                total[i, j] += times[i] * times[j] if rule.counting == "multiset" else 1
    return dict(total)


def test_two_small_sessions_by_hand():  # P2.2
    assert counted(SESSIONS, Rule("set", 5, 50)) == {(1, 2): 2}
    assert counted(SESSIONS, Rule("multiset", 5, 50)) == {(1, 2): 3}
    assert counted([[1, 2, 3, 1]], Rule("window", 1, 50)) == {(1, 2): 1, (2, 3): 1, (1, 3): 1}


@settings(max_examples=300, deadline=None)
@given(many_sessions, st.sampled_from(["set", "multiset", "window"]), st.integers(1, 4), st.integers(2, 6), st.integers(1, 9))
def test_equals_the_slow_twin_in_blocks_of_any_number(sessions, counting, window, cap, blocks):
    rule = Rule(counting, window, cap)
    assert counted(sessions, rule, blocks) == slow_pairs(sessions, rule)


@settings(max_examples=100, deadline=None)
@given(many_sessions)
def test_every_pair_of_a_session_is_counted_once(sessions):  # P2.1
    assert sum(counted(sessions, Rule("set", 5, 50)).values()) == sum(comb(len(set(items)), 2) for items in sessions)


def test_a_sliced_list_column_counts_only_its_slice():
    sliced = column([[8, 8], *SESSIONS, [7, 6]]).slice(1, 3)
    for counting in ("set", "window"):
        rule = Rule(counting, 5, 50)
        found = baskets.distinct_items if counting == "set" else baskets.clicks
        options = {"max_items": 50} if counting == "set" else {}
        rows, _ = rows_of(lambda block, found=found, options=options: Baskets.joined([found(sliced, block, **options)]), rule)
        assert once(rows) == {(1, 2): 2}


def test_an_item_beyond_the_catalogue_is_refused_before_anything_is_counted():
    for item in (0, 9, -1):
        with pytest.raises(BadDataError, match=r"not a row number of item_feat.*8 rows"):
            baskets.distinct_items(column([[1, item]]), Block(0, 1, 8), max_items=50)


def test_pairs_lost_between_chunks_are_counted():
    sessions = column([[1, 2, 3, 4, 5, 6, 7], [1, 2, 1], [4]])
    for cap, lost in ((3, [1, comb(7, 2) - 3 - 3]), (7, [0, 0])):
        assert baskets.distinct_items(sessions, Block(0, 1, 8), max_items=cap).lost.tolist() == lost
        assert baskets.distinct_items(sessions, Block(5, 6, 8), max_items=cap).lost.tolist() == lost  # of all sessions, in any block


PAIRS = {(1, 2): 3, (1, 3): 1, (1, 4): 2, (2, 3): 1}


def weighed(keeping, categories=UNKNOWN):
    """{(item_i, item_j): (count, same_category, weight)} in the order of the rows, and the counters, for sessions that give PAIRS."""
    sessions = [[i, j] for (i, j), times in PAIRS.items() for _ in range(times)]
    rule = Rule("set", 5, 50)
    rows, total = rows_of(in_sessions(sessions, rule), rule, 3, keeping, categories)
    return {(row["item_i"], row["item_j"]): (row["count"], row["same_category"], row["weight"]) for row in rows}, total


def categories(known):
    """known: {item: its values}."""
    sizes = [len(known.get(item, ())) for item in range(9)]
    return Categories(np.cumsum([0, *sizes]), np.array([value for item in range(9) for value in known.get(item, ())], np.int32))


def test_pairs_of_one_category_weigh_more():  # second half of P2.4: (3, 1) -> (3, 2)
    rows, _ = weighed(ALL, categories({1: [4], 2: [5], 3: [4]}))
    assert {pair: rows[pair] for pair in PAIRS} == {
        (1, 2): (3, False, 3.0),
        (1, 3): (1, True, 2.0),
        (1, 4): (2, False, 2.0),
        (2, 3): (1, False, 1.0),
    }
    half = Keeping(1, 99, 0.5, drop_other=False)
    rows, _ = weighed(half, categories({1: [4, 5], 3: [5]}))
    assert [pair for pair, (_, same, _) in rows.items() if same] == [(3, 1), (1, 3)]
    assert rows[1, 3] == rows[3, 1] == (1, True, 1.5)


def test_pairs_of_two_known_categories_can_be_dropped():
    rows, total = weighed(Keeping(1, 99, 1.0, drop_other=True), categories({1: [4], 2: [5], 3: [4]}))
    assert set(once([{"item_i": i, "item_j": j, "count": count} for (i, j), (count, _, _) in rows.items()])) == {(1, 3), (1, 4)}
    assert total["pairs_of_other_category"] == 2


def test_the_strongest_of_each_item_in_both_directions():
    rows, total = weighed(Keeping(1, 1, 1.0, drop_other=False))
    # 3's pairs weigh the same: the smaller item_j stays.
    assert sorted(rows) == [(1, 2), (2, 1), (3, 1), (4, 1)]
    assert total == {**dict.fromkeys(COUNTERS, 0), "pairs": 4, "meetings": 7, "items_with_neighbours": 4, "rows_beyond_top": 2 + 1 + 1}
    rows, total = weighed(Keeping(2, 1, 1.0, drop_other=False))
    assert sorted(rows) == [(1, 2), (2, 1), (4, 1)]
    assert (total["pairs_below_min_count"], total["items_with_neighbours"], total["rows_beyond_top"]) == (2, 3, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=60, unique=True), st.data())
def test_the_largest_keys_come_to_the_front(keys, data):
    top = data.draw(st.integers(1, len(keys)))
    moved = np.array(keys, np.uint64)
    kernel._largest(moved, top)
    assert set(moved[:top].tolist()) == set(sorted(keys)[-top:])


def test_the_top_of_many_equals_a_sort():
    draw = np.random.default_rng(3)
    sessions = [draw.choice(400, 12, replace=False) + 1 for _ in range(4000)]
    block, rule = Block(0, 1, 400), Rule("set", 5, 50)
    found = baskets.distinct_items(column([s.tolist() for s in sessions]), block, max_items=50)
    unknown = Categories(np.zeros(402, np.int64), np.empty(0, np.int32))
    rows = next(count_pairs(found, block, rule, Keeping(1, 10, 1.0, drop_other=False), unknown)).rows.to_pylist()
    met = Counter((int(i), int(j)) for s in sessions for i in s for j in s if i != j)
    want = {}
    for (i, j), count in sorted(met.items(), key=lambda pair: (pair[0][0], -pair[1], pair[0][1])):
        want.setdefault(i, []).append((j, count))
    got = {}
    for row in rows:
        got.setdefault(row["item_i"], []).append((row["item_j"], row["count"]))
    assert got == {i: pairs[:10] for i, pairs in want.items()}


def test_blocks_are_few_and_bound_what_a_task_holds():
    assert num_blocks(1_000, 3.0, cores=2) == 1
    assert num_blocks(20_000_000, 6.0, cores=2) == 4
    assert num_blocks(10**9, 6.0, cores=2) == 60


def test_negatives_are_exact_as_long_as_all_pairs_can_be_held():
    assert job.negatives_of({"pairs": 200_000_000}) == "exact"
    assert job.negatives_of({"pairs": 200_000_001}) == "stored"


def test_auto_min_count_drops_what_met_once_where_there_are_many_clicks():
    assert [job.resolve_keeping(Cooc(), train_clicks=n).min_count for n in (9_999_999, 10_000_000)] == [1, 2]
    assert job.resolve_keeping(Cooc(min_count=1), train_clicks=10**8).min_count == 1


def test_auto_counts_sets_where_sessions_mean_something():
    kinds = {
        (clock, kind): job.resolve_rule(Cooc(), has_clock=clock, session_kind=kind).counting
        for clock in (0, 1)
        for kind in ("given", "user")
    }
    assert kinds == {(0, "given"): "set", (0, "user"): "window", (1, "given"): "set", (1, "user"): "set"}
    assert job.resolve_rule(Cooc(count="multiset"), has_clock=False, session_kind="user").counting == "multiset"


def test_the_category_field_must_be_encoded():
    registry = Registry(
        user=(), item=(Field("item_id", "item", "single"), Field("tags", "item", "multi")), item_text=(Field("title", "item", "text"),)
    )
    assert job.category_field(Cooc(category_field="tags"), registry) == "tags"
    assert job.category_field(Cooc(), registry) is None
    for name in ("title", "category"):
        with pytest.raises(SettingsError, match=f"'{name}' is not among the encoded item fields.*tags"):
            job.category_field(Cooc(category_field=name), registry)
