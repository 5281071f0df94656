"""Pairs within so many seconds: against loops over clicks, and equal to the pairs of whole sessions where the time is no bound."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spark_jobs.close_pairs as kernel
from conf.errors import SettingsError
from conf.sections.data import Session
from conf.tables import TABLES
from spark_jobs.cooccurrence import Rule as Counting
from spark_jobs.cooccurrence import count_close_pairs, pairs_of
from spark_jobs.job import spark_schema
from spark_jobs.session_cuts import Rule, resolve_rule
from spark_jobs.sessions import cut_sessions
from tests.spark_jobs.small_logs import shuffle_partitions
from tests.spark_jobs.test_sessions import arrow, event_rows

MODES = ("set", "multiset", "window")


def met(rows, cuts, max_dt_s, mode, window=2, max_items=50):
    """{(item_i, item_j): times}."""
    options = {"window": window if mode == "window" else None, "max_items": max_items, "multiset": mode == "multiset"}
    pairs, times = kernel.close_pairs(arrow(rows), cuts, max_dt_s=max_dt_s, **options)
    assert len(set(pairs.tolist())) == len(pairs)
    return {(pair >> 32, pair & 0xFFFFFFFF): n for pair, n in zip(pairs.tolist(), times.tolist(), strict=True)}


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


def test_held_out_clicks_meet_nothing():
    assert met([(1, 5, 0, 0, None), (1, 6, 1, 2, None)], Rule("user", 1), 10, "set") == {}


cuts = st.builds(Rule, st.sampled_from(["gap", "given", "user"]), st.integers(1, 4), st.none() | st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(event_rows(), cuts, st.integers(1, 13), st.sampled_from(MODES), st.integers(1, 3), st.integers(2, 3), st.integers(1, 9))
def test_equals_the_slow_twin_in_pieces_of_any_size(rows, cuts, max_dt_s, mode, window, max_items, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "MAX_MEETINGS_AT_ONCE", at_once)
        assert met(rows, cuts, max_dt_s, mode, window, max_items) == slow_met(rows, cuts, max_dt_s, mode, window, max_items)


@settings(max_examples=200, deadline=None)
@given(event_rows(), cuts, st.sampled_from(MODES), st.integers(2, 3))
def test_without_a_bound_in_time_they_are_the_pairs_of_the_sessions(rows, cuts, mode, max_items):
    total = Counter()
    for pairs, times in pairs_of(cut_sessions(arrow(rows), cuts).column("items"), Counting(mode, 2, max_items)):
        total.update({(pair >> 32, pair & 0xFFFFFFFF): n for pair, n in zip(pairs.tolist(), times.tolist(), strict=True)})
    assert met(rows, cuts, 10**6, mode, 2, max_items) == dict(total)


def test_spark_counts_the_same_for_any_partitioning(spark):
    rows = [(u, 1 + (n * u) % 5, 7 * n * n, 0 if n < 6 else 2, None) for u in range(1, 20) for n in range(u % 9 + 1)]
    events = spark.createDataFrame([(u, i, ts, 0, split, 1.0, key) for u, i, ts, split, key in rows], spark_schema(TABLES["events"]))
    cuts, want = Rule("gap", 60), slow_met(rows, Rule("gap", 60), 80, "set")
    for partitions in (1, 4):
        with shuffle_partitions(spark, partitions):
            pairs = count_close_pairs(events, cuts, Counting("set", 5, 50), max_dt_s=80).collect()
        assert {(row.item_i, row.item_j): row["count"] for row in pairs} == want


def test_needs_clock_times():
    with pytest.raises(SettingsError, match="pair_max_dt_s needs clock times"):
        resolve_rule(Session(pair_max_dt_s=60), has_clock=False, has_sessions=False)
