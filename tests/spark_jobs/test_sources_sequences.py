"""Sequences: one user a line, items in order."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.errors import BadDataError, NotReadyError
from conf.settings import Settings
from spark_jobs.sources import sequences
from spark_jobs.sources.raw import CLICKS, Raw


def read(spark: SparkSession, path: Path, attributes: Path | None = None) -> Raw:
    given = {"kind": "sequences", "path": str(path), "attributes": str(attributes) if attributes else None}
    return sequences.source(spark, Settings.model_validate({"source": given}), "2026-01-31")


@pytest.fixture(params=[True, False], ids=["compiled", "interpreted"])
def any_spark(request: pytest.FixtureRequest, spark: SparkSession) -> Iterator[SparkSession]:
    """Spark as it is, and as it runs plans whose generated code would be too long."""
    if not request.param:
        spark.conf.set("spark.sql.codegen.wholeStage", "false")
        spark.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    yield spark
    for name in ("wholeStage", "factoryMode"):
        spark.conf.unset(f"spark.sql.codegen.{name}")


def test_positions_are_times(any_spark: SparkSession, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("1 30 10 30\n\n  2\t7  \n3\n")
    raw = read(any_spark, log)
    assert not raw.has_clock
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    rows = raw.clicks.orderBy("user_key", "ts").select("user_key", "item_key", "ts", "seq", "problem").collect()
    assert [tuple(row) for row in rows if row["problem"] is None] == [
        ("1", "30", 0, 0, None),
        ("1", "10", 1, 1, None),
        ("1", "30", 2, 2, None),  # a repeat is a click
        ("2", "7", 0, 0, None),
    ]
    assert [(row["problem"]) for row in rows if row["problem"]] == ["a user without items"]
    assert raw.items.count() == 0


def test_attributes_are_the_catalogue(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 30 10\n")
    (tmp_path / "items.json").write_text(json.dumps({"30": [1, "red"], "99": []}))
    raw = read(spark, tmp_path / "log.txt", tmp_path / "items.json")
    rows = sorted(tuple(row) for row in raw.items.select("item_key", "attributes", "eligible").collect())
    assert rows == [("30", ["1", "red"], True), ("99", [], True)]


@pytest.mark.parametrize("text", ["[1, 2]", "{broken", '{"1": 5}'])
def test_attributes_of_another_shape(spark: SparkSession, tmp_path: Path, text: str) -> None:
    (tmp_path / "log.txt").write_text("1 30 10\n")
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(BadDataError, match=r"items\.json"):
        read(spark, tmp_path / "log.txt", tmp_path / "items.json")


def test_missing_files_are_not_ready(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"log\.txt"):
        read(spark, tmp_path / "log.txt")
    (tmp_path / "log.txt").write_text("1 30 10\n")
    with pytest.raises(NotReadyError, match=r"items\.json"):
        read(spark, tmp_path / "log.txt", tmp_path / "items.json")


@pytest.mark.data
def test_amazon_beauty(spark: SparkSession, shared_data: Path) -> None:
    folder = shared_data / "amazon-beauty"
    raw = read(spark, folder / "Beauty.txt", folder / "Beauty_item2attributes.json")
    found = raw.clicks.agg(F.count("*"), F.count("problem"), F.countDistinct("user_key"), F.countDistinct("item_key")).first()
    assert found is not None
    assert tuple(found) == (198_502, 0, 22_363, 12_101)
    assert raw.items.count() == 12_101
