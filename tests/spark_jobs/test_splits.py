"""Splits against a slow twin that goes click by click, and the properties every split must have (P9.1 to P9.3)."""

from collections import defaultdict

import pytest
from pyspark.sql import functions as F

from conf.errors import SettingsError
from conf.sections.data import Split
from spark_jobs.splits import assign_split
from tests.spark_jobs.small_logs import DAY_S, START_S, Click, clicks_df, histories, random_log, shuffle_partitions, slow_split

KINDS = {
    "production": Split(kind="production"),
    "production, refit": Split(kind="production", refit=True),
    "last_k": Split(kind="last_k", k=2),
    "temporal": Split(kind="temporal", test_days=2),
    "user": Split(kind="user", seed=5),
}


def splits_of(spark, log, split, *, has_clock=True, partitions=2):
    df = assign_split(clicks_df(spark, log).repartition(partitions), split=split, has_clock=has_clock)
    assert dict(df.dtypes)["split"] == "tinyint"
    return {(r["user_key"], r["ts"], r["seq"], r["item_key"], r["event_type"]): r["split"] for r in df.collect()}


def hashes(spark, log, seed):
    users = spark.createDataFrame([(u,) for u in histories(log)], "user string")
    rows = users.select("user", F.xxhash64(F.lit(seed), "user").alias("hash")).collect()
    return {row["user"]: row["hash"] for row in rows}.__getitem__


def test_last_k_by_hand(spark):
    log = [Click("u", item, 10 * n) for n, item in enumerate("abcde")]  # 5 = 2k + 1 clicks for k = 2
    log += [Click("v", item, 10 * n) for n, item in enumerate("abcd")]  # one short: all train
    log += [Click("w", item, 7) for item in "edcba"]  # one time, one seq: the item decides
    found = splits_of(spark, log, KINDS["last_k"])
    by_user = {user: [found[(user, *click.place)] for click in clicks] for user, clicks in histories(log).items()}
    assert by_user == {"u": [0, 1, 1, 2, 2], "v": [0, 0, 0, 0], "w": [0, 1, 1, 2, 2]}
    assert found["w", 7, 0, "a", "click"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_equals_the_slow_twin_for_any_partitioning(spark, kind, seed):
    log = random_log(seed, users=25, clicks=250)
    user_hash = hashes(spark, log, 5) if kind == "user" else None
    want = {(c.user, *c.place): c.split for c in slow_split(log, KINDS[kind], user_hash)}
    assert splits_of(spark, log, KINDS[kind]) == want
    with shuffle_partitions(spark, 5):
        assert splits_of(spark, log[::-1], KINDS[kind], partitions=7) == want


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_clicks_come_after_what_they_are_predicted_from(spark, kind):
    log = random_log(3)
    found = splits_of(spark, log, KINDS[kind])
    for user, clicks in histories(log).items():
        stages = [found[(user, *c.place)] % 3 for c in clicks]  # context counts as train
        assert stages == sorted(stages)


def test_user_split_is_8_1_1_and_disjoint(spark):  # P9.1
    log = [Click(f"u{n}", f"i{step}", step) for n in range(43) for step in range(5 if n < 37 else 4)]
    splits = defaultdict(set)
    for (user, *_), code in splits_of(spark, log, KINDS["user"]).items():
        splits[user].add(code)
    train, valid, test, few = ([u for u, codes in splits.items() if codes == want] for want in ({0}, {1, 3}, {2, 3}, {3}))
    assert len(train) + len(valid) + len(test) + len(few) == 43
    assert sorted(few) == [f"u{n}" for n in range(37, 43)]
    assert abs(len(train) - 29.6) <= 1
    assert abs(len(valid) - 3.7) <= 1
    assert abs(len(test) - 3.7) <= 1


def test_user_split_prefix_and_truth_make_the_sequence(spark):  # P9.2
    log = [Click(f"u{n}", f"i{step}", step) for n in range(20) for step in range(5 + n)]
    found = splits_of(spark, log, KINDS["user"])
    for user, clicks in histories(log).items():
        codes = [found[(user, *c.place)] for c in clicks]
        cut = len(clicks) * 8 // 10
        assert codes in ([0] * len(clicks), [3] * cut + [1] * (len(clicks) - cut), [3] * cut + [2] * (len(clicks) - cut))


def test_temporal_cuts_at_midnight(spark):  # P9.3
    midnight = START_S + 4 * DAY_S  # days 1 to 5; the last 2 are test, day 3 is valid
    log = [Click("u", "a", START_S), Click("u", "b", midnight - DAY_S - 1), Click("u", "c", midnight - DAY_S), Click("v", "a", midnight)]
    found = {(user, item): code for (user, _, _, item, _), code in splits_of(spark, log, KINDS["temporal"]).items()}
    assert found == {("u", "a"): 0, ("u", "b"): 1, ("u", "c"): 2, ("v", "a"): 2}
    log = random_log(4)
    by_split = defaultdict(list)
    for (_, ts, *_), code in splits_of(spark, log, KINDS["temporal"]).items():
        by_split[code].append(ts)
    assert max(by_split[0]) < min(by_split[1])
    assert max(by_split[1]) < min(by_split[2])


def test_temporal_needs_a_clock_and_days_to_train_on(spark):
    with pytest.raises(SettingsError, match=r"only an order of clicks.*last_k"):
        assign_split(clicks_df(spark, random_log(1)), split=KINDS["temporal"], has_clock=False)
    with pytest.raises(SettingsError, match=r"2026-01-01 to 2026-01-03.*split.test_days"):
        assign_split(clicks_df(spark, random_log(1, days=3)), split=KINDS["temporal"], has_clock=True)
    with pytest.raises(SettingsError, match=r"(?s)production: .*needs clock times.*split.refit: false"):
        assign_split(clicks_df(spark, random_log(1)), split=KINDS["production, refit"], has_clock=False)
    with pytest.raises(SettingsError, match=r"2026-01-01 to 2026-01-01.*split.refit: false"):
        assign_split(clicks_df(spark, random_log(1, days=1)), split=KINDS["production, refit"], has_clock=True)


def test_user_split_needs_users_with_enough_clicks(spark):
    with pytest.raises(SettingsError, match="no user has 5 clicks"):
        assign_split(clicks_df(spark, [Click("u", "a", 1)]), split=KINDS["user"], has_clock=True)
