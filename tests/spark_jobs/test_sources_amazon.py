"""Amazon's reviews and metadata: a few lines in each published layout, worked by hand, and lines nobody should have published."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import BadDataError, NotReadyError, SchemaError
from conf.settings import Settings, load
from spark_jobs import ingest
from spark_jobs.job import run_job
from spark_jobs.sources import amazon_reviews
from spark_jobs.sources.raw import CLICKS, Raw

DAY_1, DAY_2 = 1_405_900_800, 1_405_987_200  # 2014-07-21 and 22, midnight: 16,272 and 16,273 days of 86,400 s


def review(user: str, item: str, ts: Any = DAY_1, stars: float = 5.0, **more: Any) -> str:
    row = {"reviewerID": user, "asin": item, "reviewerName": 'J. "Jay" Doe', "helpful": [0, 0], "reviewText": "It's\ta book."}
    return json.dumps(row | {"overall": stars, "summary": "é", "unixReviewTime": ts, "reviewTime": "07 21, 2014"} | more) + "\n"


REVIEWS = [
    review("A2", "0000031852"),
    "\n",  # no row, but a line with a number
    review("A1", "B00X", DAY_2, 2.0),
    review("A2", "0000000009", verified=True, style={"Format:": "Paperback"}),  # 2018; the same day as line 0: the file decides
    '{"reviewerID": "A3", "asin": "B00X", "overall":\n',  # cut off
    review("", "B00X"),
    review("A3", "B00X", "yesterday"),
    review("A3", "B00X", DAY_1 * 1000),
    '{"asin": "B00X", "unixReviewTime": 1405900800}\n',
]
# As in the release of 2014: what Python prints for a dict
LOOSE = [
    "{'asin': '0000031852', 'title': \"Girls' Ballet &amp; Tutu\", 'price': 3.17, 'related': {'also_bought': ['B00X']}, "
    "'salesRank': {'Books': 211836}, 'brand': 'Coxlures', "
    "'categories': [['Books', 'Arts &amp; Photography', 'Dance'], ['Books', 'Sports']]}\n",
    "{'asin': 'B00X', 'categories': [['Books']], 'description': 'It\\'s \\xe9 \"x\"'}\n",
    "{'asin': 'B00Y', 'title': 'cut o\n",
    "{'title': 'nobody'}\n",
    "__import__('os').system('touch never')\n",
]
# As in the release of 2018
STRICT = [
    {
        "category": ["Books", "Arts &amp; Photography", "Dance"],
        "main_cat": "Books",
        "title": "  Swan\n Lake ",
        "brand": "",
        "price": "$1,299.00",
        "asin": "0000031852",
        "tech1": "",
        "also_buy": [],
    },
    {"category": [], "title": "", "price": ".a-section { color: red }", "asin": "B00X"},
]


def write(path: Path, lines: list[str]) -> Path:
    body = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def read(spark: SparkSession, reviews: Path, metadata: Path | None = None, **more: Any) -> Raw:
    source = {"kind": "amazon_reviews", "path": str(reviews), "items": {"path": str(metadata) if metadata else None}, **more}
    return amazon_reviews.source(spark, Settings.model_validate({"source": source}), "2014-07-31")


NO_FIELDS: dict[str, Any] = {"fields": {"user": {}, "item": {}}}
ITEM = ("item_key", "main_category", "category", "brand", "price_band", "categories", "title")


def items_of(raw: Raw) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in raw.items.orderBy("item_key").select(*ITEM).collect()]


@pytest.mark.parametrize("name", ["reviews_Books_5.json", "reviews_Books_5.json.gz"])
def test_reviews(spark: SparkSession, tmp_path: Path, name: str) -> None:
    raw = read(spark, write(tmp_path / name, REVIEWS), **NO_FIELDS)
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    assert raw.has_clock
    assert (raw.user_key_type, raw.item_key_type) == ("string", "string")
    found = raw.clicks.orderBy("_row").select("_row", "user_key", "item_key", "ts", "rating", "problem").collect()
    assert [tuple(row) for row in found] == [
        (0, "A2", "0000031852", DAY_1, 5.0, None),
        (2, "A1", "B00X", DAY_2, 2.0, None),
        (3, "A2", "0000000009", DAY_1, 5.0, None),
        (4, None, None, None, None, "row cannot be read"),
        (5, None, "B00X", DAY_1, 5.0, None),  # ingest has reasons for the rest
        (6, "A3", "B00X", None, 5.0, "time cannot be read"),
        (7, "A3", "B00X", DAY_1 * 1000, 5.0, None),
        (8, None, "B00X", DAY_1, None, None),
    ]
    assert [row["item_key"] for row in raw.clicks.where("user_key = 'A2'").orderBy("ts", "seq").collect()] == ["0000031852", "0000000009"]
    assert raw.users.columns == ["user_key"]
    assert raw.items.count() == 0


@pytest.mark.parametrize("name", ["meta_Books.json", "meta_Books.json.gz"])
def test_loose_metadata_of_2014(spark: SparkSession, tmp_path: Path, name: str) -> None:
    raw = read(spark, write(tmp_path / "reviews.json", REVIEWS[:1]), write(tmp_path / "meta" / name, LOOSE))
    dance = ["Books", "Arts & Photography", "Dance", "Sports"]
    assert items_of(raw) == [
        ("0000031852", "Books", "Sports", "Coxlures", "2", dance, "Girls' Ballet & Tutu"),
        ("B00X", "Books", "Books", None, None, ["Books"], None),
    ]
    refused = raw.clicks.where("problem is not null").orderBy("_row").select("_row", "problem", "_raw", "_file").collect()
    assert [(row["_row"], row["problem"]) for row in refused] == [
        (2, "metadata cannot be read"),
        (3, "metadata without asin"),
        (4, "metadata cannot be read"),  # and nothing of it was run
    ]
    assert refused[1]["_raw"] == "{'title': 'nobody'}"
    assert refused[0]["_file"].endswith(name)


def test_strict_metadata_of_2018(spark: SparkSession, tmp_path: Path) -> None:
    metadata = write(tmp_path / "meta" / "meta_Books.json", [json.dumps(row) + "\n" for row in STRICT])
    raw = read(spark, write(tmp_path / "reviews.json", REVIEWS[:1]), metadata)
    assert items_of(raw) == [
        ("0000031852", "Books", "Dance", None, "500", ["Books", "Arts & Photography", "Dance"], "Swan Lake"),
        ("B00X", None, None, None, None, [], None),
    ]
    assert raw.clicks.where("problem is not null").count() == 0


VALUES = st.recursive(st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists)


@given(st.dictionaries(st.text(), VALUES | st.lists(st.text())))
def test_both_dialects_say_the_same(row: dict[str, Any]) -> None:
    for line in (repr(row), json.dumps(row), json.dumps(row, ensure_ascii=False)):
        assert amazon_reviews.literal(line) == row
    assert amazon_reviews.literal(str({"asin": "B1", "price": 3.17, "l": [["é", "ß"]]})) == {"asin": "B1", "price": 3.17, "l": [["é", "ß"]]}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[1]",
        "7",
        "{'a': open('/etc/passwd')}",
        "{'a': x}",
        "{'a': 1}; import os",
        "[" * 100_000,
        "{'a':" * 5_000,
        "-" * 100_000 + "1",
        "{[]: 1}",
        "{'a': 'b\x00",
    ],
    ids=lambda line: repr(line[:10]),
)
def test_what_is_no_literal_is_refused(line: str) -> None:
    found = amazon_reviews.product(line)
    assert found["problem"] == "metadata cannot be read"
    assert found["_raw"] == line[:500]


def test_half_a_surrogate_pair_is_no_text(spark: SparkSession, tmp_path: Path) -> None:
    metadata = write(tmp_path / "meta" / "meta.json", ['{"asin": "B1", "title": "a\\ud800b"}\n'])
    raw = read(spark, write(tmp_path / "reviews.json", REVIEWS[:1]), metadata)
    assert [(row["item_key"], row["title"]) for row in raw.items.collect()] == [("B1", "a?b")]


@pytest.mark.parametrize(
    ("price", "band"),
    [
        (0.5, "0"),
        (2, "2"),
        ("$1.99", "0"),
        ("$10.00 - $25.00", "10"),
        ("1,299.5", "500"),
        (499.99, "200"),
        (0, None),
        (-1, None),
        (float("nan"), None),
        ("free", None),
        (None, None),
        ([], None),
    ],
)
def test_price_bands(price: Any, band: str | None) -> None:
    assert amazon_reviews.price_band(price) == band


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ([["A", "B"], [], ["A", " "]], [["A", "B"], ["A"]]),
        (["A", "B"], [["A", "B"]]),
        ([[1, None]], []),
        ("A", []),
        (None, []),
    ],
)
def test_category_paths(value: Any, paths: list[list[str]]) -> None:
    assert amazon_reviews.category_paths(value) == paths


def test_fields_may_be_chosen_and_renamed(spark: SparkSession, tmp_path: Path) -> None:
    reviews, metadata = write(tmp_path / "r.json", REVIEWS[:1]), write(tmp_path / "meta" / "m.json", LOOSE)
    raw = read(spark, reviews, metadata, fields={"item": {"tags": {"role": "multi", "column": "categories"}}})
    assert raw.items.columns == ["item_key", "publish_ts", "eligible", "tags"]
    fields = {"user": {"age": "single"}, "item": {"colour": "single", "categories": "single", "title": "multi"}}
    with pytest.raises(SchemaError) as caught:
        read(spark, reviews, metadata, fields=fields)
    assert "3 faults" in str(caught.value)
    assert "no item field 'colour'   known: main_category, category, brand, price_band, categories, title" in str(caught.value)
    assert "set its role to multi" in str(caught.value)


def test_what_is_missing_is_named(spark: SparkSession, tmp_path: Path) -> None:
    reviews = write(tmp_path / "r.json", REVIEWS[:1])
    with pytest.raises(SchemaError, match=r"set source\.items\.path"):
        read(spark, reviews)
    with pytest.raises(NotReadyError, match=r"source\.items\.path=.*gone"):
        read(spark, reviews, tmp_path / "gone")
    with pytest.raises(NotReadyError, match=r"source\.path=.*gone"):
        read(spark, tmp_path / "gone", **NO_FIELDS)
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress("".join(review(f"A{n}", f"{n * 7919}") for n in range(2000)).encode())[:-2000])
    with pytest.raises(BadDataError, match=r"cut\.json\.gz cannot be read"):
        read(spark, cut, **NO_FIELDS)


@pytest.mark.slow
def test_any_partitioning_gives_the_same(spark: SparkSession, tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / "reviews" / f"part {part}.json", [review(f"A{n % 3}", f"B{part}{n:03}") for n in range(200)])
    metadata = write(tmp_path / "meta" / "m.json", LOOSE * 20)

    def content() -> tuple[list[Any], list[Any], list[Any]]:
        raw = read(spark, tmp_path / "reviews", metadata)
        clicks = raw.clicks.where("problem is null").orderBy("seq").select("item_key", "seq", "_row").collect()
        refused = raw.clicks.where("problem is not null").orderBy("_row").select("_row", "_raw").collect()
        return clicks, refused, sorted(map(repr, items_of(raw)))

    whole = content()
    assert [row["item_key"] for row in whole[0]] == [f"B{part}{n:03}" for part in range(2) for n in range(200)]
    assert [row["_row"] for row in whole[1]] == [5 * n + at for n in range(20) for at in (2, 3, 4)]
    small = {"spark.sql.files.maxPartitionBytes": "3000", "spark.sql.files.openCostInBytes": "1"}
    before = {key: spark.conf.get(key) for key in small}
    try:
        for key, value in small.items():
            spark.conf.set(key, value)
        assert read(spark, tmp_path / "reviews", metadata).clicks.rdd.getNumPartitions() >= 10
        assert content() == whole
    finally:
        for key, old in before.items():
            spark.conf.set(key, str(old))


@pytest.mark.slow
def test_the_packaged_configuration_ingests(spark: SparkSession, tmp_path: Path, make_request: Callable[..., Request]) -> None:
    """Six users and six books, all with five reviews at least, and one of each without; one bad line of each file."""
    lines = [review(f"A{user}", f"000000000{item}", DAY_1 + 86_400 * item) for user in range(6) for item in range(6)]
    lines += [review("lurker", "0000000000"), review("A0", "rare"), review("A0", "0000000000", stars=1.0), "{\n"]
    described = [f"{{'asin': '000000000{item}', 'categories': [['Books', 'Art']], 'title': 'T{item}'}}\n" for item in range(6)]
    metadata = write(tmp_path / "meta_Books.json.gz", [*described, "{'asin': 'unread', 'title': 'nobody reviewed it'}\n", "{'\n"])
    paths = [f"source.path={write(tmp_path / 'reviews_Books_5.json', lines)}", f"source.items.path={metadata}"]
    settings = load("amazon_books", [*paths, "gates.max_reject_share=0.1"])
    asked = make_request(settings, ds=settings.source.default_ds)
    run_job(ingest.JOB, spark, asked)
    table = {
        name: spark.read.parquet(*asked.store.files_of(asked.store.manifest(name, asked.ds, asked.settings)))
        for name in ("clicks", "items", "rejects")
    }
    assert table["clicks"].count() == 36
    assert sorted(row["item_key"] for row in table["items"].collect()) == [f"000000000{item}" for item in range(6)]
    assert {(row["source_file"].split("/")[-1], row["row"], row["reason"]) for row in table["rejects"].collect()} == {
        ("reviews_Books_5.json", 39, "row cannot be read"),
        ("meta_Books.json.gz", 7, "metadata cannot be read"),
    }
    manifest = asked.store.manifest("items", asked.ds, asked.settings)
    assert manifest.counters["items_left_out"] == 1  # unread; of rare nothing is left, and the metadata does not know it
    assert manifest.counters["inactive"] == 2
    assert manifest.counters["duplicates"] == 1
