"""The Spark session, and errors of Spark in our words."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from conf.errors import BadDataError, Fault, StorageError, TrichannelError


@contextmanager
def running(name: str, *, hive: bool = False) -> Iterator[SparkSession]:
    """The session of `session` for the block, stopped after it."""
    spark = session(name, hive=hive)
    try:
        yield spark
    except BaseException:
        with suppress(Exception):  # Spark itself may be what died: its end must not hide the error that says why
            spark.stop()
        raise
    spark.stop()


def session(name: str, *, hive: bool = False) -> SparkSession:
    """The active session, or a new one; started by plain Python, it takes its sizes from the packaged local.conf.

    hive: a new one has the catalogue that Spark's configuration names (hive-site.xml; without one, Derby in the working folder).
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ and "PYSPARK_SUBMIT_ARGS" not in os.environ:
        sizes = resources.files("conf").joinpath("spark/local.conf")
        with resources.as_file(sizes) as path:
            os.environ["PYSPARK_SUBMIT_ARGS"] = f"--properties-file {shlex.quote(str(path))} pyspark-shell"
            return _session(name, hive=hive)
    return _session(name, hive=hive)


def _session(name: str, *, hive: bool) -> SparkSession:
    # Executors must run the interpreter that runs the driver; a cluster overrides it by its own setting.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.enableHiveSupport() if hive else SparkSession.builder
    spark = (
        builder.appName(f"trichannel-{name}")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .config("spark.sql.ansi.enabled", "false")  # a value that does not parse becomes null and is counted, not a failed job
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


# ---- errors of Spark in our words ----------------------------------------------------------------------------------

_CORRUPT = (
    "is not a Parquet file",
    "Parquet magic bytes not found",  # the same, by pyarrow
    "Could not read footer",
    "FAILED_READ_FILE",
    "CANNOT_READ_FILE_FOOTER",
    "not a gzip file",
    "MALFORMED_",
)


def known(error: BaseException, where: str) -> BaseException:
    """The error as one of ours where the cause is known, else the error itself."""
    if isinstance(error, TrichannelError) or not isinstance(error, Exception):
        return error
    text = _full_text(error)
    if "No space left on device" in text:
        return StorageError(f"job {where}", [Fault("the disk is full", fix="free space or change storage.root, then run again")])
    if any(sign in text for sign in _CORRUPT):
        lines = [line.strip() for line in text.splitlines() if any(sign in line for sign in _CORRUPT)]
        return BadDataError(
            f"job {where}", [Fault("a file cannot be read", lines[0][:300], "restore the file, or run the job that wrote it")]
        )
    return error


def _full_text(error: BaseException) -> str:
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    java = getattr(error, "java_exception", None)
    if java is not None:
        texts.append(str(java.toString()))
    if isinstance(error, PySparkException):
        texts.append(str(getattr(error, "_stackTrace", "") or ""))
    return "\n".join(texts)
