"""Events and user states against a slow twin of the split, the cap and the order."""

from collections import Counter

import pytest

from conf.sections.data import Split
from spark_jobs.events import count, encode, user_states, with_recency
from spark_jobs.splits import assign_split
from tests.spark_jobs.small_logs import Click, clicks_df, histories, random_log, slow_split


def encoded(spark, log):
    """Events of a log whose splits are given, users u1, u2, .. and items i1, i2, .. numbered by their digit; u9 never clicks."""
    clicks = clicks_df(spark, log)
    splits = spark.createDataFrame(
        [(c.user, *c.place, c.split) for c in log], "user_key string, ts long, seq long, item_key string, k string, split byte"
    )
    joined = clicks.join(splits.withColumnRenamed("k", "event_type"), ["user_key", "ts", "seq", "item_key", "event_type"])
    users, items = (spark.createDataFrame([(f"{side}{n}", n) for n in range(1, 10)], "key string, idx int") for side in "ui")
    return with_recency(encode(joined, users, items)), users


# u1: two train, one valid, one test, times tying across the cut; u2: context and test; u3: train only.
LOG = [
    Click("u1", "i3", 10, split=0),
    Click("u1", "i2", 20, seq=1, split=0),
    Click("u1", "i1", 20, seq=2, split=1, session="s"),
    Click("u1", "i3", 30, split=2),
    Click("u2", "i5", 5, split=3),
    Click("u2", "i5", 6, split=2),
    Click("u3", "i1", 1, split=0),
    Click("u3", "i2", 2, split=0),
    Click("u3", "i3", 3, split=0),
    Click("u3", "i3", 4, split=0),
]


def test_user_states_by_hand(spark):
    made, users = encoded(spark, LOG)
    states = {r.user_idx: (r["items"], r.ts, r.num_train) for r in user_states(made, users, max_user_clicks=3).collect()}
    assert states.pop(1) == ([2], [20], 2)  # of its last 3 clicks one is train
    assert states.pop(2) == ([5], [5], 0)  # context is history, not training
    assert states.pop(3) == ([2, 3, 3], [2, 3, 4], 4)  # the oldest is cut, and still counted
    assert set(states) == set(range(4, 10))
    assert set(map(str, states.values())) == {"([], [], 0)"}


def test_with_refit_valid_events_are_known(spark):
    made, users = encoded(spark, LOG)
    states = {r.user_idx: (r["items"], r.num_train) for r in user_states(made, users, max_user_clicks=9, refit=True).collect()}
    assert states[1] == ([3, 2, 1], 2)
    assert states[2] == ([5], 0)


def test_counters_by_hand(spark):
    made, _ = encoded(spark, LOG)
    counted = count(made, max_user_clicks=3)
    assert counted == {
        "clicks_read": 10,
        "clicks_beyond_max_user_clicks": 2,
        "users_beyond_max_user_clicks": 2,
        "clicks_with_unknown_key": 0,
        "clicks_in_given_session": 1,
        "cut_in_tie_users": 1,
        **{"train_events": 4, "valid_events": 1, "test_events": 2, "context_events": 1},
        **{"train_users": 2, "valid_users": 1, "test_users": 2, "context_users": 1},
    }
    unknown, _ = encoded(spark, [Click("u1", "never", 1, split=0)])
    assert count(unknown, max_user_clicks=3)["clicks_with_unknown_key"] == 1


@pytest.mark.parametrize("split", [Split(kind="last_k", k=2), Split(kind="temporal", test_days=1)], ids=lambda split: split.kind)
def test_equal_the_slow_twin(spark, split):
    log, cap = random_log(5), 12
    users, items = ({key: n for n, key in enumerate(sorted(keys), start=1)} for keys in ({c.user for c in log}, {c.item for c in log}))
    user_index, item_index = (spark.createDataFrame(list(index.items()), "key string, idx int") for index in (users, items))
    made = with_recency(assign_split(encode(clicks_df(spark, log), user_index, item_index), split=split, has_clock=True)).persist()
    want = slow_split(log, split)
    kept = [c for clicks in histories(want).values() for c in clicks[-cap:]]
    got = made.where(made.recency <= cap).collect()
    assert Counter((r.user_idx, r.item_idx, r.ts, r.seq, r.split, r.weight, r.session_key) for r in got) == Counter(
        (users[c.user], items[c.item], c.ts, c.seq, c.split, 1.0, c.session) for c in kept
    )
    states = {r.user_idx: r for r in user_states(made, user_index, max_user_clicks=cap).collect()}
    for user, clicks in histories(want).items():
        state = states[users[user]]
        known = [c for c in clicks[-cap:] if c.split == 0]
        assert (state["items"], state.ts) == ([items[c.item] for c in known], [c.ts for c in known])
        assert state.num_train == sum(c.split == 0 for c in clicks)
    assert count(made, max_user_clicks=cap)["clicks_beyond_max_user_clicks"] == len(log) - len(kept) > 0
