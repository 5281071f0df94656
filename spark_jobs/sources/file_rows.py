"""Click logs in csv and JSON lines with the exact place of every row, whatever the number of partitions.

Spark cuts files into blocks and knows no row numbers. A first pass counts the lines of each block; a row's number is the lines of the
blocks before it plus its place in its own. One row is one line: a quoted csv value may hold separators and doubled quotes, but no
line break. Files are taken in the order of their paths.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn
from urllib.parse import unquote

from py4j.protocol import Py4JError  # type: ignore[import-untyped]  # it comes without types
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import BadDataError, Fault, TrichannelError
from spark_jobs.sources.files import Format, Opened, common_header, data_files, open_file, spark_path

BAD = "__trichannel_bad_row"
CUT_ANEW = "the log was cut into other blocks when it was read again: its files changed, or the cluster grew meanwhile. Run the job again"
NUMBERED_FILES = 1_000  # folders of more files are ordered by a hash of their names: a list of names would be looked through for every row


def open_log(spark: SparkSession, path: str, file_format: Format, separator: str, *, setting: str) -> Opened:
    """A click log whose rows are numbered from 0 in each file (`_row`; the csv header is not counted, blank lines are).

    Raises:
        NotReadyError: nothing at the path. BadDataError: empty or damaged. SchemaError: the files of a folder differ in their columns.
    """
    data_files(path, setting)  # says what is wrong with a path better than Spark does
    with naming_the_file(path, setting):
        if file_format == "parquet":
            log = open_file(spark, path, file_format, setting=setting)
            log.df.agg(*[F.count(f"c{i}") for i in range(len(log.names))]).collect()  # decodes every page: damage shows here, by name
            return log
        if file_format == "json":
            return _json(spark, _numbered_lines(spark, path)[0], path, setting)
        lines, first = _numbered_lines(spark, path, header=True)
        return _csv(lines, first, path, separator, setting)


def numbered_lines(spark: SparkSession, path: str, *, setting: str) -> DataFrame:
    """value, _file, _row of each line that is not blank, in text files without a header; rows are numbered from 0 in each file.

    Raises:
        NotReadyError: nothing at the path. BadDataError: empty or damaged.
    """
    data_files(path, setting)
    with naming_the_file(path, setting):
        return _numbered_lines(spark, path)[0]


def in_file_order(df: DataFrame) -> Column:
    """int64 that orders the rows of numbered files: by file, in the order of their paths, then by `_row`."""
    files = sorted(df.inputFiles())
    if len(files) == 1:
        return F.col("_row")
    number = F.array_position(F.lit(files), F.col("_file")) if len(files) <= NUMBERED_FILES else F.abs(F.xxhash64("_file")) % 2**22
    return number * F.lit(2**40) + F.col("_row")


@contextmanager
def naming_the_file(path: str, setting: str) -> Iterator[None]:
    """Turn Spark's errors while reading into BadDataError that names the damaged file."""
    try:
        yield
    except TrichannelError:
        raise
    except (PySparkException, Py4JError) as error:
        _refuse(str(error), path, setting)


def _refuse(message: str, path: str, setting: str) -> NoReturn:
    named = re.search(r"while reading file (file:\S+?|\S+://\S+?)\.?\s", message)
    file = unquote(named.group(1)) if named else path
    causes = re.findall(r"Caused by: (?:[\w$]+\.)*([\w$]+: [^\n]{1,200})", message)
    found = causes[-1] if causes else message.strip().splitlines()[0][:200]
    raise BadDataError(f"{setting}={path}", [Fault(f"{file} cannot be read", found, "restore or remove the file")]) from None


def _numbered_lines(spark: SparkSession, path: str, *, header: bool = False) -> tuple[DataFrame, dict[str, str]]:
    """value, _file, _row of each line that is not blank; and the header line of each file, if they have one.

    Spark's own row ids are consecutive inside a block, in reading order; only differences of them are used.
    """
    place = [F.input_file_name().alias("_file"), F.col("_metadata.file_block_start").alias("_block")]
    ids = F.monotonically_increasing_id().alias("_id")
    lines = spark.read.text(spark_path(path)).select("value", *place, ids)
    # min_by of a text makes Spark sort all lines instead of hashing them: only where the first line is needed
    line = F.min_by("value", "_id") if header else F.lit(None).cast("string")
    blocks = lines.groupBy("_file", "_block").agg(F.min("_id").alias("first"), F.count("*").alias("rows"), line.alias("line"))
    found = sorted(blocks.collect(), key=lambda row: (row["_file"], row["_block"]))
    offsets = spark.createDataFrame(_offsets(found), "_file string, _block bigint, _first bigint, _rows bigint, _before bigint")
    inside = F.col("_id") - F.col("_first")
    # Two reads cut a file alike unless something changed between them; then lines would be lost or numbered wrongly
    known = (inside >= 0) & (inside < F.col("_rows"))
    number = F.when(known, F.col("_before") + inside - int(header)).otherwise(F.raise_error(F.lit(CUT_ANEW)).cast("bigint"))
    numbered = lines.join(F.broadcast(offsets), ["_file", "_block"], how="left").select("value", "_file", number.alias("_row"))
    first = {row["_file"]: row["line"] for row in reversed(found)} if header else {}
    return numbered.where((F.trim("value") != "") & (F.col("_row") >= 0)), first


def _offsets(blocks: Sequence[Row]) -> list[tuple[str, int, int, int, int]]:
    """(file, block, Spark's id of its first line, its lines, the lines of the file before it) of blocks in order."""
    offsets, before = [], {row["_file"]: 0 for row in blocks}
    for row in blocks:
        offsets.append((row["_file"], row["_block"], row["first"], row["rows"], before[row["_file"]]))
        before[row["_file"]] += row["rows"]
    return offsets


def split_header(line: str, separator: str) -> list[str]:
    """The column names of a csv header, without byte-order mark, quotes and spaces around them."""
    line = line.removeprefix("\ufeff")
    names = next(csv.reader([line], delimiter=separator), []) if len(separator) == 1 else line.split(separator)
    return [name.strip() for name in names]


def _csv(lines: DataFrame, first: Mapping[str, str], path: str, separator: str, setting: str) -> Opened:
    names = common_header({unquote(file): split_header(line, separator) for file, line in sorted(first.items())}, path, setting)
    schema = T.StructType([T.StructField(f"c{i}", T.StringType()) for i in range(len(names))] + [T.StructField(BAD, T.StringType())])
    options = {"sep": separator, "quote": '"', "escape": '"', "mode": "PERMISSIVE", "columnNameOfCorruptRecord": BAD}
    parsed = F.from_csv("value", schema.simpleString(), options)
    return Opened(path, _by_position(lines, parsed, len(names)), tuple(names), (T.StringType(),) * len(names), ordered=True)


def _json(spark: SparkSession, lines: DataFrame, path: str, setting: str) -> Opened:
    """Values as text (lists as lists of text), with the types that the whole file shows."""
    found = spark.read.option("columnNameOfCorruptRecord", BAD).json(spark_path(path)).schema.fields
    fields = [field for field in found if field.name != BAD]
    if not fields:
        raise BadDataError(
            f"{setting}={path}", [Fault("no line is a JSON object", fix="want JSON lines: one object a line; or set the format")]
        )
    kinds = [T.ArrayType(T.StringType()) if isinstance(field.dataType, T.ArrayType) else T.StringType() for field in fields]
    schema = T.StructType([T.StructField(field.name, kind) for field, kind in zip(fields, kinds, strict=True)]).add(BAD, T.StringType())
    parsed = F.from_json("value", schema, {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": BAD})
    named = [F.col("_parsed").getField(field.name).alias(f"c{i}") for i, field in enumerate(fields)]
    values = F.struct(*named, F.col("_parsed").getField(BAD).alias(BAD))
    df = _by_position(lines.withColumn("_parsed", parsed), values, len(fields))
    return Opened(path, df, tuple(field.name for field in fields), tuple(field.dataType for field in fields), ordered=True)


def _by_position(lines: DataFrame, values: Column, num_columns: int) -> DataFrame:
    columns = [F.col(f"_values.c{i}").alias(f"c{i}") for i in range(num_columns)]
    return lines.withColumn("_values", values).select(*columns, "_file", "_row", F.col(f"_values.{BAD}").alias("_bad"))
