"""Sessions: by hand, and against a slow twin that goes event by event."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import SettingsError
from conf.sections.data import Session
from spark_jobs.sessions import Rule, cut_sessions, resolve_rule

HOUR = 3600
EVENTS = pa.schema(
    [("user_idx", pa.int32()), ("item_idx", pa.int32()), ("ts", pa.int64()), ("split", pa.int8()), ("session_key", pa.string())]
)


def arrow(rows):
    """rows: (user, item, ts, split, session_key), sorted by user and time."""
    return pa.Table.from_pylist([dict(zip(EVENTS.names, row, strict=True)) for row in rows], schema=EVENTS)


def found(rows, rule):
    """(user, session_no, start, end, items) of each session, and how many the split cut."""
    counts = Counter()
    made = cut_sessions(arrow(rows).combine_chunks(), rule, counts).to_pylist()
    assert all(row["num_items"] == len(row["items"]) for row in made)
    assert counts["sessions"] == len(made)
    assert counts["singleton_sessions"] == sum(len(row["items"]) == 1 for row in made)
    assert counts["session_items"] == sum(len(row["items"]) for row in made)
    return [(r["user_idx"], r["session_no"], r["start_ts"], r["end_ts"], r["items"]) for r in made], counts["sessions_cut_by_the_split"]


def slow_sessions(rows, rule):
    """Event by event: which session it belongs to; then held-out events are taken away."""
    groups, newest = {}, {}
    for n, (user, item, ts, split, key) in enumerate(rows):
        name = (user, key) if rule.kind == "given" and key else (user, n) if rule.kind == "given" else (user,)
        group = newest.get(name)
        if group is not None and rule.kind == "gap" and ts - groups[group][-1][1] > rule.gap_s:
            group = None
        if group is not None and rule.max_span_s is not None and ts - groups[group][0][1] > rule.max_span_s:
            group = None
        if group is None:
            group = newest[name] = (user, n)
        groups.setdefault(group, []).append((item, ts, split))
    made, numbers, cut = [], {}, 0
    # A session that was cut for its length stands right behind the one it continues.
    by_first = groups if rule.kind != "given" else sorted(groups, key=lambda g: _given_place(g, groups, rows))
    for group in by_first:
        train = [(item, ts) for item, ts, split in groups[group] if split == 0]
        if train:
            no = numbers[group[0]] = numbers.get(group[0], -1) + 1
            made.append((group[0], no, train[0][1], train[-1][1], [item for item, _ in train]))
            cut += len(train) < len(groups[group])
    return made, cut


def _given_place(group, groups, rows):
    """Sessions of one key together, keys in order of their first event."""
    user, first = group
    key = rows[first][4]
    if key is None:
        return user, first, first
    return user, min(n for n, row in enumerate(rows) if row[0] == user and row[4] == key), first


def test_a_pause_of_exactly_the_gap_stays_together():  # P2.3
    rows = [(1, 5, 0, 0, None), (1, 6, 3600, 0, None), (1, 7, 7201, 0, None), (2, 5, 7201, 0, None)]
    assert found(rows, Rule("gap", HOUR))[0] == [(1, 0, 0, 3600, [5, 6]), (1, 1, 7201, 7201, [7]), (2, 0, 7201, 7201, [5])]


def test_held_out_events_are_left_out_and_the_cut_session_is_counted():
    rows = [(1, 5, 0, 0, None), (1, 6, 60, 1, None), (1, 7, 120, 2, None), (2, 5, 0, 0, None), (2, 6, 9999, 2, None), (3, 7, 0, 3, None)]
    assert found(rows, Rule("gap", HOUR)) == ([(1, 0, 0, 0, [5]), (2, 0, 0, 0, [5])], 1)


def test_a_long_session_is_cut_by_span():
    rows = [(1, item, ts, 0, None) for item, ts in ((1, 0), (2, 50), (3, 100), (4, 101), (5, 190), (6, 202))]
    assert [s[4] for s in found(rows, Rule("gap", 90, max_span_s=100))[0]] == [[1, 2, 3], [4, 5], [6]]


def test_given_sessions_may_interleave_and_clicks_without_one_stay_alone():
    rows = [(1, 1, 0, 0, "b"), (1, 2, 1, 0, "a"), (1, 3, 2, 0, "b"), (1, 4, 3, 0, None), (1, 5, 4, 0, None), (2, 1, 5, 0, "b")]
    assert [(s[0], s[1], s[4]) for s in found(rows, Rule("given", HOUR))[0]] == [
        (1, 0, [1, 3]),
        (1, 1, [2]),
        (1, 2, [4]),
        (1, 3, [5]),
        (2, 0, [1]),
    ]


def test_a_user_is_one_session_with_duplicates_kept():
    rows = [(1, 7, 0, 0, None), (1, 7, 10**6, 0, None), (1, 8, 10**7, 0, None)]
    assert found(rows, Rule("user", HOUR))[0] == [(1, 0, 0, 10**7, [7, 7, 8])]


@st.composite
def event_rows(draw):
    """Sorted by user and time, held-out events last within a user, times tying often."""
    rows = []
    for user in draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(sorted)):
        times = sorted(draw(st.lists(st.integers(0, 12), min_size=1, max_size=9)))
        cut = draw(st.integers(0, len(times)))
        for n, ts in enumerate(times):
            rows.append((user, draw(st.integers(1, 4)), ts, 0 if n < cut else 2, draw(st.sampled_from([None, "a", "b"]))))
    return rows


@settings(max_examples=300, deadline=None)
@given(event_rows(), st.sampled_from(["gap", "given", "user"]), st.integers(1, 4), st.none() | st.integers(1, 6))
def test_equals_the_slow_twin(rows, kind, gap_s, max_span_s):
    rule = Rule(kind, gap_s, max_span_s)
    assert found(rows, rule) == slow_sessions(rows, rule)


def test_auto_takes_given_then_gap_then_user():
    auto = Session()
    assert resolve_rule(auto, has_clock=True, has_sessions=True).kind == "given"
    assert resolve_rule(auto, has_clock=False, has_sessions=True).kind == "given"
    assert resolve_rule(auto, has_clock=True, has_sessions=False) == Rule("gap", 3600, None)
    assert resolve_rule(auto, has_clock=False, has_sessions=False).kind == "user"


def test_refuses_what_the_data_cannot_give_with_the_reason():
    with pytest.raises(SettingsError, match=r"(?s)2 faults.*gap needs clock times.*only an order.*kind: user.*max_span_s needs clock"):
        resolve_rule(Session(kind="gap", max_span_s=9), has_clock=False, has_sessions=False)
    with pytest.raises(SettingsError, match="given needs session ids"):
        resolve_rule(Session(kind="given"), has_clock=True, has_sessions=False)


@pytest.mark.data
def test_ml_100k_has_the_sessions_its_description_names(shared_data):
    """2,793 sessions at a pause of half an hour."""
    text = (shared_data / "ml-100k" / "u.data").read_text()
    clicks = sorted((int(user), int(ts), int(item)) for user, item, _, ts in (line.split("\t") for line in text.splitlines()))
    sessions = cut_sessions(arrow([(user, item, ts, 0, None) for user, ts, item in clicks]).combine_chunks(), Rule("gap", 1800), Counter())
    assert len(sessions) == 2793
    assert sum(sessions["num_items"].to_pylist()) == 100_000
