"""The rows of an exposure log, in our names, and what becomes of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import Fault, SchemaError
from conf.schemas.inputs import EXPOSURES
from conf.sections.experiment import Ab
from conf.tables import check_columns
from spark_jobs.schema import type_name
from spark_jobs.sources.files import Opened, open_file
from spark_jobs.sources.guess import nearest
from spark_jobs.sources.raw import blank_to_null

NUMBERS: Final = tuple(column.name for column in EXPOSURES.columns if column.type == "float64")
# type of a column of `exposures` -> what it can be read from, and the words for that
READ_FROM: Final[Mapping[str, tuple[tuple[type[T.DataType], ...], str]]] = {
    "string": ((T.AtomicType,), "one value"),
    "date": ((T.StringType, T.DateType, T.TimestampType, T.TimestampNTZType), "a day"),
    "float64": ((T.NumericType, T.StringType, T.BooleanType), "a number"),
}
USED, PROBLEMS = "used", ("unreadable row", "no user", "no such day", "a number that cannot be read or is below 0", "no such arm")
OUTSIDE, NOT_SHOWN = "after the test", "nothing was shown"
EARLIER = "before ab.pre_days, for who was cold alone"


@dataclass(frozen=True)
class Window:
    """The days of the test, both included, and how many before it count."""

    start: date
    end: date
    pre_days: int

    @property
    def num_days(self) -> int:
        """Of the test."""
        return (self.end - self.start).days + 1


def open_exposures(spark: SparkSession, chosen: Ab) -> DataFrame:
    """The columns of table `exposures` (docs/tables.md), and _bad.

    Raises:
        SchemaError: every column that is not there, or is of a type that cannot be read, at once. NotReadyError, BadDataError: the file.
    """
    assert chosen.path is not None
    log = open_file(spark, chosen.path, chosen.format, separator=chosen.separator, setting="ab.path")
    named = {role: name for role, name in chosen.columns.model_dump().items() if name is not None}
    faults = [_missing(role, name, log) for role, name in named.items() if name not in log.names]
    faults += [fault for role, name in named.items() if name in log.names and (fault := _unfit(role, name, log))]
    if faults:
        raise SchemaError(f"ab.path={chosen.path}", faults)
    column = {role: log.column(name) for role, name in named.items()}
    numbers = {name: _number(column[name]) if name in column else F.lit(0.0) for name in NUMBERS}
    if "exposed" not in column:
        numbers["exposed"] = F.lit(1.0)
    if "dwell_s" not in column:
        numbers["dwell_s"] = numbers["play_s"]
    registered = F.to_date(column["registered"].cast("string")) if "registered" in column else F.lit(None).cast("date")
    keys = [blank_to_null(column[name]).alias(name) for name in ("user", "arm")]
    values = [value.alias(name) for name, value in numbers.items()]
    day = F.to_date(column["day"].cast("string")).alias("day")
    rows = log.df.select(*keys, day, registered.alias("registered"), *values, "_bad")
    wrong = check_columns(EXPOSURES, {field.name: type_name(field.dataType) for field in rows.drop("_bad").schema})
    assert not wrong, wrong
    return rows


def _missing(role: str, name: str, log: Opened) -> Fault:
    near = nearest(role, name, log.names)
    hint = f"did you mean: ab.columns.{role}: {near} ?" if near else f"set ab.columns.{role}"
    return Fault(f"column {name!r} is missing", f"found: {', '.join(log.names)}", hint)


def _unfit(role: str, name: str, log: Opened) -> Fault | None:
    """What is wrong with the type that the column has in the file."""
    kinds, wanted = READ_FROM[next(column.type for column in EXPOSURES.columns if column.name == role)]
    kind = log.kind(name)
    return None if isinstance(kind, kinds) else Fault(f"column {name!r} is {type_name(kind)}, want {wanted}", fix=f"set ab.columns.{role}")


def _number(column: Column) -> Column:
    """double; 0 where nothing is written, null where it is no finite number from 0 on."""
    value = column.cast("double")
    return F.when(blank_to_null(column).isNull(), 0.0).when((value >= 0) & (value < float("inf")), value)


def judge(rows: DataFrame, window: Window, arms: Mapping[str, float]) -> DataFrame:
    """The rows with what becomes of each as `fate`, and `at`: days since the start, below 0 before it."""
    at = F.datediff("day", F.lit(window.start))
    unreadable, no_user, no_day, no_number, no_arm = PROBLEMS
    bad_number = [F.col(name).isNull() for name in NUMBERS]
    in_test = (at >= 0) & (at < window.num_days)
    fate = (
        F.when(F.col("_bad").isNotNull(), unreadable)
        .when(F.col("user").isNull(), no_user)
        .when(F.col("day").isNull(), no_day)
        .when(F.greatest(*(bad.cast("int") for bad in bad_number)) > 0, no_number)
        .when(at >= window.num_days, OUTSIDE)
        .when(F.col("exposed") == 0, NOT_SHOWN)
        .when(in_test & ~F.coalesce(F.col("arm").isin(*arms), F.lit(False)), no_arm)  # before the test nobody needs to have one
        .when(at < -window.pre_days, EARLIER)
        .otherwise(USED)
    )
    return rows.withColumn("fate", fate).withColumn("at", at)
