"""Amazon's product data as published by McAuley et al.: reviews, one a line, and the metadata of the products.

    source.path         reviews_Books_5.json (2014) or Books_5.json (2018), gz or not: reviewerID, asin, overall, unixReviewTime, ...
    source.items.path   meta_Books.json: asin, title, price, brand, categories, ...; strict JSON (2018), or Python literals (2014)

Every review is a click unless `source.min_weight` asks for a smallest rating. Times have the resolution of a day: the reviews a user
wrote on one day tie, and the order of the file decides between them. gz files are read by one task each; unpack what is large.

Sources: McAuley et al. 2015; Ni et al. 2019. The category of an item is the last name of its last path, as in DIN (Zhou et al. 2018).
"""

import ast
import html
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.errors import Fault, SchemaError
from conf.settings import Settings
from spark_jobs.sources.file_rows import BAD, in_file_order, numbered_lines
from spark_jobs.sources.raw import BAD_TIME, UNREADABLE, Raw, as_float, blank_to_null, chosen_fields, click_columns

REVIEW: Final = f"reviewerID string, asin string, overall string, unixReviewTime string, {BAD} string"
PRODUCT: Final = (
    "item_key string, main_category string, category string, brand string, price_band string, categories array<string>, title string, "
    "problem string, _file string, _row bigint, _raw string"
)
PRICE_BANDS: Final = (0, 2, 5, 10, 20, 50, 100, 200, 500)  # lower bounds in dollars, which also name the bands
NO_METADATA: Final = "metadata cannot be read"
NO_ASIN: Final = "metadata without asin"


def source(spark: SparkSession, settings: Settings, ds: str) -> Raw:
    """The reviews at source.path and the products at source.items.path (each a file or a folder of files).

    Lines of metadata that cannot be read are refused beside the clicks.

    Raises:
        NotReadyError: nothing there. BadDataError: empty or damaged. SchemaError: item fields without metadata, or fields it does not hold.
    """
    s = settings.source
    assert s.path is not None
    clicks = reviews(numbered_lines(spark, s.path, setting="source.path"))
    users = spark.createDataFrame([], "user_key string")
    fields = s.resolved_fields()
    if s.items.path is None:
        if fields.item:
            fix = "set source.items.path to the metadata file (meta_*.json), or source.fields: {user: {}, item: {}}"
            raise SchemaError("source", [Fault("source.fields.item names fields, but there is no metadata", ", ".join(fields.item), fix)])
        items = spark.createDataFrame([], "item_key string, publish_ts bigint, eligible boolean")
    else:
        # Python reads these lines, and two tables come from them
        found = products(numbered_lines(spark, s.items.path, setting="source.items.path")).persist()
        refused = found.where(F.col("problem").isNotNull())
        clicks = clicks.unionAll(refused.select(*click_columns(**{name: F.col(name) for name in ("problem", "_file", "_row", "_raw")})))
        live = [F.lit(None).cast("bigint").alias("publish_ts"), F.lit(True).alias("eligible")]
        items = found.where(F.col("problem").isNull()).select("item_key", *live, *chosen_fields(found, "item", fields.item))
    return Raw(
        clicks=clicks,
        users=users.select("user_key", *chosen_fields(users, "user", fields.user)),
        items=items,
        has_clock=True,
        user_key_type="string",
        item_key_type="string",  # asin of books are digits with leading zeros
        names={"user_key": "reviewerID", "item_key": "asin", "ts": "unixReviewTime"},
    )


def reviews(lines: DataFrame) -> DataFrame:
    """Raw clicks of numbered lines of reviews."""
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": BAD}
    read = lines.withColumn("_review", F.from_json("value", REVIEW, options))
    ts_text = blank_to_null(F.col("_review.unixReviewTime"))
    ts = ts_text.cast("bigint")
    bad = F.col("_review").isNull() | F.col(f"_review.{BAD}").isNotNull()
    return read.select(
        *click_columns(
            user_key=blank_to_null(F.col("_review.reviewerID")),
            item_key=blank_to_null(F.col("_review.asin")),
            ts=ts,
            rating=as_float(F.col("_review.overall")),
            seq=in_file_order(lines),
            problem=F.when(bad, F.lit(UNREADABLE)).when(ts.isNull() & ts_text.isNotNull(), F.lit(BAD_TIME)),
            _file=F.col("_file"),
            _row=F.col("_row"),
            _raw=F.substring("value", 1, 500),
        )
    )


# ---- metadata: Python on the executors, for only it reads Python literals ---------------------------------------------------


def products(lines: DataFrame) -> DataFrame:
    """PRODUCT of numbered lines of metadata; a line that cannot be used has only its `problem` and where it stands."""
    return lines.select("value", "_file", "_row").mapInArrow(read_batches, PRODUCT)


def read_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of value, _file, _row -> batches of PRODUCT."""
    schema = pa.schema([(name, ARROW[kind]) for name, kind in (part.split() for part in PRODUCT.split(", "))])
    for batch in batches:
        rows = [{**product(row["value"]), "_file": row["_file"], "_row": row["_row"]} for row in batch.to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


ARROW: Final = {"string": pa.string(), "bigint": pa.int64(), "array<string>": pa.list_(pa.string())}


def product(line: str) -> dict[str, Any]:
    """The fields of one line of metadata; those it lacks are missing. Of a line that cannot be used: problem and _raw."""
    try:
        found = literal(line)
    except ValueError:
        return {"problem": NO_METADATA, "_raw": line[:500]}
    asin = text(found.get("asin"))
    if asin is None:
        return {"problem": NO_ASIN, "_raw": line[:500]}
    paths = category_paths(found.get("categories", found.get("category")))
    return {
        "item_key": asin,
        "main_category": paths[0][0] if paths else None,
        "category": paths[-1][-1] if paths else None,
        "brand": text(found.get("brand")),
        "price_band": price_band(found.get("price")),
        "categories": list(dict.fromkeys(name for path in paths for name in path)),
        "title": text(found.get("title")),
    }


def literal(line: str) -> Mapping[str, Any]:
    """The dict of a line of strict or loose JSON. Evaluates nothing.

    Raises:
        ValueError: it is neither, or no dict.
    """
    # A literal without double quotes and escapes is JSON but for its quotes; read so, it takes a tenth of the time
    spelled = line.replace("'", '"') if '"' not in line and "\\" not in line else line
    try:
        found = json.loads(spelled)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:  # what literal_eval may raise, by its manual
            raise ValueError("neither JSON nor a Python literal") from error
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, no object")
    return found


def text(value: Any) -> str | None:
    """The text in one line, HTML entities decoded; None if blank or no text."""
    if not isinstance(value, str):
        return None
    # A lone half of a surrogate pair, which JSON can spell, is no text for Arrow
    plain = html.unescape(value).encode("utf-8", "replace").decode("utf-8")
    return " ".join(plain.split()) or None


def category_paths(value: Any) -> Sequence[Sequence[str]]:
    """The paths from main to leaf category, none of them empty: 2014 gives a list of paths, 2018 one path."""
    given = value if isinstance(value, list) else []
    paths = [path for path in given if isinstance(path, list)] or [given]
    named = [[name for name in map(text, path) if name is not None] for path in paths]
    return [path for path in named if path]


def price_band(value: Any) -> str | None:
    """The lower bound in dollars of the band of a price: 12.99, "$12.99" or, of a range, its lower end; None if there is none."""
    if isinstance(value, str):
        number = re.match(r"\s*\$?\s*(\d[\d,]*(?:\.\d+)?)", value)
        value = float(number.group(1).replace(",", "")) if number else None
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return None
    return str(PRICE_BANDS[bisect_right(PRICE_BANDS, value) - 1])
