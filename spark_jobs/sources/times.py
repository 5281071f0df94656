"""Times in any of the formats of `source.ts_format`, as epoch seconds. Spark's session time zone must be UTC (the job runner sets it)."""

import re
import zoneinfo
from typing import Final

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark_jobs.sources.raw import FIRST_MS, FIRST_TS, LAST_TS

EPOCH_S, EPOCH_MS, ISO8601, ORDER = "epoch_s", "epoch_ms", "iso8601", "order"
NAMED: Final = (EPOCH_S, EPOCH_MS, ISO8601, ORDER)

_ISO: Final = r"^(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{1,2}:\d{2})(:\d{2}(?:\.\d+)?)?\s*([Zz]|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"


def epoch_seconds(column: Column, kind: T.DataType, ts_format: str, timezone: str) -> Column:
    """int64 epoch seconds, fractions cut off; null where the value is no time in this format, or not of the years 1970 to 2100.

    kind: type of the column. timezone: of times that carry none. Under `order`, the whole number itself, whatever its size.
    """
    if ts_format == ORDER:
        number = column.cast("double")
        return F.when(number == F.floor(number), column.cast("decimal(38,0)").cast("bigint"))
    seconds = _seconds(column, kind, ts_format, timezone)
    return F.when((seconds >= FIRST_TS) & (seconds < LAST_TS), seconds)


def in_milliseconds(column: Column, kind: T.DataType, ts_format: str) -> Column:
    """Whether a value that the format takes for seconds can only be meant as milliseconds; null where it is no number."""
    if ts_format != EPOCH_S or not isinstance(kind, T.StringType | T.NumericType):
        return F.lit(False)
    number = _seconds(column, kind, EPOCH_S, "UTC")
    return (number >= FIRST_MS) & (number < LAST_TS * 1000)


def _seconds(column: Column, kind: T.DataType, ts_format: str, timezone: str) -> Column:
    if isinstance(kind, T.TimestampType):
        return F.floor(column.cast("double")).cast("bigint")
    if isinstance(kind, T.DateType | T.TimestampNTZType):
        return _iso(column.cast("string"), timezone)
    if ts_format in (EPOCH_S, EPOCH_MS):
        unit = 1 if ts_format == EPOCH_S else 1000
        number = F.trim(column).cast("double") if isinstance(kind, T.StringType) else column.cast("double")
        return F.floor(number / unit).cast("bigint")
    text = F.trim(column.cast("string"))
    if ts_format == ISO8601:
        return _iso(text, timezone)
    if not _has_zone(ts_format):
        text, ts_format = F.concat(text, F.lit(f" {timezone}")), f"{ts_format} VV"
    return F.floor(F.try_to_timestamp(text, F.lit(ts_format)).cast("double")).cast("bigint")


def _iso(text: Column, timezone: str) -> Column:
    date, minutes, seconds, zone = (F.regexp_extract(text, _ISO, group) for group in (1, 2, 3, 4))
    zone = F.regexp_replace(zone, r"^([+-]\d{2})(\d{2})$", "$1:$2")
    whole = F.concat_ws(
        " ",
        date,
        F.concat(F.when(minutes == "", "00:00").otherwise(minutes), F.when(seconds == "", ":00").otherwise(seconds)),
        F.when(zone == "", timezone).otherwise(zone),
    )
    # without a date Spark would read the rest as a time of today
    return F.when(date != "", F.floor(whole.cast("timestamp").cast("double")).cast("bigint"))


def _has_zone(pattern: str) -> bool:
    return bool(re.search("[VzOXxZ]", re.sub(r"'[^']*'", "", pattern)))


def format_fault(spark: SparkSession, ts_format: str) -> str | None:
    """Why Spark refuses this `source.ts_format`, or None if it takes it."""
    if ts_format in NAMED:
        return None
    try:
        spark.range(1).select(epoch_seconds(F.lit("x"), T.StringType(), ts_format, "UTC")).first()
    except (PySparkException, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def zone_fault(name: str) -> str | None:
    """Why this is no time zone, or None if it is one."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return f"{name!r} is no time zone; use a name like Europe/Paris, or UTC"
    return None


def day_of(ts: Column, timezone: str) -> Column:
    """YYYY-MM-DD of epoch seconds in a time zone."""
    if timezone == "UTC":
        return F.date_from_unix_date(F.floor(ts / 86_400).cast("int")).cast("string")
    return F.from_utc_timestamp(F.timestamp_seconds(ts), timezone).cast("date").cast("string")
