"""Pairs within so many seconds: against loops over clicks, and equal to the pairs of whole sessions where the time is no bound."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import SettingsError
from conf.sections.data import Session
from spark_jobs import baskets
from spark_jobs.baskets import Baskets, Block
from spark_jobs.cooccurrence import Rule as Counting
from spark_jobs.session_cuts import Rule, resolve_rule
from spark_jobs.sessions import cut_sessions
from tests.spark_jobs.test_cooccurrence import in_sessions, once, rows_of
from tests.spark_jobs.test_sessions import arrow, event_rows

MODES = ("set", "multiset", "window")


def met(rows, cuts, max_dt_s, mode, window=2, max_items=50, blocks=1):
    """{(item_i, item_j): times}."""
    events, chunks_of = arrow(rows).combine_chunks(), None if mode == "window" else max_items
    found, _ = rows_of(
        lambda block: Baskets.joined([baskets.timed_clicks(events, block, cuts, chunks_of=chunks_of)]),
        Counting(mode, window, max_items, max_dt_s),
        blocks,
    )
    return once(found)


def slow_met(rows, cuts, max_dt_s, mode, window=2, max_items=50):
    total = Counter()
    for clicks in slow_sessions(rows, cuts):
        distinct = list(dict.fromkeys(item for item, _ in clicks))
        chunk = {item: 0 if mode == "window" else n // max_items for n, item in enumerate(distinct)}
        found = Counter()
        for (m, (i, early)), (n, (j, late)) in combinations(enumerate(clicks), 2):
            if i != j and late - early <= max_dt_s and chunk[i] == chunk[j] and (mode != "window" or n - m <= window):
                found[min(i, j), max(i, j)] += 1
        total.update(found if mode == "multiset" else dict.fromkeys(found, 1))
    return dict(total)


def slow_sessions(rows, cuts):
    """The train clicks (item, ts) of each session, click by click."""
    sessions, newest = {}, {}
    for n, (user, item, ts, split, key) in enumerate(rows):
        name = (user, n) if cuts.kind == "given" and key is None else (user, key if cuts.kind == "given" else None)
        mine = sessions.get(newest.get(name))
        pause = mine is None or (cuts.kind == "gap" and ts - mine[-1][1] > cuts.gap_s)
        if pause or (cuts.max_span_s is not None and ts - mine[0][1] > cuts.max_span_s):
            newest[name] = n
            mine = sessions[n] = []
        mine.append((item, ts, split))
    return [[(item, ts) for item, ts, split in clicks if split == 0] for clicks in sessions.values()]


def test_three_clicks_of_which_the_first_and_last_are_too_far_apart():
    rows = [(1, 5, 0, 0, None), (1, 6, 3600, 0, None), (1, 7, 7200, 0, None)]
    assert met(rows, Rule("gap", 3600), 3600, "set") == {(5, 6): 1, (6, 7): 1}  # exactly the bound stays together
    assert met(rows, Rule("gap", 3600), 7200, "set") == {(5, 6): 1, (5, 7): 1, (6, 7): 1}


def test_a_session_counts_a_pair_once_or_each_time_it_met():
    rows = [(1, 5, 0, 0, None), (1, 6, 1, 0, None), (1, 5, 2, 0, None), (1, 6, 90, 0, None), (2, 6, 0, 0, None), (2, 5, 0, 0, None)]
    assert met(rows, Rule("user", 1), 10, "set") == {(5, 6): 2}
    assert met(rows, Rule("user", 1), 10, "multiset") == {(5, 6): 3}


def test_no_click_of_a_long_session_looks_beyond_its_chunk():
    """Six items clicked in turn, twice, in chunks of two; at 20,000 items it is 50 others that each looks at, or 20,000."""
    rows = [(1, item, ts, 0, None) for ts, item in enumerate([1, 2, 3, 4, 5, 6] * 2)]
    made = baskets.timed_clicks(arrow(rows).combine_chunks(), Block(0, 1, 6), Rule("user", 1), chunks_of=2)
    assert made.item.tolist() == [1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6]
    assert made.ts.tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert made.ends.tolist() == [4, 8, 12]
    assert made.lost[0] == 1


def test_held_out_clicks_meet_nothing():
    assert met([(1, 5, 0, 0, None), (1, 6, 1, 2, None)], Rule("user", 1), 10, "set") == {}


cuts = st.builds(Rule, st.sampled_from(["gap", "given", "user"]), st.integers(1, 4), st.none() | st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(event_rows(), cuts, st.integers(1, 13), st.sampled_from(MODES), st.integers(1, 3), st.integers(2, 3), st.integers(1, 9))
def test_equals_the_slow_twin_in_blocks_of_any_number(rows, cuts, max_dt_s, mode, window, max_items, blocks):
    assert met(rows, cuts, max_dt_s, mode, window, max_items, blocks) == slow_met(rows, cuts, max_dt_s, mode, window, max_items)


@settings(max_examples=200, deadline=None)
@given(event_rows(), cuts, st.sampled_from(MODES), st.integers(2, 3))
def test_without_a_bound_in_time_they_are_the_pairs_of_the_sessions(rows, cuts, mode, max_items):
    sessions = cut_sessions(arrow(rows).combine_chunks(), cuts, Counter()).column("items").to_pylist()
    rule = Counting(mode, 2, max_items)
    assert met(rows, cuts, 10**6, mode, 2, max_items) == once(rows_of(in_sessions(sessions, rule), rule)[0])


def test_needs_clock_times():
    with pytest.raises(SettingsError, match="pair_max_dt_s needs clock times"):
        resolve_rule(Session(pair_max_dt_s=60), has_clock=False, has_sessions=False)
