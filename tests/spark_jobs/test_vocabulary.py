"""Numbering, vocabularies and encoded features: by hand, and independent of row order and partitioning (P1.1)."""

import random

import pytest

from conf.errors import BadDataError
from conf.fields import Field
from spark_jobs import vocabulary
from spark_jobs.ranking import with_rank
from spark_jobs.vocabulary import count_values, features, field_vocabulary, id_vocabulary, index_of, number
from tests.spark_jobs.small_logs import Click, clicks_df, shuffle_partitions

DS = "2026-01-31"
ITEM_ID = Field("item_id", "item", "single", min_count=2)
CATEGORY = Field("category", "item", "single", min_count=2)
TAGS = Field("tags", "item", "multi", min_count=3)
# Train clicks: a 3, b 3, c 1, d 0 (one test click); e is only in the catalogue, f only in the log.
CLICKS = [("a", 0)] * 3 + [("b", 0)] * 3 + [("c", 0), ("c", 1), ("d", 2), ("f", 0)]
ITEMS = [
    ("a", "red", ["x", "y", "x"]),  # the second x of one item is not a second click on x
    ("b", "blue", ["y"]),
    ("c", "red", ["x", "rare"]),
    ("d", "green", []),
    ("e", None, ["never", "y"]),
]


@pytest.fixture(scope="module")
def numbered(spark):
    clicks = spark.createDataFrame(CLICKS, "item_key string, split byte")
    items = spark.createDataFrame(ITEMS, "item_key string, category string, tags array<string>")
    return number(items, clicks, key="item_key", ds=DS)


def vocabulary_of(numbered, field, **options):
    return field_vocabulary(count_values(numbered, field, key="item_key"), field, ds=DS, **options)


def rows(df):
    return [tuple(row) for row in df.collect()]


def test_everything_ever_seen_is_numbered_most_clicked_first_then_by_key(numbered):
    index = index_of(numbered, key="item_key")
    assert sorted(rows(index), key=lambda r: r[1]) == [(key, n, DS) for n, key in enumerate("abcfde", start=1)]


def test_the_id_vocabulary_is_the_frequent_part_of_the_numbering(numbered):
    made = id_vocabulary(numbered, ITEM_ID, key="item_key", ds=DS)
    assert sorted(rows(made)) == [("a", 4, 0, 3, DS), ("b", 5, 1, 3, DS)]


def test_field_values_count_the_train_clicks_that_carry_them(numbered):
    # red: 3 of a and 1 of c; blue: 3 of b; green has a test click only.
    assert sorted(rows(vocabulary_of(numbered, CATEGORY))) == [("blue", 5, 1, 3, DS), ("red", 4, 0, 4, DS)]
    # y: 3 + 3; x: 3 + 1; rare: 1, below min_count.
    assert sorted(rows(vocabulary_of(numbered, TAGS))) == [("x", 5, 1, 4, DS), ("y", 4, 0, 6, DS)]


@pytest.mark.parametrize("field", [ITEM_ID, CATEGORY, TAGS], ids=lambda field: field.name)
def test_ranked_by_many_tasks_as_by_one(spark, numbered, field):
    want = sorted(rows(vocabulary_of(numbered, field)))
    for partitions in (1, 64):
        with shuffle_partitions(spark, partitions):
            assert sorted(rows(vocabulary_of(numbered, field, rank=with_rank))) == want
    if field is ITEM_ID:
        assert want == sorted(rows(id_vocabulary(numbered, ITEM_ID, key="item_key", ds=DS)))


def test_features_by_hand(numbered):
    fields = (ITEM_ID, CATEGORY, TAGS)
    vocabularies = {field.name: vocabulary_of(numbered, field) for field in (CATEGORY, TAGS)}
    made = features(numbered, fields, vocabularies, id_field="item_id").select("item_key", "item_id", "category", "tags")
    assert sorted(rows(made)) == [
        ("a", 4, 4, [5, 4]),  # in the source's order, each value once
        ("b", 5, 5, [4]),
        ("c", 2, 4, [5]),  # one train click: no id of its own; the rare tag is left out
        ("d", 2, 2, []),  # green was never trained on
        ("e", 2, 2, [4]),  # missing category
        ("f", 2, 2, []),  # not in the catalogue
    ]


def test_of_a_long_list_the_first_known_values_are_kept(spark):
    items = spark.createDataFrame([("a", ["never", "z", "y", "x"]), ("b", ["x"])], "item_key string, tags array<string>")
    clicks = clicks_df(spark, [Click("u", "a", 1), Click("u", "b", 2)]).selectExpr("*", "cast(0 as byte) as split")
    numbered = number(items, clicks, key="item_key", ds=DS)
    tags = Field("tags", "item", "multi", max_len=2)
    known = vocabulary_of(numbered, tags).where("value != 'never'")
    ids = {r["value"]: r["id"] for r in known.collect()}
    made = features(numbered, [tags], {"tags": known}, id_field="item_id").select("item_key", "tags")
    assert sorted(rows(made)) == [("a", [ids["z"], ids["y"]]), ("b", [ids["x"]])]


def test_ranks_are_the_global_order_for_any_partitioning(spark):
    values = list(range(300))
    random.Random(1).shuffle(values)
    for partitions in (1, 9):
        with shuffle_partitions(spark, partitions):
            df = spark.createDataFrame([(v // 10, v) for v in values], "a int, b int").repartition(partitions + 1)
            ranked = with_rank(df, [df["a"].desc(), df["b"]], "rank", start=5)
            got = sorted(rows(ranked), key=lambda r: r[2])
        assert [r[:2] for r in got] == sorted(((v // 10, v) for v in values), key=lambda r: (-r[0], r[1]))
        assert [r[2] for r in got] == list(range(5, 305))


def test_a_split_that_trains_on_nothing_is_refused(spark):
    clicks = clicks_df(spark, []).selectExpr("*", "cast(0 as byte) as split")
    numbered = number(spark.createDataFrame([("e",)], "item_key string"), clicks, key="item_key", ds=DS)
    with pytest.raises(BadDataError, match="no click to train on"):
        vocabulary._counts(numbered, "item")
