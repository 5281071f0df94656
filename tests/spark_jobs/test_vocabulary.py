"""Numbering, vocabularies and encoded features: by hand, and independent of row order and partitioning (P1.1)."""

import random

import pytest
from pyspark.sql import functions as F

from conf.command import Log, Request
from conf.errors import BadDataError
from conf.fields import Field
from conf.storage import MAIN
from spark_jobs import vocabulary
from spark_jobs.job import run_job
from spark_jobs.ranking import with_rank
from spark_jobs.vocabulary import count_values, end_of, features, field_vocabulary, id_vocabulary, index_of, live, number
from tests.spark_jobs.small_logs import DAY_S, START_S, Click, clicks_df, publish_log, settings_of, shuffle_partitions

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


def test_a_day_ends_where_its_clock_says():
    assert end_of("2026-01-01", "UTC") == START_S + DAY_S
    assert end_of("2026-01-01", "Asia/Tokyo") == START_S + DAY_S - 9 * 3600
    assert end_of("2026-03-29", "Europe/Berlin") - end_of("2026-03-28", "Europe/Berlin") == 23 * 3600  # clocks go forward


LIVE = [  # eligible, publish_ts, _seen, _train_count, whether it may be recommended on a day that ends at 100
    (True, None, True, 0, True),
    (True, 99, True, 0, True),
    (True, 100, True, 0, False),
    (True, 100, True, 1, True),  # clicked before its time: it is there
    (False, 5, True, 9, False),
    (None, None, True, 2, True),  # only the clicks know it
    (None, None, False, 0, False),  # of an earlier day, gone
]


def test_an_item_is_live_once_published_or_clicked(spark):
    items = spark.createDataFrame(LIVE, "eligible boolean, publish_ts long, _seen boolean, _train_count long, wanted boolean")
    assert items.where(live(100) != F.col("wanted")).collect() == []
    assert [row[0] for row in items.select(live(None)).collect()] == [True, True, True, True, False, True, False]


@pytest.mark.parametrize(("has_clock", "waiting"), [(True, 1), (False, None)])
def test_an_item_of_tomorrow_is_not_eligible_before_someone_clicks_it(spark, tmp_path, has_clock, waiting):
    settings = settings_of(storage={"root": str(tmp_path)}, split={"kind": "production"})
    asked = Request("test", settings, (), DS, MAIN, "r1", force=True, break_lock=False, dry_run=False, log=Log("text"))
    log = [Click(user, item, START_S) for user in "uv" for item in "abc"]
    tomorrow = end_of(DS, "UTC")
    publish_log(spark, asked, log, has_clock=has_clock, publish_ts={"b": tomorrow, "i-cold": tomorrow})
    run_job(vocabulary.JOB, spark, asked)
    tables = {}
    for name in ("item_index", "item_feat"):
        made = asked.store.manifest(name, DS, settings)
        tables[name] = spark.read.parquet(*asked.store.files_of(made))
    eligible = {row.key: row.eligible for row in tables["item_index"].join(tables["item_feat"], "idx").collect()}
    assert eligible == {"a": False, "b": True, "c": True, "i-cold": not has_clock}  # a: the catalogue says no
    assert made.counters.get("items_not_yet_published") == waiting
