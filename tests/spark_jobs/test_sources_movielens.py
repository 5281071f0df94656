"""The three MovieLens layouts: small copies written here, worked by hand, and the real files where they are."""

import gzip
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.errors import BadDataError, NotReadyError
from conf.settings import Settings
from spark_jobs.sources import movielens
from spark_jobs.sources.raw import CLICKS, Raw

FLAGS = "|".join("1" if n in (1, 16) else "0" for n in range(19))  # Action, Thriller
NO_FLAGS = "|".join("1" if n == 0 else "0" for n in range(19))  # "unknown" is no genre


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        body = text.encode("latin-1")
        (folder / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    return folder


def read(spark: SparkSession, folder: Path) -> Raw:
    settings = Settings.model_validate({"source": {"kind": "movielens", "path": str(folder)}})
    return movielens.source(spark, settings, "1998-04-22")


def test_100k(spark: SparkSession, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "u.data": "196\t242\t3\t881250949\n186\t302\t1\t881250949\n196\t302\t5\n",
            "u.user": "196|49|M|writer|55105\n186|7|F|student|00000\n",
            "u.item": f"242|Amélie (1997)|01-Jan-1997||http://x|{FLAGS}\n302|unknown||||{NO_FLAGS}\n",
        },
    )
    raw = read(spark, folder)
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    assert raw.has_clock
    rows = raw.clicks.orderBy("seq").select("user_key", "item_key", "ts", "rating", "weight", "seq", "_file", "_row").collect()
    assert [tuple(row) for row in rows[:2]] == [
        ("196", "242", 881250949, 3.0, None, 0, "u.data", 0),
        ("186", "302", 881250949, 1.0, None, 1, "u.data", 1),  # the same second: the file decides
    ]
    assert raw.clicks.where("problem is not null").select("_row", "_raw").collect() == [(2, "196\t302\t5")]
    assert sorted(tuple(row) for row in raw.users.select("user_key", "age", "gender", "occupation").collect()) == [
        ("186", "1", "F", "student"),
        ("196", "45", "M", "writer"),  # 45 to 49
    ]
    assert sorted(tuple(row) for row in raw.items.select("item_key", "title", "year", "genres", "eligible").collect()) == [
        ("242", "Amélie", "1997", ["Action", "Thriller"], True),
        ("302", "unknown", None, [], True),
    ]


MOVIES = "1::Toy Story (1995)::Animation|Children's|Comedy\n2::City of Lost Children, The (Cité) (1995)::Sci-Fi\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"


def test_1m(spark: SparkSession, tmp_path: Path) -> None:
    folder = write(tmp_path, {"ratings.dat": "1::2::5::978300760\n2::1::3::978302109\n", "users.dat": USERS, "movies.dat": MOVIES})
    raw = read(spark, folder)
    assert raw.has_clock
    assert [tuple(r) for r in raw.clicks.orderBy("seq").select("user_key", "item_key", "ts").collect()] == [
        ("1", "2", 978300760),
        ("2", "1", 978302109),
    ]
    assert sorted(tuple(r) for r in raw.users.select("user_key", "age", "gender", "occupation").collect()) == [
        ("1", "1", "F", "K-12 student"),
        ("2", "56", "M", "self-employed"),
    ]
    items = {r["item_key"]: (r["title"], r["year"], r["genres"]) for r in raw.items.collect()}
    assert items["1"] == ("Toy Story", "1995", ["Animation", "Children's", "Comedy"])
    assert items["2"] == ("City of Lost Children, The (Cité)", "1995", ["Sci-Fi"])


def test_order_only(spark: SparkSession, tmp_path: Path) -> None:
    log = "user_id,item_id,rating,pos\n1,2,4,0\n1,1,5,1\n2,1,3,0\n"
    raw = read(spark, write(tmp_path, {"interactions_ordered.csv.gz": log, "users.dat": USERS, "movies.dat": MOVIES}))
    assert not raw.has_clock
    rows = raw.clicks.orderBy("user_key", "ts").select("user_key", "item_key", "ts", "rating", "problem").collect()
    assert [tuple(r) for r in rows] == [("1", "2", 0, 4.0, None), ("1", "1", 1, 5.0, None), ("2", "1", 0, 3.0, None)]


def test_clock_times_win_where_both_logs_are_there(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, {"ratings.dat": "", "interactions_ordered.csv.gz": ""})
    assert movielens.detect(tmp_path).log == "ratings.dat"


def test_what_is_missing_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"u\.data, ratings\.dat, interactions_ordered\.csv\.gz"):
        read(spark, tmp_path)
    write(tmp_path, {"ratings.dat": "1::2::5::978300760\n", "movies.dat": MOVIES})
    with pytest.raises(BadDataError, match=r"users\.dat"):
        read(spark, tmp_path)


@pytest.mark.parametrize(
    ("years", "band"), [(7, "1"), (17, "1"), (18, "18"), (24, "18"), (25, "25"), (49, "45"), (50, "50"), (56, "56"), (90, "56")]
)
def test_age_bands_are_those_of_1m(years: int, band: str) -> None:
    assert movielens.age_band(years) == band


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "users", "items", "clicks", "has_clock"), [("ml-100k", 943, 1_682, 100_000, True), ("ml-1m", 6_040, 3_883, 1_000_209, False)]
)
def test_real_files(spark: SparkSession, shared_data: Path, name: str, users: int, items: int, clicks: int, has_clock: bool) -> None:
    raw = read(spark, shared_data / name)
    assert raw.has_clock == has_clock
    assert (raw.users.count(), raw.items.count()) == (users, items)
    found = raw.clicks.agg(F.count("*"), F.count("problem"), F.count("ts"), F.countDistinct("user_key")).first()
    assert found is not None
    assert tuple(found) == (clicks, 0, clicks, users)
    assert raw.items.where("year is null").count() <= 2
