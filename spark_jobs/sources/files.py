"""Raw files read as they are: columns by position (so that no column name can hurt), with the file each row came from.

Every reader gives the columns c0, c1, ... plus `_file`, `_row` (-1 where the reader does not know it) and `_bad` (the text of a row
that does not parse, else null).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.lib
from pyarrow import fs as pafs
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.errors import BadDataError, Fault, NotReadyError, SchemaError
from conf.files import open_root

Format = Literal["csv", "json", "parquet"]
_BAD = "__trichannel_bad_row"


@dataclass(frozen=True)
class Opened:
    """A file or folder, opened. names[i], kinds[i]: name and type of column c<i> in the file. ordered: `_row` is known."""

    path: str
    df: DataFrame
    names: tuple[str, ...]
    kinds: tuple[T.DataType, ...]
    ordered: bool = False

    def column(self, name: str) -> Column:
        """The column of this name; raises ValueError if there is none."""
        return F.col(f"c{self.names.index(name)}")

    def kind(self, name: str) -> T.DataType:
        """Its type."""
        return self.kinds[self.names.index(name)]


def data_files(path: str, setting: str) -> list[str]:
    """The files at `path` (a file, or a folder without its hidden and _ files), as paths of its own file system, sorted.

    Raises:
        NotReadyError: nothing is there. BadDataError: nothing but empty files, or zip archives, which Spark would read as text.
    """
    filesystem, root = open_root(path)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise NotReadyError(f"{setting}={path}", [Fault("is not there", fix=f"give the right path: --set {setting}=PATH")])
    infos = [info]
    if info.type == pafs.FileType.Directory:
        infos = [i for i in filesystem.get_file_info(pafs.FileSelector(root, recursive=True)) if i.type == pafs.FileType.File]
        infos = [i for i in infos if not any(part.startswith(("_", ".")) for part in i.path[len(root) :].split("/") if part)]
    filled = sorted(i.path for i in infos if i.size)
    if not filled:
        raise BadDataError(f"{setting}={path}", [Fault("is empty", f"{len(infos)} files, none with any data")])
    zipped = [name for name in filled if name.lower().endswith(".zip")]
    if zipped:
        raise BadDataError(f"{setting}={path}", [Fault(f"{name} is a zip archive", fix="unpack it; gz is read") for name in zipped[:5]])
    return filled


def spark_path(path: str) -> str:
    """The path as Spark takes it: local ones as file:, characters that would be read as a pattern escaped."""
    full = path if "://" in path else f"file://{Path(path).expanduser().resolve()}"
    return "".join(f"\\{c}" if c in "{}[]*?\\" else c for c in full)


def open_file(
    spark: SparkSession, path: str, file_format: Format, *, separator: str = ",", setting: str, multi_line: bool = False
) -> Opened:
    """Open raw data of a format; `setting` names the setting that holds the path, for messages."""
    files = data_files(path, setting)
    if file_format == "csv":
        return _open_csv(spark, path, files, separator, setting, multi_line)
    return _open_typed(spark, path, files, file_format, setting)


def common_header(headers: Mapping[str, Sequence[str]], path: str, setting: str) -> list[str]:
    """The column names that all csv files (name -> header) share; SchemaError where one differs from the first, or a name stands twice."""
    main, names = next(iter(headers.items()))
    faults = [
        Fault(f"{name} has other columns than {main}", f"found: {', '.join(header)}", f"want: {', '.join(names)}")
        for name, header in headers.items()
        if header != names
    ]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    faults += [Fault(f"two columns are called {name!r}", fix="rename one of them") for name in twice]
    if faults:
        raise SchemaError(f"{setting}={path}", faults)
    return list(names)


def _open_csv(spark: SparkSession, path: str, files: Sequence[str], separator: str, setting: str, multi_line: bool) -> Opened:
    filesystem, _ = open_root(path)
    headers = {name: _header(filesystem, name, separator) for name in files}
    names = common_header(headers, path, setting)
    df = read_csv(spark, path, len(names), separator=separator, multi_line=multi_line)
    found = tuple(df.columns)
    partitions = found[len(names) : found.index("_file")]  # Spark adds one for each folder named key=value
    renamed = df.select(
        *(F.col(name).alias(f"c{i}") for i, name in enumerate(found[: len(names) + len(partitions)])), "_file", "_row", "_bad"
    )
    kinds = tuple(field.dataType for field in renamed.schema.fields[:-3])
    return Opened(path, renamed, (*names, *partitions), kinds)


def _header(filesystem: pafs.FileSystem, name: str, separator: str) -> list[str]:
    try:
        with filesystem.open_input_stream(name) as stream:  # decompresses by extension
            line = stream.read(1 << 20).decode("utf-8-sig", errors="replace").splitlines()[0]
    except (OSError, EOFError, IndexError, pyarrow.lib.ArrowException) as error:
        raise BadDataError(name, [Fault("cannot be read", str(error), "restore the file")]) from None
    return next(csv.reader([line], delimiter=separator))


def read_csv(
    spark: SparkSession,
    path: str,
    num_columns: int,
    *,
    separator: str = ",",
    header: bool = True,
    encoding: str = "UTF-8",
    quote: str = '"',
    multi_line: bool = False,
) -> DataFrame:
    """A csv file as strings c0.., `_file`, `_row`, `_bad`. quote: "" = none. Rows of another length keep what fits, and are `_bad`."""
    fields = [T.StructField(f"c{i}", T.StringType()) for i in range(num_columns)] + [T.StructField(_BAD, T.StringType())]
    df = (
        spark.read.schema(T.StructType(fields))
        .options(header=header, sep=separator, encoding=encoding, quote=quote, multiLine=multi_line)
        .options(escape='"' if quote else "\\", columnNameOfCorruptRecord=_BAD, mode="PERMISSIVE", columnPruning=False)
        .csv(spark_path(path))
    )
    kept = [name for name in df.columns if name != _BAD]
    return df.select(*kept, F.input_file_name().alias("_file"), F.lit(-1).cast("bigint").alias("_row"), F.col(_BAD).alias("_bad"))


def _open_typed(spark: SparkSession, path: str, files: Sequence[str], file_format: Format, setting: str) -> Opened:
    reader = spark.read.option("columnNameOfCorruptRecord", _BAD)
    try:
        df = reader.parquet(spark_path(path)) if file_format == "parquet" else reader.json(spark_path(path))
    except AnalysisException as error:
        raise SchemaError(f"{setting}={path}", [Fault(f"cannot be read as {file_format}", str(error).splitlines()[0])]) from None
    except Exception as error:
        if file_format == "parquet":
            raise _bad_parquet(path, files, setting, error) from error
        raise
    fields = [(i, field) for i, field in enumerate(df.schema.fields) if field.name != _BAD]
    if not fields:
        raise BadDataError(
            f"{setting}={path}", [Fault(f"{name} holds no row of {file_format}", fix="check the format") for name in files[:5]]
        )
    row = df.metadataColumn("_metadata").getField("row_index") if file_format == "parquet" else F.lit(-1)
    bad = next((i for i, field in enumerate(df.schema.fields) if field.name == _BAD), None)
    extra = [F.input_file_name().alias("_file"), row.cast("bigint").alias("_row")]
    positional = df.select("*", *extra).toDF(*(f"p{i}" for i in range(len(df.columns))), "_file", "_row")
    renamed = positional.select(
        *(F.col(f"p{at}").alias(f"c{i}") for i, (at, _) in enumerate(fields)),
        "_file",
        "_row",
        (F.lit(None).cast("string") if bad is None else F.col(f"p{bad}")).alias("_bad"),
    )
    names, kinds = tuple(field.name for _, field in fields), tuple(field.dataType for _, field in fields)
    return Opened(path, renamed, names, kinds, ordered=file_format == "parquet")


def _bad_parquet(path: str, files: Sequence[str], setting: str, error: Exception) -> BadDataError:
    import pyarrow.parquet as pq

    filesystem, _ = open_root(path)
    faults = []
    for name in files:
        try:
            with filesystem.open_input_file(name) as handle:
                pq.ParquetFile(handle)
        except (OSError, pyarrow.lib.ArrowException) as broken:
            faults.append(Fault(f"{name} is no readable Parquet file", str(broken).splitlines()[0], "restore or remove the file"))
    return BadDataError(f"{setting}={path}", faults or [Fault("cannot be read as Parquet", str(error).splitlines()[0])])
