"""Events against a slow twin of the split, the cap and the order; their counters by hand."""

from collections import Counter

import pytest

from conf.sections.data import Split
from spark_jobs.events import counters, encode, with_recency
from spark_jobs.splits import assign_split
from tests.spark_jobs.small_logs import Click, clicks_df, histories, random_log, slow_split


def encoded(spark, log):
    """Events of a log whose splits are given, users u1, u2, .. and items i1, i2, .. numbered by their digit."""
    clicks = clicks_df(spark, log)
    splits = spark.createDataFrame(
        [(c.user, *c.place, c.split) for c in log], "user_key string, ts long, seq long, item_key string, k string, split byte"
    )
    joined = clicks.join(splits.withColumnRenamed("k", "event_type"), ["user_key", "ts", "seq", "item_key", "event_type"])
    users, items = (spark.createDataFrame([(f"{side}{n}", n) for n in range(1, 10)], "key string, idx int") for side in "ui")
    return with_recency(encode(joined, users, items))


def counted(events, cap):
    return events.agg(*(column.alias(name) for name, column in counters(max_user_clicks=cap).items())).first().asDict()


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


def test_counters_by_hand(spark):
    made = encoded(spark, LOG)
    assert counted(made, 3) == {
        "clicks_read": 10,
        "clicks_beyond_max_user_clicks": 2,
        "users_beyond_max_user_clicks": 2,
        "clicks_with_unknown_key": 0,
        "clicks_in_given_session": 1,
        "cut_in_tie_users": 1,
        **{"train_events": 4, "valid_events": 1, "test_events": 2, "context_events": 1},
        **{"train_users": 2, "valid_users": 1, "test_users": 2, "context_users": 1},
    }
    # Of u1 only valid and test are kept: no train click of it is.
    cut_short = counted(made, 2)
    assert [cut_short[f"{name}_users"] for name in ("train", "valid", "test", "context")] == [1, 1, 2, 1]
    assert (cut_short["cut_in_tie_users"], cut_short["train_events"]) == (1, 2)
    assert counted(encoded(spark, [Click("u1", "never", 1, split=0)]), 3)["clicks_with_unknown_key"] == 1


@pytest.mark.parametrize("split", [Split(kind="last_k", k=2), Split(kind="temporal", test_days=1)], ids=lambda split: split.kind)
def test_equal_the_slow_twin(spark, split):
    log, cap = random_log(5), 12
    users, items = ({key: n for n, key in enumerate(sorted(keys), start=1)} for keys in ({c.user for c in log}, {c.item for c in log}))
    user_index, item_index = (spark.createDataFrame(list(index.items()), "key string, idx int") for index in (users, items))
    clicks = encode(clicks_df(spark, log), user_index, item_index)
    made = with_recency(assign_split(clicks, split=split, has_clock=True, user="user_idx")).persist()
    want = slow_split(log, split)
    kept = [c for clicks in histories(want).values() for c in clicks[-cap:]]
    got = made.where(made.recency <= cap).collect()
    assert Counter((r.user_idx, r.item_idx, r.ts, r.seq, r.split, r.weight, r.session_key) for r in got) == Counter(
        (users[c.user], items[c.item], c.ts, c.seq, c.split, 1.0, c.session) for c in kept
    )
    found = counted(made, cap)
    for code, name in enumerate(("train", "valid", "test", "context")):
        of_split = [c for c in kept if c.split == code]
        assert (found[f"{name}_events"], found[f"{name}_users"]) == (len(of_split), len({c.user for c in of_split})), name
