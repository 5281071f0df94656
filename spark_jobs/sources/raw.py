"""What every source hands to ingest: clicks, users and items in our names, nothing dropped yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, SchemaError
from conf.fields import Side
from conf.sections.source import FieldSpec

KeyType = Literal["string", "int64", "infer"]

CLICKS: Final[Mapping[str, str]] = {  # column -> Spark type; a null is what the file did not give or what cannot be read
    "user_key": "string",
    "item_key": "string",
    "ts": "bigint",
    "seq": "bigint",
    "event_type": "string",
    "rating": "float",  # compared with source.min_weight
    "weight": "float",  # as given by the file; null = by event type
    "session_key": "string",
    "event_id": "string",
    "problem": "string",  # why the row cannot be used, as far as the source knows; null = it can
    "_file": "string",
    "_row": "bigint",  # -1 = not known
    "_raw": "string",
}

# Values of `problem` that ingest knows by name.
UNREADABLE: Final = "row cannot be read"
BAD_TIME: Final = "time cannot be read"
MILLISECONDS: Final = "time in milliseconds, want seconds: set source.ts_format: epoch_ms, or divide by 1000"

# Beyond these years a number is no time in seconds, but one in other units.
FIRST_TS, LAST_TS = 0, 4_133_980_800  # 1970-01-01, 2101-01-01
FIRST_MS = 100_000_000_000  # 1973-03-03 in milliseconds; in seconds it would be the year 5138


@dataclass(frozen=True)
class Raw:
    """clicks: columns CLICKS. users: user_key and the user fields. items: item_key, publish_ts, eligible and the item fields.

    Single and text fields are strings, multi fields arrays of strings; null = missing. Users and items may repeat a key or lack one.
    has_clock: ts is epoch seconds, not a position. Key types are those of the files; "infer": by the keys themselves.
    names: our column -> what the user calls it, for messages ("column 'household_id' of sales.csv").
    cheap: reading the clicks once more costs less than keeping them.
    """

    clicks: DataFrame
    users: DataFrame
    items: DataFrame
    has_clock: bool
    user_key_type: KeyType = "infer"
    item_key_type: KeyType = "infer"
    names: Mapping[str, str] = field(default_factory=dict)
    cheap: bool = False


def click_columns(**given: Column) -> list[Column]:
    """Every column of CLICKS in order and type, those not given as null (`event_type` as 'click', `_row` as -1)."""
    unknown = set(given) - set(CLICKS)
    assert not unknown, f"no columns of raw clicks: {sorted(unknown)}"
    default = {"event_type": F.lit("click"), "_row": F.lit(-1)}
    return [given.get(name, default.get(name, F.lit(None))).cast(kind).alias(name) for name, kind in CLICKS.items()]


def as_float(column: Column) -> Column:
    """A number as float32, null where it is none, infinite or NaN."""
    number = column.cast("float")
    return F.when(~F.isnan(number) & (F.abs(number) < float("inf")), number)


def blank_to_null(column: Column) -> Column:
    """The text without spaces around it; null where nothing is left."""
    trimmed = F.trim(column.cast("string"))
    return F.when(trimmed != "", trimmed)


def chosen_fields(table: DataFrame, side: Side, specs: Mapping[str, FieldSpec]) -> list[Column]:
    """The fields that the settings ask for, out of a table that holds all of a known format.

    Raises:
        SchemaError: every field that the format does not hold, and every role that does not fit.
    """
    kinds = {name: kind for name, kind in table.dtypes if kind in ("string", "array<string>") and name not in (*CLICKS, "problem")}
    faults = []
    for name, spec in specs.items():
        theirs = spec.column or name
        setting = f"source.fields.{side}.{name}"
        if theirs not in kinds:
            faults.append(Fault(f"{setting}: this format has no {side} field {theirs!r}", f"known: {', '.join(kinds) or 'none'}"))
        elif (kinds[theirs] == "string") == (spec.role == "multi"):
            want = "single or text" if kinds[theirs] == "string" else "multi"
            faults.append(Fault(f"{setting}: {theirs!r} cannot be {spec.role}", fix=f"set its role to {want}"))
    if faults:
        raise SchemaError("source.fields", faults)
    return [F.col(spec.column or name).alias(name) for name, spec in specs.items()]
