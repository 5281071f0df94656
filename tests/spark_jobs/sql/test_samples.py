"""Windows in Spark SQL: by hand, against a builder that goes click by click, and nothing of the future in a history."""

import pytest
from hypothesis import strategies as st
from pyspark.sql import functions as F

from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.sql.samples import cut_windows
from tests.spark_jobs.small_logs import shuffle_partitions
from tests.spark_jobs.sql.many_logs import Event, apart, events_of, histories, log, many

SCHEMA = "sample_id:bigint,user_idx:int,item_idx:int,ts:bigint,split:tinyint,hist:array<int>,hist_len:smallint,weight:float,city:int"
LOGS = apart(many(log(), num=100))


def with_city(events):
    return events.withColumn("city", F.col("user_idx") % 90 + 10)


def found(events, **recipe):
    """{sample_id: row}."""
    made = cut_windows(with_city(events), user_columns=("city",), **recipe)
    assert made.schema.simpleString() == f"struct<{SCHEMA}>"
    rows = [row.asDict() for row in made.collect()]
    by_id = {row["sample_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def slow_samples(events, *, split, history, first_target):
    made = {}
    for user, mine in histories(events).items():
        for n, event in enumerate(mine):
            if event.split != split or (split == TRAIN and n < first_target):
                continue
            hist = [before.item for before in mine[max(0, n - history) : n]]
            row = {"sample_id": (user << 32) + n, "user_idx": user, "item_idx": event.item, "ts": event.ts, "split": split}
            row |= {"hist": hist + [0] * (history - len(hist)), "hist_len": len(hist), "weight": event.weight, "city": user % 90 + 10}
            made[row["sample_id"]] = row
    return made


def test_windows_by_hand(spark):
    rows = [(1, 7, TRAIN), (2, 4, TRAIN), (2, 5, TRAIN), (2, 4, VALID), (2, 6, VALID), (2, 9, TEST), (3, 1, CONTEXT), (3, 2, VALID)]
    events = events_of(spark, [Event(user, item, n, 0, split) for n, (user, item, split) in enumerate(rows)])
    train = found(events, split=TRAIN, history=3, first_target=0)
    assert {key: (row["hist"], row["hist_len"]) for key, row in train.items()} == {
        1 << 32: ([0, 0, 0], 0),
        2 << 32: ([0, 0, 0], 0),
        (2 << 32) + 1: ([4, 0, 0], 1),
    }
    valid = found(events, split=VALID, history=3, first_target=0)
    assert {key: (row["item_idx"], row["hist"]) for key, row in valid.items()} == {
        (2 << 32) + 2: (4, [4, 5, 0]),
        (2 << 32) + 3: (6, [4, 5, 4]),
        (3 << 32) + 1: (2, [1, 0, 0]),
    }
    late = found(events, split=TRAIN, history=1, first_target=1)
    assert {key: row["hist"] for key, row in late.items()} == {(2 << 32) + 1: [4]}
    assert len(found(events, split=VALID, history=1, first_target=9)) == 3  # only train users start late


def test_where_all_else_ties_what_is_held_out_stays_behind(spark):
    """Two files may number their rows alike: the item then must not put a held-out click before a train click."""
    events = events_of(spark, [Event(1, 3, 0, 0, VALID), Event(1, 8, 0, 0, TRAIN), Event(2, 3, 0, 0, VALID), Event(2, 8, 0, 0, CONTEXT)])
    made = found(events, split=VALID, history=2, first_target=0)
    assert {key: row["hist"] for key, row in made.items()} == {(1 << 32) + 1: [8, 0], (2 << 32) + 1: [8, 0]}


def test_the_largest_row_number_makes_a_positive_sample_id(spark):
    largest = 2**31 - 1
    made = found(events_of(spark, [Event(largest, 1, 0, 0, TRAIN), Event(largest, 2, 1, 0, TRAIN)]), split=TRAIN, history=2, first_target=0)
    assert sorted(made) == [largest << 32, (largest << 32) + 1]


@pytest.mark.parametrize(("split", "history", "first_target"), [(TRAIN, 3, 0), (TRAIN, 1, 4), (TRAIN, 20, 2), (VALID, 5, 4)])
def test_equals_the_plain_builder(spark, split, history, first_target):
    recipe = {"split": split, "history": history, "first_target": first_target}
    want = slow_samples(LOGS, **recipe)
    assert found(events_of(spark, LOGS), **recipe) == want
    assert want


def test_is_the_same_for_any_partitioning(spark):
    recipe = {"split": TRAIN, "history": 4, "first_target": 0}
    for partitions in (1, 8):
        with shuffle_partitions(spark, partitions):
            assert found(events_of(spark, LOGS).repartition(partitions), **recipe) == slow_samples(LOGS, **recipe)


def test_no_history_holds_its_target_nor_anything_behind_it(spark):  # P1.2
    places = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=15)
    # One user a log. No item twice, so that an item names its event; many equal times.
    events = [
        Event(user, user * 100 + n, ts, seq, TRAIN) for user, mine in enumerate(many(places), start=1) for n, (ts, seq) in enumerate(mine)
    ]
    place = {event.item: event.place for event in events}
    made = found(events_of(spark, events), split=TRAIN, history=20, first_target=0).values()
    before = {row["item_idx"]: set(row["hist"]) - {0} for row in made}
    ties = 0
    for item, others in before.items():
        assert all(place[other] < place[item] for other in others)
    for one in events:
        for other in events:
            if one.user == other.user and one.item < other.item and one.ts == other.ts:
                ties += 1
                assert (one.item in before[other.item]) != (other.item in before[one.item])
    assert ties > 100
