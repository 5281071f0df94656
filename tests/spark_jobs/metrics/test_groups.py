"""Slices of users and of items, by hand."""

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from conf.fields import Field
from conf.sections.evaluation import Slices
from spark_jobs.metrics.groups import items_of, known_items, user_slices
from tests.spark_jobs.metrics.blocks import known


def members(items: object, name: str) -> list[int]:
    return np.flatnonzero(items.slices[name]).tolist()  # type: ignore[attr-defined]


def test_items_by_how_often_they_were_clicked() -> None:
    # 20 clicked items with 1..20 clicks and two without: the 80th percentile is 17, the 95th 20 (the next higher one each)
    items = known([*range(1, 21), 0, 0])
    assert members(items, "item popularity=head") == [20]
    assert members(items, "item popularity=middle") == [17, 18, 19]
    assert members(items, "item popularity=tail") == [0, *range(1, 17), 21, 22]  # cold ones and those the day did not know, too
    assert members(items, "cold items") == [0, 21, 22]
    assert (items.head == items.slices["item popularity=head"]).all()
    assert "cold items" not in known([1], cold_items=0).slices
    assert members(known([1, 2, 3, 0], cold_items=3), "cold items") == [0, 1, 2, 4]


def test_without_a_click_every_item_is_of_the_tail() -> None:
    items = known([0, 0])
    assert members(items, "item popularity=tail") == members(items, "cold items") == [0, 1, 2]
    assert members(items, "item popularity=head") == []
    assert items.bits.tolist()[1:] == [1.0, 1.0]


def test_what_is_known_of_items_comes_from_train_clicks_and_the_first_category(spark: SparkSession) -> None:
    events = spark.createDataFrame([(1, 0), (1, 0), (3, 0), (2, 1), (2, 2), (3, 3)], "item_idx int, split tinyint")
    # ids below 4 are no values: 2 is rare or missing
    feat = spark.createDataFrame([(2, [2, 5]), (1, [6, 5]), (3, []), (4, [7])], "idx int, tags array<int>")
    items = known_items(events, feat, Field("tags", "item", "multi"), Slices())
    want = items_of(np.array([0, 2, 0, 1, 0]), None, Slices())
    assert items.bits.tolist() == want.bits.tolist()
    assert {name: mask.tolist() for name, mask in items.slices.items()} == {name: mask.tolist() for name, mask in want.slices.items()}
    assert items.category is not None
    assert items.category.tolist() == [0, 6, 0, 0, 7]
    single = known_items(events, feat.selectExpr("idx", "idx + 2 as brand"), Field("brand", "item", "single"), Slices())
    assert single.category is not None
    assert single.category.tolist() == [0, 0, 4, 5, 6]
    assert known_items(events, feat, None, Slices()).category is None


@pytest.fixture
def users(spark: SparkSession) -> tuple[DataFrame, ...]:
    """Units 1 to 5, their train clicks (user 5 has no state), their fields, their keys."""
    units = spark.createDataFrame([(n,) for n in range(1, 6)], "user_idx int")
    state = spark.createDataFrame([(1, 0), (2, 4), (3, 5), (4, 99), (6, 1)], "user_idx int, num_train int")
    about = [("a", "Ulm", ["x", "y"]), ("b", "Ulm", []), ("c", "Oslo", ["y"]), ("d", None, ["z", "z"]), ("e", "Bonn", ["x", "z"])]
    fields = spark.createDataFrame(about, "user_key string, city string, tags array<string>")
    index = spark.createDataFrame([(key, n) for n, key in enumerate("abcde", start=1)], "key string, idx int")
    return units, state, fields, index


def slices_of(users: tuple[DataFrame, ...], fields: list[Field], **asked: object) -> dict[int, list[str]]:
    return {row["user_idx"]: row["slices"] for row in user_slices(*users, fields, Slices.model_validate(asked)).collect()}


def test_users_by_train_clicks(users: tuple[DataFrame, ...]) -> None:
    low, cold = "user activity=0-9", "cold users"
    assert slices_of(users, []) == {1: [low, cold], 2: [low, cold], 3: [low], 4: ["user activity=50+"], 5: [low, cold]}
    fine = {1: "0", 2: "1-4", 3: "5+", 4: "5+", 5: "0"}
    assert slices_of(users, [], activity=[1, 5], cold_users=0) == {user: [f"user activity={label}"] for user, label in fine.items()}
    assert slices_of(users, [], activity=[], cold_users=0) == {user: [] for user in fine}


def test_users_by_their_fields(users: tuple[DataFrame, ...]) -> None:
    fields = [Field("city", "user", "single"), Field("tags", "user", "multi")]
    found = slices_of(users, fields, activity=[], cold_users=0, user_fields=["city", "tags"], values=2)
    # two users are of Ulm, one of Bonn and one of Oslo: ties by name; tags x, y, z have two users each
    assert found == {
        1: ["city=Ulm", "tags=x", "tags=y"],
        2: ["city=Ulm", "tags=(none)"],
        3: ["city=(other)", "tags=y"],
        4: ["city=(none)", "tags=(other)"],
        5: ["city=Bonn", "tags=x", "tags=(other)"],
    }
