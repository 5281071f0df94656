"""Many small random logs that one Spark action checks together, and what a reader would make of them click by click."""

from typing import NamedTuple

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from conf.tables import CONTEXT, TABLES, TEST, TRAIN, VALID
from spark_jobs.job import spark_schema
from spark_jobs.session_cuts import Rule

STEP = 100  # the users of log n are n * STEP + 1..9, its items n * STEP + 1..STEP - 1


class Event(NamedTuple):
    """In the order of the columns of `events`."""

    user: int
    item: int
    ts: int
    seq: int
    split: int
    weight: float = 1.0
    key: str | None = None

    @property
    def place(self):
        """The total order of a user's events."""
        stage = TRAIN if self.split == CONTEXT else self.split
        return self.ts, self.seq, stage, self.item, self.weight, self.key or ""  # null stands first


@st.composite
def log(draw, num_items=4):
    """Events in no order; their times and seq tie often; held-out ones come last in (ts, seq)."""
    events = []
    for user in draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)):
        places = sorted(draw(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=16)))
        first = draw(st.sampled_from([TRAIN, TRAIN, TRAIN, CONTEXT]))
        num_valid, num_test = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        test_from = len(places) - num_test
        held_from = test_from - num_valid
        for n, (ts, seq) in enumerate(places):
            split = first if n < held_from else VALID if n < test_from else TEST
            item, weight, key = draw(st.integers(1, num_items)), draw(st.sampled_from([1.0, 2.0])), draw(st.sampled_from([None, "a", "b"]))
            events.append(Event(user, item, ts, seq, split, weight, key))
    return draw(st.permutations(events))


def many(strategy, num=60):
    """`num` examples, the same each time."""
    found = []

    @settings(max_examples=num, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(strategy)
    def collect(example):
        found.append(example)

    collect()
    assert len(found) > num // 2
    return found


def apart(logs) -> list[Event]:
    """All logs as one, no user nor item shared between them."""
    return [event._replace(user=event.user + n * STEP, item=event.item + n * STEP) for n, log in enumerate(logs) for event in log]


def events_of(spark: SparkSession, events: list[Event]) -> DataFrame:
    return spark.createDataFrame([tuple(event) for event in events], spark_schema(TABLES["events"]))


def histories(events):
    """{user: its events in total order}, users in order."""
    return {user: sorted((e for e in events if e.user == user), key=lambda e: e.place) for user in sorted({e.user for e in events})}


def slow_sessions(events, rule: Rule):
    """{user: its sessions with their held-out events, in order of first event, parts of one session behind each other}."""
    return {user: [part for session in _sessions(mine, rule) for part in _parts(session, rule)] for user, mine in histories(events).items()}


def _sessions(events, rule):
    sessions, newest = [], {}
    for n, event in enumerate(events):
        name = None if rule.kind != "given" else n if event.key is None else event.key
        mine = newest.get(name)
        if mine is None or (rule.kind == "gap" and event.ts - mine[-1].ts > rule.gap_s):
            mine = newest[name] = []
            sessions.append(mine)
        mine.append(event)
    return sessions


def _parts(session, rule):
    parts = [[session[0]]]
    for event in session[1:]:
        if rule.max_span_s is not None and event.ts - parts[-1][0].ts > rule.max_span_s:
            parts.append([])
        parts[-1].append(event)
    return parts
