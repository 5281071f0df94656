"""MovieLens 100k and 1M as published, and 1M in an order-only layout without clock times.

    ml-100k   u.data (tab: user item rating ts), u.user, u.item
    ml-1m     ratings.dat (user::item::rating::ts), users.dat, movies.dat
    ordered   interactions_ordered.csv.gz (user_id,item_id,rating,pos), users.dat, movies.dat

Every rating is a click unless `source.min_weight` asks for a smallest rating. Files of these sizes are read by one task, so that
file order, which decides between ratings of the same second, is known.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, NotReadyError
from conf.settings import Settings
from spark_jobs.sources.raw import Raw, as_float, blank_to_null, click_columns

GENRES_100K = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
AGES_1M = (1, 18, 25, 35, 45, 50, 56)  # the lower bounds that ml-1m publishes; ml-100k's years are put into the same bands
OCCUPATIONS_1M = (
    *("other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive", "farmer", "homemaker"),
    *("K-12 student", "lawyer", "programmer", "retired", "sales", "scientist", "self-employed", "engineer", "tradesman"),
    *("unemployed", "writer"),
)
USER_COLUMNS, ITEM_COLUMNS = ["user_key", "age", "gender", "occupation"], ["item_key", "genres", "year", "title"]


class Layout(NamedTuple):
    """One published layout: its log, the separator, whether times are times, and readers of its users and items."""

    log: str
    separator: str
    header: bool
    has_clock: bool
    users: Callable[[Path], pd.DataFrame]
    items: Callable[[Path], pd.DataFrame]


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The ratings of the layout found at source.path.

    Raises:
        NotReadyError: no known log there. BadDataError: users or items cannot be read.
    """
    assert settings.source.path is not None
    folder = Path(settings.source.path)
    layout = detect(folder)
    try:
        users, items = layout.users(folder), layout.items(folder)
    except (OSError, ValueError) as error:
        raise BadDataError(f"source.path {folder}", [Fault("users or items cannot be read", str(error))]) from None
    return Raw(
        clicks=clicks(spark, folder / layout.log, layout.separator, header=layout.header),
        users=_frame(spark, users, USER_COLUMNS, "user_key string, age string, gender string, occupation string"),
        items=_frame(spark, items, ITEM_COLUMNS, "item_key string, genres array<string>, year string, title string").select(
            "item_key", F.lit(None).cast("bigint").alias("publish_ts"), F.lit(True).alias("eligible"), "genres", "year", "title"
        ),
        has_clock=layout.has_clock,
    )


def detect(folder: Path) -> Layout:
    """The layout whose log is in the folder; raises NotReadyError naming the logs looked for."""
    for layout in LAYOUTS:
        if (folder / layout.log).is_file():
            return layout
    looked = ", ".join(layout.log for layout in LAYOUTS)
    raise NotReadyError(
        f"source.path {folder}", [Fault("no MovieLens log there", f"looked for: {looked}", "set source.path to its folder")]
    )


def clicks(spark: SparkSession, log: Path, separator: str, *, header: bool) -> DataFrame:
    """Raw clicks of a log of lines `user SEP item SEP rating SEP time`; the line number is the order."""
    # Spark's own text reader orders the splits of a file by size; the Hadoop one keeps the file's order
    lines = spark.createDataFrame(spark.sparkContext.textFile(str(log.absolute()), 1).zipWithIndex(), "value string, row long")
    lines = lines.where("row > 0") if header else lines
    part = F.split("value", re.escape(separator))
    wrong = F.when(F.size(part) != 4, F.lit("not four values"))
    return lines.select(
        *click_columns(
            user_key=blank_to_null(part[0]),
            item_key=blank_to_null(part[1]),
            rating=as_float(part[2]),
            ts=part[3].cast("bigint"),
            seq=F.col("row"),
            problem=wrong,
            _file=F.lit(log.name),
            _row=F.col("row"),
            _raw=F.substring("value", 1, 500),
        )
    )


def _frame(spark: SparkSession, table: pd.DataFrame, columns: list[str], ddl: str) -> DataFrame:
    rows = [tuple(row) for row in table[columns].itertuples(index=False)]
    return spark.createDataFrame(rows, ddl)


def age_band(years: int) -> str:
    """The lower bound of the band, as ml-1m names it."""
    return str(max(bound for bound in AGES_1M if bound <= max(years, 1)))


def split_title(title: str) -> tuple[str, str | None]:
    """("Toy Story", "1995") of "Toy Story (1995)"; the year is None where there is none."""
    match = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", title)
    return (match.group(1), match.group(2)) if match else (title.strip(), None)


def _read(path: Path, separator: str, names: list[str]) -> pd.DataFrame:
    lines = path.read_text(encoding="latin-1").splitlines()
    return pd.DataFrame([line.split(separator) for line in lines if line], columns=names, dtype="object")


def _users_100k(folder: Path) -> pd.DataFrame:
    table = _read(folder / "u.user", "|", ["user_key", "age", "gender", "occupation", "zip"])
    return table.assign(age=table["age"].astype(int).map(age_band))


def _items_100k(folder: Path) -> pd.DataFrame:
    table = _read(folder / "u.item", "|", ["item_key", "title", "date", "video_date", "url", *GENRES_100K])
    flags = table[list(GENRES_100K)].to_numpy() == "1"
    table["genres"] = [[name for name, flag in zip(GENRES_100K[1:], row[1:], strict=True) if flag] for row in flags]
    return _with_year(table)


def _users_1m(folder: Path) -> pd.DataFrame:
    table = _read(folder / "users.dat", "::", ["user_key", "gender", "age", "occupation", "zip"])
    return table.assign(occupation=table["occupation"].astype(int).map(OCCUPATIONS_1M.__getitem__))


def _items_1m(folder: Path) -> pd.DataFrame:
    table = _read(folder / "movies.dat", "::", ["item_key", "title", "genres"])
    table["genres"] = table["genres"].str.split("|")
    return _with_year(table)


def _with_year(table: pd.DataFrame) -> pd.DataFrame:
    pairs = [split_title(title) for title in table["title"]]
    return table.assign(title=[name for name, _ in pairs], year=pd.Series([year for _, year in pairs], dtype="object"))


LAYOUTS = (
    Layout("u.data", "\t", False, True, _users_100k, _items_100k),
    Layout("ratings.dat", "::", False, True, _users_1m, _items_1m),
    Layout("interactions_ordered.csv.gz", ",", True, False, _users_1m, _items_1m),
)
