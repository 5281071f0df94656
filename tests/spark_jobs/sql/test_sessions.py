"""Sessions in Spark SQL: by hand, and against a twin that goes event by event."""

import pytest

from conf.tables import TEST, TRAIN, VALID
from spark_jobs.session_cuts import Rule
from spark_jobs.sql.sessions import sessionise
from tests.spark_jobs.small_logs import shuffle_partitions
from tests.spark_jobs.sql.many_logs import Event, apart, events_of, log, many, slow_sessions

SCHEMA = "user_idx:int,session_no:int,start_ts:bigint,end_ts:bigint,items:array<int>,num_items:int,was_cut:boolean"
LOGS = apart(many(log(), num=100))


def found(sessions):
    """(user, session_no, start, end, items, was_cut) of each session, in order."""
    rows = sessions.collect()
    assert all(row.num_items == len(row["items"]) for row in rows)
    return sorted((r.user_idx, r.session_no, r.start_ts, r.end_ts, r["items"], r.was_cut) for r in rows)


def expected(events, rule):
    made = []
    for user, sessions in slow_sessions(events, rule).items():
        number = 0
        for clicks in sessions:
            train = [click for click in clicks if click.split == TRAIN]
            if train:
                items = [click.item for click in train]
                made.append((user, number, train[0].ts, train[-1].ts, items, len(train) < len(clicks)))
                number += 1
    return made


def test_by_hand(spark):
    """One user a case, so that one Spark action shows them all."""
    events = [
        *(Event(1, item, ts, 0, TRAIN) for item, ts in ((5, 0), (6, 3600), (7, 7201))),  # P2.3: a pause of exactly the gap stays together
        *(Event(2, item, ts, 0, TRAIN) for item, ts in ((9, 0), (9, 60), (8, 60))),  # equal times: item decides; duplicates stay
        *(Event(3, item, ts, 0, split) for item, ts, split in ((5, 0, TRAIN), (6, 60, VALID), (7, 120, TEST))),  # cut by the split
        *(Event(4, item, ts, 0, split) for item, ts, split in ((5, 0, TRAIN), (6, 9999, TEST))),  # a session of held-out clicks alone
        Event(5, 7, 0, 0, VALID),
        *(Event(6, item, 0, seq, TRAIN) for item, seq in ((1, 2), (2, 1))),  # seq goes before item
    ]
    made = sessionise(events_of(spark, events), Rule("gap", 3600))
    assert made.schema.simpleString() == f"struct<{SCHEMA}>"
    assert found(made) == [
        (1, 0, 0, 3600, [5, 6], False),
        (1, 1, 7201, 7201, [7], False),
        (2, 0, 0, 60, [9, 8, 9], False),
        (3, 0, 0, 0, [5], True),
        (4, 0, 0, 0, [5], False),
        (6, 0, 0, 0, [2, 1], False),
    ]


def test_a_long_session_is_cut_by_span(spark):
    times = ((1, 0), (2, 50), (3, 100), (4, 101), (5, 190), (6, 202))
    made = sessionise(events_of(spark, [Event(1, item, ts, 0, TRAIN) for item, ts in times]), Rule("gap", 90, max_span_s=100))
    assert [row[4] for row in found(made)] == [[1, 2, 3], [4, 5], [6]]


def test_given_sessions_may_interleave_and_clicks_without_one_stay_alone(spark):
    keys = ["b", "a", "b", None, None, "b"]
    events = [Event(1, n, 10 * n, 0, TRAIN, key=key) for n, key in enumerate(keys)] + [Event(2, 1, 5, 0, TRAIN, key="b")]
    sessions = [(user, no, items) for user, no, _, _, items, _ in found(sessionise(events_of(spark, events), Rule("given", 1)))]
    assert sessions == [(1, 0, [0, 2, 5]), (1, 1, [1]), (1, 2, [3]), (1, 3, [4]), (2, 0, [1])]
    cut = [(user, no, items) for user, no, _, _, items, _ in found(sessionise(events_of(spark, events), Rule("given", 1, max_span_s=20)))]
    assert cut == [(1, 0, [0, 2]), (1, 1, [5]), (1, 2, [1]), (1, 3, [3]), (1, 4, [4]), (2, 0, [1])]


@pytest.mark.parametrize("max_span_s", [None, 4])
@pytest.mark.parametrize(("kind", "gap_s"), [("gap", 1), ("gap", 3), ("given", 1), ("user", 1)])
def test_equals_the_slow_twin(spark, kind, gap_s, max_span_s):
    rule = Rule(kind, gap_s, max_span_s)
    assert found(sessionise(events_of(spark, LOGS), rule)) == expected(LOGS, rule)


def test_is_the_same_for_any_partitioning(spark):
    rule = Rule("gap", 2, max_span_s=6)
    for partitions in (1, 8):
        with shuffle_partitions(spark, partitions):
            assert found(sessionise(events_of(spark, LOGS).repartition(partitions), rule)) == expected(LOGS, rule)
