"""The erasure list: users whose rows no run keeps, by the keys that the raw data gives them."""

from dataclasses import replace

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import Fault, SchemaError
from conf.sections.source import Source
from spark_jobs.sources.files import Format, data_files, open_file, spark_path
from spark_jobs.sources.raw import Raw, blank_to_null

SETTING = "source.erasure"


def erased_keys(spark: SparkSession, source: Source) -> DataFrame | None:
    """user_key of everyone on the list, once each; None where source.erasure is not set.

    A list that ends in .csv (or .csv.gz) has a header, one that ends in .parquet has columns; any other is text, one key a line.

    Raises:
        NotReadyError: nothing is there. BadDataError: the list is empty, which is more often a copy that failed than meant.
        SchemaError: several columns, and none called user_key or as source.columns.user_key says.
    """
    path = source.erasure
    if path is None:
        return None
    endings = {name.lower().removesuffix(".gz").rpartition(".")[2] for name in data_files(path, SETTING)}
    file_format: Format | None = "csv" if endings == {"csv"} else "parquet" if endings == {"parquet"} else None
    if file_format is None:
        keys = spark.read.text(spark_path(path)).select(blank_to_null(F.col("value")).alias("user_key"))
    else:
        opened = open_file(spark, path, file_format, setting=SETTING)
        named = [name for name in (source.columns.user_key, "user_key") if name in opened.names]
        if not named and len(opened.names) > 1:
            fix = f"call the column of the users {source.columns.user_key}"
            raise SchemaError(f"{SETTING}={path}", [Fault("which column names the users?", f"found: {', '.join(opened.names)}", fix)])
        keys = opened.df.select(blank_to_null(opened.column((named or list(opened.names))[0])).alias("user_key"))
    return keys.where(F.col("user_key").isNotNull()).distinct()


def marked(raw: Raw, erased: DataFrame) -> Raw:
    """The same rows with a column `_erased` in clicks and users.

    Of rows whose user is not certain the raw text goes, for it may name an erased one.
    """
    certain = F.col("problem").isNull() & F.col("user_key").isNotNull()
    clicks = raw.clicks.withColumn("_raw", F.when(certain, F.col("_raw")))
    return replace(raw, clicks=_marked(clicks, erased), users=_marked(raw.users, erased))


def _marked(table: DataFrame, erased: DataFrame) -> DataFrame:
    found = table.join(erased.withColumn("_found", F.lit(True)), "user_key", how="left")
    return found.select(*table.columns, F.col("_found").isNotNull().alias("_erased"))


def count_erased(clicks: DataFrame, users: DataFrame) -> int:
    """Erased users that the log or the table of users names; both have `_erased`."""
    return clicks.where("_erased").select("user_key").union(users.where("_erased").select("user_key")).distinct().count()
