"""Pairs that met, in Spark SQL: by hand, and against loops over sessions; weights and tops."""

from collections import Counter
from itertools import combinations
from math import comb

import pytest
from hypothesis import strategies as st

from conf.tables import TEST, TRAIN
from spark_jobs.session_cuts import Rule
from spark_jobs.sql.cooccurrence import count_chunking, count_close_pairs, count_kept, count_pairs, strongest, weigh
from spark_jobs.sql.sessions import sessionise
from tests.spark_jobs.small_logs import shuffle_partitions
from tests.spark_jobs.sql.many_logs import STEP, Event, apart, events_of, log, many, slow_sessions

# Many lists of sessions; the items of list n are n * STEP + 1..8, so that one action counts each list on its own.
LISTS = many(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=12), max_size=8), num=80)
SESSIONS = [[item + n * STEP for item in items] for n, sessions in enumerate(LISTS) for items in sessions]
EVENTS = apart(many(log(), num=100))
MODES = ("set", "multiset", "window")


def sessions_of(spark, sessions):
    return spark.createDataFrame([(items,) for items in sessions], "items array<int>")


def found(pairs):
    """{(item_i, item_j): count}."""
    assert pairs.schema.simpleString() == "struct<item_i:int,item_j:int,count:bigint>"
    rows = pairs.collect()
    counted = {(row.item_i, row.item_j): row["count"] for row in rows}
    assert len(counted) == len(rows)
    assert all(i < j for i, j in counted)
    return counted


def slow_pairs(sessions, *, counting, window, max_session_items):
    total = Counter()
    for items in sessions:
        if counting == "window":
            near = [(i, j) for i, j in combinations(range(len(items)), 2) if j - i <= window and items[i] != items[j]]
            total.update({tuple(sorted((items[i], items[j]))) for i, j in near})
            continue
        distinct, times = list(dict.fromkeys(items)), Counter(items)
        for at in range(0, len(distinct), max_session_items):
            for i, j in combinations(sorted(distinct[at : at + max_session_items]), 2):
                total[i, j] += times[i] * times[j] if counting == "multiset" else 1
    return dict(total)


def slow_close_pairs(events, cuts, *, counting, window, max_session_items, max_dt_s):
    total = Counter()
    for session in (session for sessions in slow_sessions(events, cuts).values() for session in sessions):
        clicks = [click for click in session if click.split == TRAIN]
        distinct = list(dict.fromkeys(click.item for click in clicks))
        chunk = {item: 0 if counting == "window" else n // max_session_items for n, item in enumerate(distinct)}
        met = Counter()
        for (m, one), (n, other) in combinations(enumerate(clicks), 2):
            close = other.ts - one.ts <= max_dt_s and (counting != "window" or n - m <= window)
            if close and one.item != other.item and chunk[one.item] == chunk[other.item]:
                met[min(one.item, other.item), max(one.item, other.item)] += 1
        total.update(met if counting == "multiset" else dict.fromkeys(met, 1))
    return dict(total)


def test_small_sessions_by_hand(spark):  # P2.2
    sessions = sessions_of(spark, [[1, 2, 2], [2, 1], [3]])
    assert found(count_pairs(sessions, counting="set", window=5, max_session_items=50)) == {(1, 2): 2}
    assert found(count_pairs(sessions, counting="multiset", window=5, max_session_items=50)) == {(1, 2): 3}
    round_trip = sessions_of(spark, [[1, 2, 3, 1]])
    assert found(count_pairs(round_trip, counting="window", window=1, max_session_items=50)) == {(1, 2): 1, (2, 3): 1, (1, 3): 1}


def test_the_largest_row_numbers_survive_the_pairing(spark):
    largest = sessions_of(spark, [[2**31 - 1, 2**31 - 2, 1]])
    want = {(1, 2**31 - 2): 1, (1, 2**31 - 1): 1, (2**31 - 2, 2**31 - 1): 1}
    for counting in ("set", "window"):
        assert found(count_pairs(largest, counting=counting, window=2, max_session_items=50)) == want


@pytest.mark.parametrize(
    ("counting", "window", "max_session_items"),
    [("set", 1, 2), ("set", 1, 5), ("multiset", 1, 3), ("window", 1, 2), ("window", 3, 2), ("window", 50, 2)],
)
def test_equals_the_slow_twin(spark, counting, window, max_session_items):
    rule = {"counting": counting, "window": window, "max_session_items": max_session_items}
    assert found(count_pairs(sessions_of(spark, SESSIONS), **rule)) == slow_pairs(SESSIONS, **rule)


def test_every_pair_of_a_session_is_counted_once_and_both_ways_alike(spark):  # P2.1
    pairs = count_pairs(sessions_of(spark, SESSIONS), counting="set", window=5, max_session_items=50)
    both_ways = {(r.item_i, r.item_j): r["count"] for r in strongest(weigh(pairs, None, beta=1.0), top=10**6).collect()}
    assert all(both_ways[j, i] == count for (i, j), count in both_ways.items())
    for n, sessions in enumerate(LISTS):
        counted = sum(count for (i, j), count in both_ways.items() if i < j and i // STEP == n)
        assert counted == sum(comb(len(set(items)), 2) for items in sessions)


def test_is_the_same_for_any_partitioning(spark):
    rule = {"counting": "set", "window": 2, "max_session_items": 3}
    for partitions in (1, 8):
        with shuffle_partitions(spark, partitions):
            assert found(count_pairs(sessions_of(spark, SESSIONS).repartition(partitions), **rule)) == slow_pairs(SESSIONS, **rule)


def test_clicks_too_far_apart_do_not_meet_though_their_session_is_one(spark):
    events = [
        *(Event(1, item, ts, 0, TRAIN) for item, ts in ((5, 0), (6, 3600), (7, 7200))),  # exactly the bound stays together
        *(Event(2, item, ts, 0, TRAIN) for item, ts in ((25, 0), (26, 1), (25, 2), (26, 9000))),  # 25 and 26 meet twice in time
        *(Event(3, item, ts, 0, split) for item, ts, split in ((35, 0, TRAIN), (36, 1, TEST))),  # held-out clicks meet nothing
    ]

    def met(counting, max_dt_s):
        rule = {"counting": counting, "window": 5, "max_session_items": 50}
        return found(count_close_pairs(events_of(spark, events), Rule("user", 1), max_dt_s=max_dt_s, **rule))

    assert met("set", 3600) == {(5, 6): 1, (6, 7): 1, (25, 26): 1}
    assert met("multiset", 3600) == {(5, 6): 1, (6, 7): 1, (25, 26): 2}
    assert met("window", 7200) == {(5, 6): 1, (5, 7): 1, (6, 7): 1, (25, 26): 1}


@pytest.mark.parametrize(
    ("cuts", "counting"),
    [*((Rule("user", 1), counting) for counting in MODES), (Rule("gap", 3), "set"), (Rule("given", 1, 6), "multiset")],
    ids=str,
)
def test_close_pairs_equal_the_slow_twin(spark, cuts, counting):
    rule = {"counting": counting, "window": 2, "max_session_items": 2, "max_dt_s": 3}
    want = slow_close_pairs(EVENTS, cuts, **rule)
    assert found(count_close_pairs(events_of(spark, EVENTS), cuts, **rule)) == want
    assert want != slow_close_pairs(EVENTS, cuts, **{**rule, "max_dt_s": 99}) or cuts.kind == "gap"


@pytest.mark.parametrize("counting", ["set", "window"])
def test_without_a_bound_in_time_close_pairs_are_the_pairs_of_the_sessions(spark, counting):
    rule = {"counting": counting, "window": 2, "max_session_items": 3}
    events, cuts = events_of(spark, EVENTS), Rule("gap", 3, 8)
    close = found(count_close_pairs(events, cuts, max_dt_s=10**6, **rule))
    assert close == found(count_pairs(sessionise(events, cuts), **rule))


def test_pairs_lost_between_chunks_are_counted(spark):
    sessions = sessions_of(spark, [[1, 2, 3, 4, 5, 6, 7], [1, 2, 1], [2, 1, 3], [4], [2, 7]])
    assert count_chunking(sessions, counting="set", max_session_items=3) == {
        "sessions_chunked": 1,
        "pairs_lost_by_chunking": comb(7, 2) - 3 - 3,
    }
    none = {"sessions_chunked": 0, "pairs_lost_by_chunking": 0}
    assert count_chunking(sessions, counting="multiset", max_session_items=7) == none
    assert count_chunking(sessions, counting="window", max_session_items=3) == none


PAIRS = [(1, 2, 3), (1, 3, 1), (1, 4, 2), (2, 3, 1)]


def pairs_of(spark, pairs=PAIRS):
    return spark.createDataFrame(pairs, "item_i int, item_j int, count long")


def table(weighed):
    return {(r.item_i, r.item_j): (r["count"], r.same_category, r.weight) for r in weighed.collect()}


def test_pairs_of_one_category_weigh_more_and_unknown_never_equals_unknown(spark):  # second half of P2.4: (3, 1) -> (3, 2)
    single = spark.createDataFrame([(1, 4), (2, 5), (3, 4), (4, 2)], "idx int, category int")
    weighed = weigh(pairs_of(spark), single, beta=1.0)
    assert weighed.schema.simpleString() == "struct<item_i:int,item_j:int,count:int,same_category:boolean,weight:float>"
    assert table(weighed) == {(1, 2): (3, False, 3.0), (1, 3): (1, True, 2.0), (1, 4): (2, False, 2.0), (2, 3): (1, False, 1.0)}
    unknown = spark.createDataFrame([(n, 2) for n in range(1, 5)], "idx int, category int")
    assert not any(same for _, same, _ in table(weigh(pairs_of(spark), unknown, beta=1.0)).values())
    multi = spark.createDataFrame([(1, [4, 5]), (2, []), (3, [5]), (4, [])], "idx int, category array<int>")
    some = table(weigh(pairs_of(spark), multi, beta=0.5))
    assert [pair for pair, (_, same, _) in some.items() if same] == [(1, 3)]
    assert some[1, 3] == (1, True, 1.5)
    assert {weight for _, _, weight in table(weigh(pairs_of(spark), None, beta=1.0)).values()} == {1.0, 2.0, 3.0}


def test_a_filter_drops_pairs_whose_categories_are_known_and_differ(spark):
    single = spark.createDataFrame([(1, 4), (2, 5), (3, 4), (4, 2)], "idx int, category int")  # 4: OOV; 5: in no row
    pairs = pairs_of(spark, [*PAIRS, (2, 5, 1)])
    kept = table(weigh(pairs, single, beta=1.0, filter_categories=True))
    assert kept == {(1, 3): (1, True, 2.0), (1, 4): (2, False, 2.0), (2, 5): (1, False, 1.0)}
    multi = spark.createDataFrame([(1, [4, 5]), (2, [6]), (3, [5]), (4, [])], "idx int, category array<int>")
    assert sorted(table(weigh(pairs, multi, beta=1.0, filter_categories=True))) == [(1, 3), (1, 4), (2, 5)]
    assert len(table(weigh(pairs, None, beta=1.0, filter_categories=True))) == 5


def test_the_strongest_of_each_item_in_both_directions(spark):
    weighed = weigh(pairs_of(spark), None, beta=1.0)
    everything = table(strongest(weighed, top=9))
    assert everything == {**table(weighed), **{(j, i): value for (i, j), value in table(weighed).items()}}
    assert sorted(table(strongest(weighed, top=1))) == [(1, 2), (2, 1), (3, 1), (4, 1)]  # 3's pairs tie: the smaller item_j stays
    assert weighed.schema == strongest(weighed, top=1).schema


def test_counters(spark):
    frequent = pairs_of(spark).where("count >= 2")
    counted = {
        "pairs": 4,
        "meetings": 7,
        "pairs_below_min_count": 2,
        "pairs_of_other_category": 0,
        "items_with_neighbours": 3,
        "rows_beyond_top": 1,
    }
    assert count_kept(pairs_of(spark), frequent, min_count=2, top=1) == counted
    dropped = {"pairs_of_other_category": 1, "items_with_neighbours": 2, "rows_beyond_top": 0}
    assert count_kept(pairs_of(spark), frequent.where("item_j != 2"), min_count=2, top=1) == counted | dropped
    assert set(count_kept(pairs_of(spark, []), pairs_of(spark, []), min_count=1, top=1).values()) == {0}
