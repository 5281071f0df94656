"""Ingest: every raw row becomes a click, a reject with one reason, or a number; whatever the partitioning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.command import Request
from conf.errors import BadDataError, GateError, TrichannelError
from conf.fields import Field
from conf.settings import Settings
from spark_jobs import ingest
from spark_jobs.job import run_job
from spark_jobs.sources.raw import CLICKS

DS = "2026-01-31"
MIDNIGHT = 1_769_817_600  # 2026-01-31T00:00:00Z: 20,484 days of 86,400 s
HOUR, DAY = 3_600, 86_400


def log(spark: SparkSession, *rows: dict[str, Any]) -> DataFrame:
    """Raw clicks; what a row does not say is a plain click of user u on item i at noon of ds."""
    usual = {"user_key": "u", "item_key": "i", "ts": MIDNIGHT + 12 * HOUR, "event_type": "click", "_file": "f", "_row": -1, "_raw": "raw"}
    schema = ", ".join(f"{name} {kind}" for name, kind in CLICKS.items())
    full = [{"seq": number, **usual, **row} for number, row in enumerate(rows)]
    return spark.createDataFrame([tuple(row.get(name) for name in CLICKS) for row in full], schema)


def source(**given: Any) -> Any:
    return Settings.model_validate({"source": given}).source


def judged(df: DataFrame, *, has_clock: bool = True, **given: Any) -> list[tuple[str, str | None]]:
    rows = ingest.judge(df, source(**given), ds=DS, has_clock=has_clock).orderBy("seq").collect()
    return [(row["fate"], row["reason"]) for row in rows]


def test_one_fate_and_one_reason_each(spark: SparkSession) -> None:
    df = log(
        spark,
        {},  # fine
        {"problem": "row cannot be read", "user_key": None},  # the source's own reason comes first
        {"user_key": None, "item_key": None, "ts": None},  # one reason, the first
        {"item_key": None},
        {"ts": None},
        {"ts": -5},  # 1969
        {"event_type": "scroll"},
        {"event_type": "buy", "rating": 2.0},  # the least that counts
        {"rating": 1.5},
        {"ts": MIDNIGHT + DAY},  # the first second after ds
        {"ts": MIDNIGHT + DAY - 1},  # the last second of ds
        {"ts": MIDNIGHT - 6 * DAY},  # the first second of the window: 5 days and 2 of look-back
        {"ts": MIDNIGHT - 6 * DAY - 1},
        {"event_type": "scroll", "ts": MIDNIGHT + DAY},  # unwanted for two reasons, counted once
    )
    df = df.withColumn("rating", F.coalesce("rating", F.lit(5.0).cast("float")))
    fates = judged(df, event_types={"click": 1, "buy": 3}, min_weight=2, train_days=5, lookback_days=2)
    assert fates == [
        ("used", None),
        ("rejected", "row cannot be read"),
        ("rejected", "no user"),
        ("rejected", "no item"),
        ("rejected", "no time that can be read"),
        ("rejected", "a time outside 1970-2100: other units?"),
        ("dropped", "other event type"),
        ("used", None),
        ("dropped", "below min_weight"),
        ("dropped", "after ds"),
        ("used", None),
        ("used", None),
        ("dropped", "before the window"),
        ("dropped", "other event type"),
    ]


def test_weights_come_from_the_file_then_from_the_event_type(spark: SparkSession) -> None:
    df = log(spark, {"event_type": "buy"}, {"event_type": "buy", "weight": 0.5}, {"event_type": "view"})
    made = ingest.judge(df, source(event_types={"buy": 3, "view": 1}), ds=DS, has_clock=True).orderBy("seq").collect()
    assert [row["weight"] for row in made] == [3.0, 0.5, 1.0]


@pytest.mark.parametrize(("timezone", "day"), [("UTC", "2026-01-30"), ("Asia/Tokyo", "2026-01-31"), ("America/New_York", "2026-01-30")])
def test_the_day_begins_in_its_time_zone(spark: SparkSession, timezone: str, day: str) -> None:
    df = log(spark, {"ts": MIDNIGHT - 5 * HOUR})  # 19:00 in London, 04:00 in Tokyo, 14:00 in New York
    made = ingest.judge(df, source(day_timezone=timezone), ds=DS, has_clock=True).first()
    assert made is not None
    assert made["day"] == day


def test_without_a_clock_all_is_on_the_day(spark: SparkSession) -> None:
    df = log(spark, {"ts": 0}, {"ts": 7_000_000_000})  # positions, not times
    made = ingest.judge(df, source(train_days=1), ds=DS, has_clock=False).collect()
    assert [(row["fate"], row["day"]) for row in made] == [("used", DS), ("used", DS)]


@pytest.mark.parametrize("partitions", [1, 7])
def test_duplicates_keep_the_first_by_seq(spark: SparkSession, partitions: int) -> None:
    df = log(
        spark,
        {"seq": 9, "session_key": "late"},
        {"seq": 3, "session_key": "early"},  # kept of the three
        {"seq": 5},
        {"seq": 1, "event_type": "buy"},  # another kind of event is another event
        {"seq": 2, "event_id": "a"},  # and so is another event id
        {"seq": 4, "ts": MIDNIGHT},
    )
    judged = ingest.judge(df.repartition(partitions), source(), ds=DS, has_clock=True)
    left = ingest.deduplicate(judged).select("seq", "session_key").collect()
    assert sorted((row["seq"], row["session_key"]) for row in left) == [(1, None), (2, None), (3, "early"), (4, None)]


def test_inactive_items_go_first_then_users_once_each(spark: SparkSession) -> None:
    pairs = ["ax", "ay", "bx", "bz", "cz"]  # y has one click: dropped; then a and c have one left: dropped, which x and z do not feel
    df = log(spark, *({"user_key": user, "item_key": item, "ts": MIDNIGHT + n} for n, (user, item) in enumerate(pairs)))
    left = ingest.keep_active(df, source(min_item_events=2, min_user_events=2)).collect()
    assert sorted(row["user_key"] + row["item_key"] for row in left) == ["bx", "bz"]


def test_rejects_show_file_row_and_text(spark: SparkSession) -> None:
    df = log(spark, {"item_key": None, "_row": 4, "_raw": "x" * 600}, {})
    judged = ingest.judge(df, source(), ds=DS, has_clock=True)
    assert ingest.rejects(judged, any_there=False).collect() == []
    rows = ingest.rejects(judged, any_there=True).collect()
    assert [(row["source_file"], row["row"], row["reason"], row["raw"]) for row in rows] == [("f", 4, "no item", "x" * 500)]


@pytest.mark.parametrize("partitions", [1, 5])
def test_items_of_catalogue_and_log_are_all_there(spark: SparkSession, partitions: int) -> None:
    given = [
        ("a", 5, False, "red", ["t1"]),
        ("b", None, None, None, None),  # nothing known, and eligible all the same
        ("b", None, None, None, None),  # a key twice
        ("a", 9, True, "red", ["t2"]),
        (None, 1, True, "blue", ["t3"]),  # no key: no item
    ]
    items = spark.createDataFrame(given, "item_key string, publish_ts long, eligible boolean, colour string, tags array<string>")
    clicked = log(spark, {"item_key": "a"}, {"item_key": "new"}).select("item_key")
    fields = (Field("colour", "item", "single"), Field("tags", "item", "multi"))
    made = ingest.complete(items.repartition(partitions), clicked, "item_key", fields, F.col("publish_ts"), F.col("eligible"))
    assert sorted(tuple(row) for row in made.collect()) == [
        ("a", 5, False, "red", ["t1"]),
        ("b", None, True, None, []),
        ("new", None, True, None, []),
    ]


@pytest.mark.parametrize(
    ("keys", "known", "kind"),
    [
        (["1", "20", "-3"], "infer", "int64"),
        (["1", "007"], "infer", "string"),  # 7 would not be the key that came
        (["1", "a"], "infer", "string"),
        (["1", "9999999999999999999"], "infer", "string"),  # beyond int64
        (["1"], "string", "string"),
        (["1"], "int64", "int64"),
        (["1", "9e+05"], "int64", "string"),  # integers in the log, text in the catalogue
    ],
)
def test_key_types(spark: SparkSession, keys: list[str], known: str, kind: str) -> None:
    df = log(spark, *({"user_key": key} for key in keys))
    assert ingest.key_type(df, "user_key", known) == kind


# ---- the job as a whole --------------------------------------------------------------------------------------------

HEADER = "user_key,item_key,ts\n"


def day_of(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path, text: str, ds: str = DS, **given: Any
) -> tuple[Request, Any]:
    path = tmp_path / "log.csv"
    path.write_text(text)
    settings = Settings.model_validate({"source": {"kind": "generic", "path": str(path), **given}})
    asked = make_request(settings, ds=ds)
    return asked, run_job(ingest.JOB, spark, asked)


def test_a_day_is_published_with_facts_and_every_row_accounted_for(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path
) -> None:
    clicks = [f"{n % 10},{n % 7},{MIDNIGHT + 60 * n}\n" for n in range(60)]
    rows = [*clicks, clicks[0], f"1,2,{MIDNIGHT + DAY}\n", f",5,{MIDNIGHT}\n"]  # a duplicate, a click of tomorrow, a click of nobody
    asked, result = day_of(spark, make_request, tmp_path, HEADER + "".join(rows))
    assert result.rows == {"clicks": 60, "users": 10, "items": 7, "rejects": 1}
    manifest = asked.store.manifest("clicks", DS, asked.settings)
    counters = manifest.counters
    assert counters["raw_rows"] == 63
    assert (counters["rejected"], counters["dropped"]) == ({"no user": 1}, {"after ds": 1})
    assert counters["raw_rows"] == counters["clicks"] + counters["duplicates"] + counters["inactive"] + 1 + 1
    assert {name: manifest.facts[name] for name in ("has_clock", "user_key_type", "item_key_type", "first_ts", "last_ts")} == {
        "has_clock": True,
        "user_key_type": "int64",
        "item_key_type": "int64",
        "first_ts": MIDNIGHT,
        "last_ts": MIDNIGHT + 59 * 60,
    }


def test_late_clicks_are_counted_and_stay_in_their_own_day(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path
) -> None:
    """A window of three days, 29 to 31, and two of look-back, 27 and 28."""
    seconds = (MIDNIGHT + 5, MIDNIGHT - 2 * DAY, MIDNIGHT - 2 * DAY - 1, MIDNIGHT - 4 * DAY, MIDNIGHT - 4 * DAY, MIDNIGHT - 4 * DAY - 1)
    text = HEADER + "".join(f"u,i,{ts}\n" for ts in seconds)
    asked, _ = day_of(spark, make_request, tmp_path, text, train_days=3, lookback_days=2)
    manifest = asked.store.manifest("clicks", DS, asked.settings)
    assert (manifest.counters["clicks"], manifest.counters["late_clicks"]) == (4, 2)  # the duplicate is no late click
    assert (manifest.counters["duplicates"], manifest.counters["dropped"]) == (1, {"before the window": 1})
    clicks = spark.read.parquet(*asked.store.files_of(manifest)).orderBy("ts").collect()
    assert [row["day"] for row in clicks] == ["2026-01-27", "2026-01-28", "2026-01-29", "2026-01-31"]


@pytest.mark.parametrize("given", [{"lookback_days": 2}, {"lookback_days": 2, "ts_format": "order"}], ids=["no window", "no clock"])
def test_without_a_window_no_click_is_late(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path, given: dict[str, Any]
) -> None:
    asked, _ = day_of(spark, make_request, tmp_path, HEADER + f"u,i,{MIDNIGHT - 400 * DAY}\nu,i,{MIDNIGHT}\n", **given)
    counters = asked.store.manifest("clicks", DS, asked.settings).counters
    assert (counters["clicks"], counters["late_clicks"]) == (2, 0)


def test_a_bad_row_is_one_reject_with_one_reason(spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path) -> None:
    """Rows that are wrong in several ways, that repeat each other, or lie outside the window besides: one reject each, by file and row."""
    bad = [",,\n", ",5,never\n", ",5,never\n", "1,,-7\n", f",5,{MIDNIGHT + 9 * DAY}\n", "1\n"]
    text = HEADER + "".join(bad) + "".join(f"1,{n},{MIDNIGHT}\n" for n in range(6))
    path = tmp_path / "log.csv"
    path.write_text(text)
    settings = {"source": {"kind": "generic", "path": str(path), "train_days": 2}, "gates": {"max_reject_share": 0.5}}
    asked = make_request(Settings.model_validate(settings))  # 6 of 12: the limit itself is not too much
    run_job(ingest.JOB, spark, asked)
    manifest = asked.store.manifest("rejects", DS, asked.settings)
    rows = spark.read.parquet(*asked.store.files_of(manifest)).orderBy("row").collect()
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["raw"] for row in rows] == [text.rstrip("\n") for text in bad]
    assert all(row["reason"] for row in rows)
    assert sum(manifest.counters["rejected"].values()) == len(bad)
    for reason, count in manifest.counters["rejected"].items():
        assert sum(row["reason"] == reason for row in rows) == count


def test_a_catalogue_key_that_is_no_integer_makes_all_item_keys_text(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path
) -> None:
    (tmp_path / "items.csv").write_text("key\n5\n9e+05\n")
    catalogue = {"path": str(tmp_path / "items.csv")}
    asked, _ = day_of(spark, make_request, tmp_path, HEADER + f"1,5,{MIDNIGHT}\n", items=catalogue)
    facts = asked.store.manifest("clicks", DS, asked.settings).facts
    assert (facts["user_key_type"], facts["item_key_type"]) == ("int64", "string")


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (HEADER, BadDataError, "empty"),
        (HEADER + f",5,{MIDNIGHT}\n" * 3, BadDataError, "'user_key'"),
        (HEADER + f"1,,{MIDNIGHT}\n" * 3, BadDataError, "'item_key'"),
        (HEADER + f"1,5,{MIDNIGHT + DAY}\n", BadDataError, "after ds"),
        (HEADER + f"1,5,{MIDNIGHT}\n" * 8 + f",5,{MIDNIGHT}\n", GateError, "1 of 9 rows refused (11.1%)"),
    ],
    ids=["empty", "no user at all", "no item at all", "nothing in the window", "too many rejects"],
)
def test_what_is_refused_publishes_nothing(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path, text: str, kind: type[TrichannelError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        day_of(spark, make_request, tmp_path, text)
    assert says in str(caught.value)
    assert not list((tmp_path / "root" / "main").glob("_current/ingest/*.json"))


@pytest.mark.slow
def test_the_generated_log_is_the_same_for_any_partitioning(spark: SparkSession, make_request: Callable[..., Request]) -> None:
    small = {"users": 40, "items": 120, "clicks": 900, "topics": 6, "days": 7}
    hashes = []
    before = spark.conf.get("spark.sql.shuffle.partitions")
    try:
        for run_id, partitions in (("r1", "1"), ("r2", "9")):
            spark.conf.set("spark.sql.shuffle.partitions", partitions)
            asked = make_request(Settings.model_validate({"source": {"synthetic": small}}), run_id=run_id, force=True)
            run_job(ingest.JOB, spark, asked)
            hashes.append([asked.store.manifest(table, DS, asked.settings).content_hash for table in ("clicks", "users", "items")])
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert hashes[0] == hashes[1]
