"""Taobao's UserBehavior.csv as published: no header, lines `user,item,category,behaviour,time`; 100 million of them.

Behaviours are pv (a view), buy, cart and fav; which of them are clicks, and what each weighs, says `source.event_types`. ComiRec and
MIC keep pv only. Times are epoch seconds of 2017-11-25 to 2017-12-03 in China; a few thousand rows of the published file lie years
outside, which `source.train_days` drops and counts.
"""

from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.settings import Settings
from spark_jobs.sources.file_rows import in_file_order, numbered_lines
from spark_jobs.sources.files import spark_path
from spark_jobs.sources.raw import BAD_TIME, Raw, blank_to_null, chosen_fields, click_columns

BEHAVIOURS: Final = ("pv", "buy", "cart", "fav")


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The behaviours at source.path: the file, gz or not, or a folder of its parts. An item's category comes from the log itself.

    Raises:
        NotReadyError: nothing there. BadDataError: empty or damaged. SchemaError: source.fields names what the file does not hold.
    """
    path = settings.source.path
    assert path is not None
    log = parse(numbered_lines(spark, path, setting="source.path"))
    items = catalogue(parse(spark.read.text(spark_path(path))))
    users = spark.createDataFrame([], "user_key string")
    fields = settings.source.resolved_fields()
    return Raw(
        clicks=log.select(
            *click_columns(
                user_key=F.col("user_key"),
                item_key=F.col("item_key"),
                ts=F.col("ts"),
                seq=in_file_order(log),
                event_type=F.coalesce("behaviour", F.lit("")),
                problem=F.col("problem"),
                _file=F.col("_file"),
                _row=F.col("_row"),
                _raw=F.substring("value", 1, 500),
            )
        ),
        users=users.select("user_key", *chosen_fields(users, "user", fields.user)),
        items=items.select("item_key", "publish_ts", "eligible", *chosen_fields(items, "item", fields.item)),
        has_clock=True,
    )


def parse(lines: DataFrame) -> DataFrame:
    """Lines with `value` -> user_key, item_key, category, behaviour, ts and `problem` beside them; null = blank or not readable."""
    split = lines.withColumn("_part", F.split("value", ",")).withColumns(
        {
            "user_key": blank_to_null(F.col("_part")[0]),
            "item_key": blank_to_null(F.col("_part")[1]),
            "category": blank_to_null(F.col("_part")[2]),
            "behaviour": blank_to_null(F.col("_part")[3]),
            "_ts": blank_to_null(F.col("_part")[4]),
            "ts": F.trim(F.col("_part")[4]).cast("bigint"),
        }
    )
    problem = (
        F.when(F.size("_part") != 5, F.lit("not five values"))
        .when(~F.coalesce(F.col("behaviour").isin(*BEHAVIOURS), F.lit(False)), F.lit(f"behaviour is none of {', '.join(BEHAVIOURS)}"))
        .when(F.col("ts").isNull() & F.col("_ts").isNotNull(), F.lit(BAD_TIME))
    )
    return split.withColumn("problem", problem).drop("_part", "_ts")


def catalogue(rows: DataFrame) -> DataFrame:
    """item_key, publish_ts, eligible, category of every item in a readable row, whatever its behaviour."""
    pairs = rows.where(F.col("problem").isNull() & F.col("item_key").isNotNull()).select("item_key", "category").distinct()
    return pairs.select("item_key", F.lit(None).cast("bigint").alias("publish_ts"), F.lit(True).alias("eligible"), "category")
