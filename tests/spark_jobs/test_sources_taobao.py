"""Taobao's UserBehavior.csv: a few lines in the published layout, worked by hand, and lines nobody should have published."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import NotReadyError, SchemaError
from conf.settings import Settings, load
from spark_jobs import ingest
from spark_jobs.job import run_job
from spark_jobs.sources import taobao
from spark_jobs.sources.raw import CLICKS, Raw

FIRST = 1_511_539_200  # 2017-11-24T16:00:00Z, midnight of 11-25 in China: 17,494 days of 86,400 s, and 16 hours
HOUR, DAY = 3_600, 86_400

LOG = [
    f"1,2268318,2520377,pv,{FIRST + 10}\n",
    f"1,2333346,2520771,buy,{FIRST + 10}\r\n",  # the same second: the file decides
    "\n",  # no row, but a line with a number
    f" 100,2268318 ,2520377,fav,{FIRST + 5}\n",
    f"100,7,,pv,{FIRST}\n",  # no category
    f"100,7,pv,{FIRST}\n",
    f"100,8,9,pv,{FIRST},x\n",
    f"100,8,9,look,{FIRST}\n",
    "100,8,9,pv,soon\n",
    "100,8,9,pv,\n",
    f",8,9,pv,{FIRST}\n",
    f"100,,9,pv,{FIRST}\n",
    "100,8,9,pv,-2134949234\n",
    "user,item,category,behaviour,time\n",
]


def write(path: Path, lines: list[str]) -> Path:
    body = "".join(lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def read(spark: SparkSession, path: Path, **given: Any) -> Raw:
    return taobao.source(spark, Settings.model_validate({"source": {"kind": "taobao", "path": str(path), **given}}), "2017-12-03")


@pytest.mark.parametrize("name", ["UserBehavior.csv", "UserBehavior.csv.gz"])
def test_behaviours(spark: SparkSession, tmp_path: Path, name: str) -> None:
    raw = read(spark, write(tmp_path / name, LOG))
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    assert raw.has_clock
    rows = raw.clicks.orderBy("_row").select("_row", "user_key", "item_key", "event_type", "ts", "problem").collect()
    unknown = "behaviour is none of pv, buy, cart, fav"
    assert [tuple(row) for row in rows] == [
        (0, "1", "2268318", "pv", FIRST + 10, None),
        (1, "1", "2333346", "buy", FIRST + 10, None),
        (3, "100", "2268318", "fav", FIRST + 5, None),
        (4, "100", "7", "pv", FIRST, None),
        (5, "100", "7", str(FIRST), None, "not five values"),
        (6, "100", "8", "pv", FIRST, "not five values"),
        (7, "100", "8", "look", FIRST, unknown),
        (8, "100", "8", "pv", None, "time cannot be read"),
        (9, "100", "8", "pv", None, None),  # ingest has reasons for the rest
        (10, None, "8", "pv", FIRST, None),
        (11, "100", None, "pv", FIRST, None),
        (12, "100", "8", "pv", -2134949234, None),
        (13, "user", "item", "behaviour", None, unknown),
    ]
    assert [row["item_key"] for row in raw.clicks.where("user_key = '1'").orderBy("ts", "seq").collect()] == ["2268318", "2333346"]
    items = raw.items.orderBy("item_key").select("item_key", "category", "eligible").collect()
    assert [tuple(row) for row in items] == [
        ("2268318", "2520377", True),
        ("2333346", "2520771", True),
        ("7", None, True),
        ("8", "9", True),
    ]
    assert raw.users.columns == ["user_key"]


def test_views_are_the_clicks_unless_others_are_named() -> None:
    given = {"kind": "taobao", "path": "x"}
    assert Settings.model_validate({"source": given}).source.event_types == {"pv": 1}
    assert Settings.model_validate({"source": given | {"event_types": {"buy": 4}}}).source.event_types == {"buy": 4}
    assert Settings.model_validate({"source": given | {"event_types": None}}).source.event_types is None
    assert Settings.model_validate({"source": given | {"kind": "generic"}}).source.event_types is None


def test_what_is_missing_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"source\.path=.*gone"):
        read(spark, tmp_path / "gone")
    with pytest.raises(SchemaError, match=r"no item field 'brand'   known: category"):
        read(spark, write(tmp_path / "log.csv", LOG), fields={"item": {"brand": "single"}})


@pytest.mark.slow
def test_any_partitioning_gives_the_same(spark: SparkSession, tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / "log" / f"part {part}.csv", [f"{n % 7},{part}{n:03},{n % 5},pv,{FIRST}\n" for n in range(300)])
    whole = read(spark, tmp_path / "log").clicks.orderBy("seq").select("item_key", "seq", "_row").collect()
    assert [row["item_key"] for row in whole] == [f"{part}{n:03}" for part in range(2) for n in range(300)]
    small = {"spark.sql.files.maxPartitionBytes": "900", "spark.sql.files.openCostInBytes": "1"}
    before = {key: spark.conf.get(key) for key in small}
    try:
        for key, value in small.items():
            spark.conf.set(key, value)
        raw = read(spark, tmp_path / "log")
        assert raw.clicks.rdd.getNumPartitions() >= 10
        assert raw.clicks.orderBy("seq").select("item_key", "seq", "_row").collect() == whole
        assert raw.items.count() == 600
    finally:
        for key, old in before.items():
            spark.conf.set(key, str(old))


@pytest.mark.slow
def test_the_packaged_configuration_ingests(spark: SparkSession, tmp_path: Path, make_request: Callable[..., Request]) -> None:
    """Six users view six items each on the days of the log; what lies outside is counted, what is broken is refused."""
    views = [f"{user},{item},9,pv,{FIRST + DAY * item + user}\n" for user in range(1, 7) for item in range(1, 7)]
    outside = [f"1,1,9,pv,{FIRST - 1}\n", f"1,2,9,pv,{FIRST + 9 * DAY}\n", f"1,3,9,pv,{FIRST + 9 * DAY - 1}\n"]
    bought = [f"1,77,5,buy,{FIRST}\n"] * 2
    refused = ["1,1,9,pv,-2134949234\n", "1,1,9,pv\n"]
    log = write(tmp_path / "UserBehavior.csv", views + outside + bought + refused)
    settings = load("taobao", [f"source.path={log}", "gates.max_reject_share=0.1"])
    asked = make_request(settings, ds=settings.source.default_ds)
    run_job(ingest.JOB, spark, asked)
    manifest = asked.store.manifest("clicks", asked.ds, asked.settings)
    assert manifest.rows == 37  # the last second of 12-03 in China is in
    assert manifest.counters["dropped"] == {"after ds": 1, "before the window": 1, "other event type": 2}
    assert manifest.counters["rejected"] == {"a time outside 1970-2100: other units?": 1, "not five values": 1}
    assert manifest.counters["items_left_out"] == 1  # 77 was bought, not viewed
    assert (manifest.facts["user_key_type"], manifest.facts["item_key_type"]) == ("int64", "int64")
    rejects = spark.read.parquet(*asked.store.files_of(asked.store.manifest("rejects", asked.ds, asked.settings))).orderBy("row").collect()
    assert [(row["row"], row["raw"]) for row in rejects] == [(41, "1,1,9,pv,-2134949234"), (42, "1,1,9,pv")]
