"""Who clicked an item before: as of each click by hand, against a plain builder, and the same for any partitioning."""

import pytest

from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.sql.histories import with_position
from spark_jobs.sql.item_users import with_item_users
from spark_jobs.sql.samples import cut_windows
from tests.spark_jobs.small_logs import shuffle_partitions
from tests.spark_jobs.sql.many_logs import Event, apart, events_of, histories, log, many


def found(events, length):
    """{(user, position): users}."""
    made = with_item_users(with_position(events), length).select("user_idx", "position", "item_users").collect()
    by_place = {(row.user_idx, row.position): row.item_users for row in made}
    assert len(by_place) == len(made)
    return by_place


def slow_item_users(events, length):
    placed = [(e.ts, e.seq, user, n, e) for user, mine in histories(events).items() for n, e in enumerate(mine)]
    clicked, made = {}, {}
    for _, _, user, n, event in sorted(placed, key=lambda one: one[:4]):
        before = clicked.setdefault(event.item, [])
        last = before[-length:]
        made[user, n] = last + [0] * (length - len(last))
        if event.split == TRAIN:
            before.append(user)
    return made


# user, item, time, seq, split
BY_HAND = [
    Event(1, 7, 10, 0, TRAIN),  # the first click of item 7: nobody before
    Event(2, 7, 20, 0, TRAIN),  # 1
    Event(1, 7, 30, 0, TRAIN),  # 1, 2: the user himself by his earlier click, never by this one
    Event(3, 7, 30, 1, TRAIN),  # at the same time, but behind it in the file: 1, 2, 1 and of these the last two
    Event(4, 7, 30, 1, TRAIN),  # equal in time and seq: the row number decides, so 3 stands before 4 ...
    Event(5, 7, 40, 0, VALID),  # held out: sees 3, 4
    Event(6, 7, 50, 0, TEST),  # sees 3, 4 and not 5, who is held out
    Event(7, 7, 50, 0, CONTEXT),  # nor 6; and is no train user himself
    Event(2, 7, 60, 0, TRAIN),  # 3, 4
    Event(2, 8, 60, 0, TRAIN),  # another item
]


def test_by_hand(spark):
    assert found(events_of(spark, BY_HAND), 2) == {
        (1, 0): [0, 0],
        (2, 0): [1, 0],
        (1, 1): [1, 2],
        (3, 0): [2, 1],
        (4, 0): [1, 3],  # ... and 4 never before 3
        (5, 0): [3, 4],
        (6, 0): [3, 4],
        (7, 0): [3, 4],
        (2, 1): [3, 4],
        (2, 2): [0, 0],
    }


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3, 20])
def test_equals_the_plain_builder_for_any_partitioning(spark, length):
    logs = apart(many(log(), num=100))
    want = slow_item_users(logs, length)
    assert sum(any(users) for users in want.values()) > 100
    for partitions in (1, 64):
        with shuffle_partitions(spark, partitions):
            assert found(events_of(spark, logs).repartition(partitions), length) == want


@pytest.mark.slow
def test_a_sample_carries_the_list_of_its_own_click(spark):
    logs = apart(many(log(), num=100))
    want = slow_item_users(logs, 3)
    for split in (TRAIN, VALID):
        rows = cut_windows(events_of(spark, logs), split=split, history=2, first_target=0, user_columns=(), item_users=3).collect()
        assert rows
        assert all(row.item_users == want[row.user_idx, row.sample_id & 0xFFFFFFFF] for row in rows)
