"""Pair counts against loops over sessions; weights, tops and counters by hand."""

from collections import Counter
from itertools import combinations
from math import comb

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spark_jobs.cooccurrence as job
from conf.errors import SettingsError
from conf.fields import Field, Registry
from conf.sections.data import Cooc
from spark_jobs.cooccurrence import Rule, count_chunking, count_kept, count_pairs, pairs_of, strongest, weigh
from tests.spark_jobs.small_logs import shuffle_partitions

SESSIONS = [[1, 2, 2], [2, 1], [3]]
many_sessions = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=12), max_size=8)


def counted(sessions, rule):
    """{(item_i, item_j): count} over all pieces."""
    total = Counter()
    for pair, times in pairs_of(pa.array(sessions, pa.list_(pa.int32())), rule):
        assert len(set(pair.tolist())) == len(pair)
        total.update(dict(zip(((p >> 32, p & 0xFFFFFFFF) for p in pair.tolist()), times.tolist(), strict=True)))
    return dict(total)


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
@given(many_sessions, st.sampled_from(["set", "multiset", "window"]), st.integers(1, 4), st.integers(2, 6), st.integers(1, 30))
def test_equals_the_slow_twin_in_pieces_of_any_size(sessions, counting, window, cap, at_once):
    rule = Rule(counting, window, cap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "MAX_PAIRS_AT_ONCE", at_once)
        assert counted(sessions, rule) == slow_pairs(sessions, rule)


@settings(max_examples=100, deadline=None)
@given(many_sessions)
def test_every_pair_of_a_session_is_counted_once(sessions):  # P2.1
    assert sum(counted(sessions, Rule("set", 5, 50)).values()) == sum(comb(len(set(items)), 2) for items in sessions)


def test_a_sliced_list_column_counts_only_its_slice():
    column = pa.array([[9, 8], *SESSIONS, [7, 6]], pa.list_(pa.int32())).slice(1, 3)
    ((pair, times),) = pairs_of(column, Rule("set", 5, 50))
    assert (pair.tolist(), times.tolist()) == ([1 << 32 | 2], [2])


@pytest.fixture
def sessions(spark):
    """A session of 7 items among them, so that chunks of 3 lose pairs."""
    return spark.createDataFrame([(s,) for s in ([1, 2, 3, 4, 5, 6, 7], [1, 2, 1], [2, 1, 3], [4], [2, 7])], "items array<int>")


def test_spark_counts_the_same_for_any_partitioning(spark, sessions):
    rows = [row["items"] for row in sessions.collect()]
    for partitions in (1, 8):
        with shuffle_partitions(spark, partitions):
            for rule in (Rule("set", 5, 3), Rule("window", 2, 3)):
                pairs = count_pairs(sessions.repartition(partitions), rule)
                assert {(r.item_i, r.item_j): r["count"] for r in pairs.collect()} == slow_pairs(rows, rule)


def test_pairs_lost_between_chunks_are_counted(sessions):
    assert count_chunking(sessions, Rule("set", 5, 3)) == {"sessions_chunked": 1, "pairs_lost_by_chunking": comb(7, 2) - 3 - 3}
    assert count_chunking(sessions, Rule("set", 5, 7)) == {"sessions_chunked": 0, "pairs_lost_by_chunking": 0}
    assert count_chunking(sessions, Rule("window", 5, 3)) == {"sessions_chunked": 0, "pairs_lost_by_chunking": 0}


PAIRS = [(1, 2, 3), (1, 3, 1), (1, 4, 2), (2, 3, 1)]


def table(weighed):
    return {(r.item_i, r.item_j): (r["count"], r.same_category, r.weight) for r in weighed.collect()}


def test_pairs_of_one_category_weigh_more_and_unknown_never_equals_unknown(spark):  # second half of P2.4: (3, 1) -> (3, 2)
    pairs = spark.createDataFrame(PAIRS, "item_i int, item_j int, count long")
    single = spark.createDataFrame([(1, 4), (2, 5), (3, 4), (4, 2)], "idx int, category int")
    assert table(weigh(pairs, single, beta=1.0)) == {
        (1, 2): (3, False, 3.0),
        (1, 3): (1, True, 2.0),
        (1, 4): (2, False, 2.0),
        (2, 3): (1, False, 1.0),
    }
    unknown = spark.createDataFrame([(n, 2) for n in range(1, 5)], "idx int, category int")
    assert not any(same for _, same, _ in table(weigh(pairs, unknown, beta=1.0)).values())
    multi = spark.createDataFrame([(1, [4, 5]), (2, []), (3, [5]), (4, [])], "idx int, category array<int>")
    assert [pair for pair, (_, same, _) in table(weigh(pairs, multi, beta=0.5)).items() if same] == [(1, 3)]
    assert table(weigh(pairs, multi, beta=0.5))[1, 3] == (1, True, 1.5)
    assert {weight for _, _, weight in table(weigh(pairs, None, beta=1.0)).values()} == {1.0, 2.0, 3.0}


def test_the_strongest_of_each_item_in_both_directions(spark):
    pairs = spark.createDataFrame(PAIRS, "item_i int, item_j int, count long")
    weighed = weigh(pairs, None, beta=1.0)
    everything = table(strongest(weighed, top=9))
    assert everything == {**table(weighed), **{(j, i): value for (i, j), value in table(weighed).items()}}
    # 3's pairs weigh the same: the smaller item_j stays.
    assert sorted(table(strongest(weighed, top=1))) == [(1, 2), (2, 1), (3, 1), (4, 1)]
    assert weighed.columns == strongest(weighed, top=1).columns


def test_counters(spark):
    pairs = spark.createDataFrame(PAIRS, "item_i int, item_j int, count long")
    assert count_kept(pairs, min_count=2, top=1) == {
        "pairs": 4,
        "meetings": 7,
        "pairs_below_min_count": 2,
        "items_with_neighbours": 3,
        "rows_beyond_top": 1,
    }
    assert count_kept(pairs.limit(0), min_count=1, top=1)["meetings"] == 0


def test_negatives_are_exact_as_long_as_all_pairs_can_be_held():
    assert job.negatives_of({"pairs": 200_000_000}) == "exact"
    assert job.negatives_of({"pairs": 200_000_001}) == "stored"


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
