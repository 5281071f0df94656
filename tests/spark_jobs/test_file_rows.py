"""Numbered lines: files that are not cut the same way twice, and archives that are no text."""

from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.errors import BadDataError
from spark_jobs.sources.file_rows import numbered_lines

BLOCK = "spark.sql.files.maxPartitionBytes"


@pytest.mark.parametrize(("first", "second"), [("200", "70"), ("70", "200")])
def test_lines_are_never_lost_to_other_blocks(spark: SparkSession, tmp_path: Path, first: str, second: str) -> None:
    """As when executors join between two reads: Spark then cuts small files anew."""
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {n:03}\n" for n in range(100)), encoding="utf-8")
    before = {key: spark.conf.get(key) for key in (BLOCK, "spark.sql.files.openCostInBytes")}
    try:
        spark.conf.set("spark.sql.files.openCostInBytes", "1")
        spark.conf.set(BLOCK, first)
        lines = numbered_lines(spark, str(log), setting="source.path")
        assert [(row["value"], row["_row"]) for row in lines.orderBy("_row").collect()] == [(f"line {n:03}", n) for n in range(100)]
        spark.conf.set(BLOCK, second)
        with pytest.raises(PySparkException, match="was cut into other blocks"):
            lines.select("_row").distinct().collect()
    finally:
        for key, old in before.items():
            spark.conf.set(key, str(old))


def test_zip_archives_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    """As UserBehavior.csv is published: Spark would take the compressed bytes for lines."""
    (tmp_path / "UserBehavior.csv.zip").write_bytes(b"PK")
    with pytest.raises(BadDataError, match=r"UserBehavior\.csv\.zip is a zip archive   unpack it"):
        numbered_lines(spark, str(tmp_path), setting="source.path")
