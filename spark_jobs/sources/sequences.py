"""One user a line: `user item item ...`, items in time order, no clock; optionally a JSON file {item: [attributes]}."""

import json
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, NotReadyError
from conf.settings import Settings
from spark_jobs.sources.raw import Raw, click_columns


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The sequences at source.path (a file or folder of text files), with the attributes at source.attributes.

    ts and seq are the position in the user's line.

    Raises:
        NotReadyError: a file is not there. BadDataError: the attributes are not {item: [values]}.
    """
    assert settings.source.path is not None
    if not Path(settings.source.path).exists():
        raise NotReadyError("source.path", [Fault("no such file", settings.source.path)])
    words = F.split(F.trim("value"), r"\s+")
    lines = spark.read.text(settings.source.path).where(F.trim("value") != "").select("value", F.input_file_name().alias("file"))
    # a length of 2**31 - 1 would overflow where Spark interprets the plan, as it does when generated code grows too long
    items = F.slice(words, F.lit(2), F.size(words))
    exploded = lines.select("value", "file", words[0].alias("user"), F.posexplode(items).alias("position", "item"))
    empty = lines.where(F.size(words) < 2).select("value", "file")
    clicks = exploded.select(
        *click_columns(
            user_key=F.col("user"),
            item_key=F.col("item"),
            ts=F.col("position"),
            seq=F.col("position"),
            _file=F.col("file"),
            _raw=F.substring("value", 1, 500),
        )
    )
    refused = empty.select(*click_columns(problem=F.lit("a user without items"), _file=F.col("file"), _raw=F.substring("value", 1, 500)))
    pairs = read_attributes(settings.source.attributes)
    catalogue = spark.createDataFrame(pairs, "item_key string, attributes array<string>")
    return Raw(
        clicks=clicks.unionAll(refused),
        users=clicks.select("user_key").limit(0),
        items=catalogue.select("item_key", F.lit(None).cast("bigint").alias("publish_ts"), F.lit(True).alias("eligible"), "attributes"),
        has_clock=False,
    )


def read_attributes(path: str | None) -> list[tuple[str, list[str]]]:
    """(item, values) of each item in the file; [] where there is none."""
    if path is None:
        return []
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return [(str(item), [str(value) for value in values]) for item, values in data.items()]
    except FileNotFoundError:
        raise NotReadyError("source.attributes", [Fault("no such file", path)]) from None
    except (ValueError, AttributeError, TypeError) as error:
        raise BadDataError(f"source.attributes {path}", [Fault("is not JSON {item: [values]}", str(error))]) from None
