"""What each channel adds, by hand."""

import numpy as np
import pytest
from pyspark.sql import SparkSession

from conf.sections.retrieval import Merge
from retrieval.merge_pool import Pool
from retrieval.merge_quotas import by_quota
from retrieval.ragged import Ragged
from spark_jobs.contributions import compare, contributions, equal_quotas, share

USERS = [({1, 2}, {"a": [1, 9, 2, 8], "b": [1, 7, 6, 5]}), ({3}, {"a": [4, 3], "b": [3]}), ({5, 6, 7, 8}, {"a": [5]}), ({9}, {})]


def test_by_hand() -> None:
    found = compare(USERS, ["a", "b"], 4)
    assert (found["users"], found["n"], found["quotas"]) == (4, 4, [2, 2])
    a, b = found["channels"]
    # first four: a finds {1, 2}, {3}, {5}; b finds {1}, {3}; together 4 hits, of which 2 and 5 are a's alone
    assert (a["alone"], b["alone"]) == (pytest.approx((1 + 1 + 1 / 4) / 4), pytest.approx((1 / 2 + 1) / 4))
    assert (a["unique"], b["unique"]) == (2 / 4, 0.0)
    # two places each: {1} of {1, 9, 7, 6}, as a has brought 1 before b; {3}, {5}; against four of the other alone
    assert found["together"] == pytest.approx((1 / 2 + 1 + 1 / 4) / 4)
    assert a["gain"] == pytest.approx(found["together"] - b["alone"])
    assert b["gain"] == pytest.approx(found["together"] - a["alone"])
    assert b["gain"] < 0  # its places are better spent on a


def test_what_does_not_divide_goes_to_the_first_and_what_another_brought_takes_no_place():
    assert equal_quotas(5, 3) == [2, 2, 1]
    lists = {"a": [1, 2, 3], "b": [2, 1, 4, 5], "c": [4, 1, 6]}
    assert share(lists, ["a", "b", "c"], 5) == {1, 2, 4, 5, 6}
    assert share(lists, ["c", "b"], 3) == {4, 1, 2}
    assert share({"b": [1]}, ["a", "b"], 4) == {1}  # nobody else fills up


@pytest.mark.parametrize("n", [7, 12])
def test_places_are_shared_as_the_merge_by_quota_shares_them(n):
    rng = np.random.default_rng(n)
    lists = {name: [rng.permutation(20)[: rng.integers(0, 13)].tolist() for _ in range(30)] for name in "abc"}
    pool = Pool.of({name: Ragged.of(own, [[0.0] * len(one) for one in own]) for name, own in lists.items()}, np.zeros(30, dtype=bool))
    chosen = np.isfinite(by_quota(pool, Merge(kind="quota", top=n), None))
    for user in range(30):
        mine = {name: own[user] for name, own in lists.items()}
        assert share(mine, ["a", "b", "c"], n) == set(pool.items[chosen & (pool.rows == user)].tolist())


def test_a_channel_alone_and_one_that_finds_nothing() -> None:
    (only,) = compare([({1}, {"a": [1]})], ["a"], 3)["channels"]
    assert only == {"channel": "a", "alone": 1.0, "unique": 1.0, "gain": 1.0}
    assert compare([({1}, {"a": [2]})], ["a"], 3)["channels"][0]["unique"] is None


def test_users_with_held_out_clicks_are_asked(spark: SparkSession) -> None:
    rows = [(1, "a", [1, 9, 2, 8]), (1, "b", [1, 7, 6, 5]), (2, "a", [4, 3]), (2, "b", [3]), (3, "a", [5]), (5, "a", [1])]
    lists = spark.createDataFrame(rows, "user_idx int, channel string, items array<int>")
    clicks = [(1, 1, 2), (1, 2, 2), (1, 2, 2), (2, 3, 2), (3, 5, 2), (3, 6, 2), (3, 7, 2), (3, 8, 2), (4, 9, 2), (5, 1, 0)]
    events = spark.createDataFrame(clicks, "user_idx int, item_idx int, split tinyint")
    found = contributions(lists, events, channels=["a", "b"], n=4, max_users=10, seed=1)
    assert found == compare(USERS, ["a", "b"], 4)
    few = contributions(lists, events, channels=["a", "b"], n=4, max_users=2, seed=1)
    assert few is not None
    assert few["users"] == 2
    assert contributions(lists, events.where("split = 0"), channels=["a"], n=4, max_users=10, seed=1) is None
