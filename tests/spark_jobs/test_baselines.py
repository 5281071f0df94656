"""Baselines against dense numpy twins and against MLlib's own answers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.sections.evaluation import Als
from spark_jobs import baselines


def frame(spark: SparkSession, histories: Mapping[int, Sequence[int]]) -> DataFrame:
    return spark.createDataFrame([(user, list(items)) for user, items in histories.items()], "user_idx int, items array<int>")


def events(spark: SparkSession, histories: Mapping[int, Sequence[int]], split: int = 0) -> DataFrame:
    rows = [(user, item, split) for user, items in histories.items() for item in items]
    return spark.createDataFrame(rows, "user_idx int, item_idx int, split tinyint")


def catalogue(spark: SparkSession, ids: Sequence[int]) -> DataFrame:
    return spark.createDataFrame([(int(i),) for i in ids], "idx int")


def answers(lists: DataFrame) -> dict[int, list[int]]:
    return {row["user_idx"]: row["items"] for row in lists.collect()}


def asked_of(spark: SparkSession, histories: Mapping[int, Sequence[int]], seen: str = "train_and_history", history: int = 2) -> DataFrame:
    state = frame(spark, histories)
    return baselines.queries(state, state, seen=seen, history=history)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def histories() -> dict[int, list[int]]:
    """60 users of two tastes over 40 items, repeats included, popular items first."""
    rng = np.random.default_rng(1)
    made = {}
    for user in range(1, 61):
        own = np.arange(1, 41)[user % 2 :: 2]
        weights = 1 / np.arange(1, len(own) + 1)
        made[user] = rng.choice(own, rng.integers(3, 15), p=weights / weights.sum()).tolist()
    return made


def test_what_is_hidden_follows_the_setting(spark: SparkSession) -> None:
    state = frame(spark, {1: [4, 5, 4, 6], 2: [7]})
    users = spark.createDataFrame([(1,), (2,), (3,)], "user_idx int")  # user 3 has no state

    def hidden(kind: str, history: int) -> dict[int, list[int]]:
        rows = baselines.queries(users, state, seen=kind, history=history).collect()  # type: ignore[arg-type]
        return {row["user_idx"]: row["seen"] for row in rows}

    assert hidden("none", 2) == {1: [], 2: [], 3: []}
    assert hidden("history", 2) == {1: [4, 6], 2: [7], 3: []}
    assert hidden("history", 20) == {1: [4, 5, 6], 2: [7], 3: []}  # longer than any history
    assert hidden("train_and_history", 2) == {1: [4, 5, 6], 2: [7], 3: []}


def test_most_pop_is_by_train_clicks_without_the_seen(spark: SparkSession) -> None:
    # clicks: item 3 three times, 1 and 2 twice (tie: smaller first), 4 once but not eligible; the valid click on 5 does not count
    log = events(spark, {1: [3, 3, 1], 2: [3, 2, 2], 3: [1, 4]}).unionByName(events(spark, {1: [5, 5, 5, 5]}, split=1))
    asked = asked_of(spark, {1: [3, 1], 2: [], 9: [1, 2, 3]})
    found = answers(baselines.most_pop(baselines.train_counts(log), asked, catalogue(spark, [1, 2, 3, 5]), num=2))
    assert found == {1: [2], 2: [3, 1], 9: []}


def test_best_is_exact_with_ties() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        ids = rng.permutation(200).astype(np.int32)
        scores = rng.integers(0, 6, 200).astype(float)  # many ties
        want = sorted(ids, key=lambda i: (-scores[np.flatnonzero(ids == i)[0]], i))[:17]
        assert ids[baselines.best(ids, scores, num=17)].tolist() == want
    assert baselines.best(ids[:3], scores[:3], num=17).size == 3


def cosine_twin(histories: Mapping[int, Sequence[int]], allowed: set[int], num: int, neighbours: int) -> dict[int, list[int]]:
    """Dense item-item cosine; the nearest `neighbours` of each item; the sum over a user's items."""
    size = 41
    has = np.zeros((61, size))
    for user, items in histories.items():
        has[user, items] = 1
    count = has.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.nan_to_num((has.T @ has) / np.sqrt(np.outer(count, count)))
    near = np.zeros_like(cosine)
    for i in range(size):
        others = sorted((j for j in allowed if j != i and cosine[i, j] > 0), key=lambda j: (-round(cosine[i, j], 12), j))
        near[i, others[:neighbours]] = cosine[i, others[:neighbours]]
    made = {}
    for user, items in histories.items():
        total = near[sorted(set(items))].sum(0)
        fresh = [j for j in range(size) if total[j] > 0 and j not in items]
        made[user] = sorted(fresh, key=lambda j: (-round(total[j], 12), j))[:num]
    return {user: items for user, items in made.items() if items}


@pytest.mark.parametrize("block", [256, 3])
def test_itemcf_equals_the_dense_twin(
    spark: SparkSession, histories: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(baselines, "BLOCK", block)  # more blocks than tasks, or one
    allowed = set(range(1, 41)) - {1, 8}
    counts = baselines.train_counts(events(spark, histories))
    lists = baselines.itemcf(counts, asked_of(spark, histories), catalogue(spark, sorted(allowed)), num=10, neighbours=6)
    assert answers(lists) == cosine_twin(histories, allowed, num=10, neighbours=6)


def test_itemcf_has_nothing_to_say_without_history_or_clicks(spark: SparkSession, histories: dict[int, list[int]]) -> None:
    eligible = catalogue(spark, range(1, 41))
    none = baselines.train_counts(events(spark, {1: [1]}).where("false"))
    assert answers(baselines.itemcf(none, asked_of(spark, {1: [3]}), eligible, num=5)) == {}
    counts = baselines.train_counts(events(spark, histories))
    assert answers(baselines.itemcf(counts, asked_of(spark, {1: [], 2: [40_000]}), eligible, num=5)) == {}


def test_als_vectors_and_lists_are_those_of_mllib(spark: SparkSession, histories: dict[int, list[int]]) -> None:
    counts = baselines.train_counts(events(spark, histories)).persist()
    factors = baselines.train_als(counts, rank=4, reg=0.05, alpha=3.0, iterations=4, seed=5)
    model = ALS(
        rank=4, maxIter=4, regParam=0.05, alpha=3.0, implicitPrefs=True, seed=5, numUserBlocks=4, numItemBlocks=4,
        userCol="user_idx", itemCol="item_idx", ratingCol="count",
    ).fit(counts)  # fmt: skip
    own = {row["id"]: row["features"] for row in model.userFactors.collect()}
    for user, items in histories.items():
        # the half step that ends training, in float64 where MLlib stores float32
        assert factors.solve(np.array(items, dtype=np.int32)) == pytest.approx(own[user], abs=2e-5)
    users = counts.select("user_idx").distinct()
    rows = model.recommendForUserSubset(users, 40).collect()
    every = {row["user_idx"]: [pair["item_idx"] for pair in row["recommendations"]] for row in rows}
    found = answers(baselines.als_lists(factors, asked_of(spark, histories), catalogue(spark, range(1, 41)), num=5))
    assert found == {user: [i for i in every[user] if i not in histories[user]][:5] for user in histories}


@pytest.mark.slow
def test_als_serves_users_kept_out_of_training(spark: SparkSession, histories: dict[int, list[int]]) -> None:
    counts = baselines.train_counts(events(spark, histories))
    factors = baselines.train_als(counts, rank=4, reg=0.05, alpha=10.0, iterations=4, seed=5)
    odd, even = [1, 3, 5], [2, 4, 6]  # tastes: user % 2 == 1 starts at item 2
    asked = asked_of(spark, {101: even, 102: odd, 103: [], 104: [777]})
    found = answers(baselines.als_lists(factors, asked, catalogue(spark, range(1, 41)), num=4))
    assert set(found) == {101, 102}  # no history, or nothing known: nothing to say
    assert {i % 2 for i in found[101]} == {0}
    assert {i % 2 for i in found[102]} == {1}


@pytest.mark.slow
def test_the_grid_is_chosen_by_valid_recall(spark: SparkSession, histories: dict[int, list[int]]) -> None:
    counts = baselines.train_counts(events(spark, histories)).persist()
    asked, eligible = asked_of(spark, histories), catalogue(spark, range(1, 41))
    rng = np.random.default_rng(3)
    fresh = {user: [i for i in range(1, 41) if i % 2 == (user + 1) % 2 and i not in items] for user, items in histories.items()}
    truth = frame(spark, {user: rng.choice(items, 3).tolist() for user, items in fresh.items()}).withColumnRenamed("items", "truth")
    truth = truth.withColumn("truth", F.array_distinct("truth")).persist()
    grid = Als(rank=[2], reg=[0.01, 1e6], alpha=[5.0], iterations=3)  # the second is regularised to nothing but noise
    chosen, tried = baselines.choose_als(counts, asked, truth, eligible, grid=grid, num=10, seed=1)
    assert chosen.reg == 0.01
    assert set(tried) == {"als(rank=2,reg=0.01,alpha=5)", "als(rank=2,reg=1e+06,alpha=5)"}
    assert tried[chosen.name] == chosen.recall == max(tried.values())
    lists = answers(baselines.als_lists(chosen, asked, eligible, num=10))
    want = np.mean([len(set(lists.get(row["user_idx"], [])) & set(row["truth"])) / len(row["truth"]) for row in truth.collect()])
    assert chosen.recall == pytest.approx(want)


def test_a_grid_of_one_is_not_tried_on_valid(spark: SparkSession, histories: dict[int, list[int]]) -> None:
    counts, asked = baselines.train_counts(events(spark, histories)), asked_of(spark, histories)
    truth = frame(spark, histories).withColumnRenamed("items", "truth")
    grid = Als(rank=[2], reg=[0.01], alpha=[5.0], iterations=1)
    chosen, tried = baselines.choose_als(counts, asked, truth, catalogue(spark, range(1, 41)), grid=grid, num=10, seed=1)
    assert (chosen.name, chosen.recall, tried) == ("als(rank=2,reg=0.01,alpha=5)", 0.0, {})


def test_with_refit_valid_clicks_count_but_valid_is_asked_without_them(spark: SparkSession) -> None:
    rows = [(1, 7, 10, 1, 0), (1, 7, 10, 0, 0), (1, 8, 20, 0, 1), (1, 9, 30, 0, 2), (2, 5, 10, 0, 3), (2, 6, 20, 0, 1)]
    log = spark.createDataFrame(rows, "user_idx int, item_idx int, ts long, seq long, split tinyint")

    def counted(refit: bool) -> dict[tuple[int, int], int]:
        return {(r["user_idx"], r["item_idx"]): r["count"] for r in baselines.train_counts(log, refit=refit).collect()}

    assert counted(False) == {(1, 7): 2}
    assert counted(True) == {(1, 7): 2, (1, 8): 1, (2, 6): 1}  # never what is tested on
    assert answers(baselines.train_state(log)) == {1: [7, 7], 2: [5]}
