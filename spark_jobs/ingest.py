"""Raw data of any source -> clicks, users, items, rejects of one day's window.

A row that cannot be used becomes one reject with one reason; a row that is not wanted (other event type, outside the window, a
duplicate) is counted. Nothing disappears without a number in the manifest.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, GateError
from conf.fields import Field
from conf.schemas.columns import CONTENT_VECTOR
from conf.sections.source import Source
from spark_jobs.drift import check_drift
from spark_jobs.erasure import count_erased, erased_keys, marked
from spark_jobs.job import Context, Job, Made, Output, main
from spark_jobs.output import read_back, write_now
from spark_jobs.pseudonyms import check_key, pseudonymised
from spark_jobs.secret_key import key_of
from spark_jobs.sources import SOURCES
from spark_jobs.sources.raw import FIRST_MS, FIRST_TS, LAST_TS, MILLISECONDS, Raw

CANONICAL_INT = r"^(0|-?[1-9][0-9]{0,17})$"
USED, REJECTED, DROPPED = "used", "rejected", "dropped"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Made]:
    """The job: read the source, judge each row, keep the clicks of the window, complete users and items."""
    source, registry, counters = context.settings.source, context.registry, context.counters
    key = key_of(source)
    check_key(context, key)
    raw = SOURCES[source.kind](context.spark, context.settings, context.ds)
    erased = erased_keys(context.spark, source)
    if erased is not None:
        raw = marked(raw, erased)
    if key is not None:
        raw = pseudonymised(raw, key, source.pseudonyms)
    judged = judge(raw.clicks, source, ds=context.ds, has_clock=raw.has_clock)
    if not raw.cheap or key is not None:
        judged = judged.persist()
    fates = count_fates(judged)
    counters.update(fates.counters)
    if erased is not None:
        counters["erased_users"] = count_erased(judged, raw.users)
        raw = replace(raw, users=raw.users.where(~F.col("_erased")))
    check_input(fates, raw, max_reject_share=context.settings.gates.max_reject_share)
    distinct = deduplicate(judged.where(F.col("fate") == USED))
    if max(source.min_item_events, source.min_user_events) > 1:
        distinct = distinct.persist()
        num_distinct = distinct.count()
        written = write_now(context, "clicks", Output(keep_active(distinct, source)))
    else:
        written = write_now(context, "clicks", Output(distinct))
        num_distinct = sum(file.rows for file in written.files)
    clicks = read_back(context, "clicks", written)
    late = F.count(F.when(F.col("day") < (first_day(source, context.ds) or ""), 1))
    kept = clicks.agg(F.count("*"), F.min("ts"), F.max("ts"), late).first()
    assert kept is not None
    counters.update(duplicates=counters["usable_rows"] - num_distinct, inactive=num_distinct - kept[0], clicks=kept[0])
    if kept[0] == 0:
        raise BadDataError(f"source {source.kind}, ds={context.ds}", [empty_fault(counters)])
    clicked_users, clicked_items = (clicks.select(key).distinct().persist() for key in ("user_key", "item_key"))
    counters.update(users_with_clicks=clicked_users.count(), items_with_clicks=clicked_items.count(), late_clicks=kept[3])
    users = complete(raw.users, clicked_users, "user_key", registry.source_fields("user")).persist()
    others = [F.col(name) for name in ITEM_COLUMNS if name in raw.items.columns]
    items = complete(raw.items, clicked_items, "item_key", registry.source_fields("item"), *others).persist()
    if source.catalogue == "clicked":
        counters["items_left_out"] = items.count() - counters["items_with_clicks"]
        items = items.join(clicked_items, "item_key", how="left_semi").persist()
    check_drift(context, clicked_items, users, items)
    context.facts.update(
        has_clock=raw.has_clock,
        user_key_type=key_type(users, "user_key", raw.user_key_type),
        item_key_type=key_type(items, "item_key", raw.item_key_type),
        first_ts=kept[1],
        last_ts=kept[2],
    )
    return {"clicks": written, "users": users, "items": items, "rejects": rejects(judged, any_there=bool(counters["rejected"]))}


ITEM_COLUMNS = ("publish_ts", "eligible", CONTENT_VECTOR.name)  # besides key and fields; the last where the settings name one


# ---- each row's fate -------------------------------------------------------------------------------------------------


def judge(clicks: DataFrame, source: Source, *, ds: str, has_clock: bool) -> DataFrame:
    """Add fate (used | rejected | dropped), reason, day and the click's weight to each raw row; the first reason that holds wins."""
    known = list(source.event_types or ())
    day = _day(source.day_timezone) if has_clock else F.lit(ds)
    faults: list[tuple[Column, str]] = [
        (F.col("problem").isNotNull(), ""),
        (F.col("user_key").isNull(), "no user"),
        (F.col("item_key").isNull(), "no item"),
        (F.col("ts").isNull(), "no time that can be read"),
    ]
    if has_clock:
        outside = (F.col("ts") < FIRST_TS) | (F.col("ts") >= LAST_TS)
        faults.append(((F.col("ts") >= FIRST_MS) & (F.col("ts") < LAST_TS * 1000), MILLISECONDS))
        faults.append((outside, "a time outside 1970-2100: other units?"))
    unwanted: list[tuple[Column, str]] = []
    if known:
        unwanted.append((~F.col("event_type").isin(known), "other event type"))
    if source.min_weight is not None:
        unwanted.append((F.coalesce(F.col("rating"), F.col("weight"), F.lit(0.0)) < source.min_weight, "below min_weight"))
    unwanted += [(condition, reason) for condition, reason in window(day, source, ds, has_clock=has_clock)]
    reason = F.lit(None).cast("string")
    fate = F.lit(USED)
    for condition, text in reversed(unwanted):
        reason, fate = F.when(condition, F.lit(text)).otherwise(reason), F.when(condition, F.lit(DROPPED)).otherwise(fate)
    for condition, text in reversed(faults):
        said = F.lit(text) if text else F.col("problem")
        reason, fate = F.when(condition, said).otherwise(reason), F.when(condition, F.lit(REJECTED)).otherwise(fate)
    if source.erasure is not None:  # before all else: a row that is refused would be shown among the rejects
        erased = F.col("_erased")
        reason, fate = F.when(erased, F.lit("erased user")).otherwise(reason), F.when(erased, F.lit(DROPPED)).otherwise(fate)
    by_type = F.lit(1.0)
    for name, value in (source.event_types or {}).items():
        by_type = F.when(F.col("event_type") == name, F.lit(value)).otherwise(by_type)
    weight = F.coalesce(F.col("weight"), by_type).cast("float")
    raw = F.when(fate == REJECTED, F.col("_raw"))  # of the others nobody asks for it, and a hundred million texts are not small
    return clicks.withColumns({"day": day, "fate": fate, "reason": reason, "weight": weight, "_raw": raw})


def _day(timezone: str) -> Column:
    """YYYY-MM-DD of `ts`; a date's own text costs less than a format."""
    if timezone == "UTC":
        return F.date_from_unix_date(F.floor(F.col("ts") / 86_400).cast("int")).cast("string")
    return F.to_date(F.from_utc_timestamp(F.timestamp_seconds("ts"), timezone)).cast("string")


def window(day: Column, source: Source, ds: str, *, has_clock: bool) -> list[tuple[Column, str]]:
    """What lies outside the days read: after ds, or before the train_days (and lookback_days) up to it."""
    if not has_clock:
        return []
    outside = [(day > ds, "after ds")]
    first = first_day(source, ds)
    if first is not None:
        earliest = date.fromisoformat(first) - timedelta(days=source.lookback_days)
        outside.append((day < earliest.isoformat(), "before the window"))
    return outside


def first_day(source: Source, ds: str) -> str | None:
    """The first of the train_days up to ds; None = no window. Clicks of the lookback_days before it are late, and in their own days."""
    if source.train_days is None:
        return None
    return (date.fromisoformat(ds) - timedelta(days=source.train_days - 1)).isoformat()


NEEDED = ("user_key", "item_key", "ts")


@dataclass(frozen=True)
class Fates:
    """counters: raw_rows, usable_rows, rejected {reason: rows}, dropped {reason: rows}. known: of each NEEDED column, its values."""

    counters: dict[str, Any]
    known: dict[str, int]


def count_fates(judged: DataFrame) -> Fates:
    """What became of the rows, in one pass."""
    rows = judged.groupBy("fate", "reason").agg(F.count(F.lit(1)).alias("rows"), *[F.count(name).alias(name) for name in NEEDED]).collect()
    counted: dict[str, Any] = {"raw_rows": sum(row["rows"] for row in rows)}
    counted["usable_rows"] = sum(row["rows"] for row in rows if row["fate"] == USED)
    for fate in (REJECTED, DROPPED):
        counted[fate] = {row["reason"]: row["rows"] for row in sorted(rows, key=lambda r: str(r["reason"])) if row["fate"] == fate}
    return Fates(counted, {name: sum(row[name] for row in rows) for name in NEEDED})


def check_input(fates: Fates, raw: Raw, *, max_reject_share: float) -> None:
    """Refuse an empty input, a column without one value, and too many rejects; raises BadDataError or GateError."""
    counters, total = fates.counters, fates.counters["raw_rows"]
    if total == 0:
        raise BadDataError("source", [Fault("the input is empty: no rows at all", fix="check source.path")])
    faults = [
        Fault(f"column {raw.names.get(name, name)!r} holds no value that can be read", f"{total} rows", f"check source.columns.{name}")
        for name in NEEDED
        if fates.known[name] == 0
    ]
    if faults:
        raise BadDataError("source", faults)
    rejected = sum(counters["rejected"].values())
    if rejected > max_reject_share * total:
        shown = [Fault(f"{count} rows: {reason}") for reason, count in counters["rejected"].items()]
        head = Fault(f"{rejected} of {total} rows refused ({rejected / total:.1%})", f"gates.max_reject_share is {max_reject_share:.1%}")
        raise GateError("source", [head, *shown])


def empty_fault(counters: Mapping[str, Any]) -> Fault:
    """Why no click is left."""
    found = f"{counters['raw_rows']} raw rows; dropped: {counters['dropped'] or 'none'}"
    return Fault("no click is left", found, "check --ds and source.*")


def deduplicate(clicks: DataFrame) -> DataFrame:
    """One row per (user, item, ts, event type, event id): the one of smallest seq, whatever the partitioning.

    seq orders events of equal time and is no part of what makes a duplicate.
    """
    # By a window, not by a minimum of structs: that would sort all rows before the shuffle and again behind it, as Spark also would to
    # keep the first by row_number. User and time go first, in one number: sorting compares whole rows only where it ties, and a user's
    # clicks stay together in the file.
    same = Window.partitionBy("_user_ts", "ts", "user_key", "item_key", "event_type", "event_id").orderBy("seq", "weight", "session_key")
    narrow = clicks.select("user_key", "item_key", "ts", "seq", "event_type", "weight", "session_key", "day", "event_id")
    narrow = narrow.withColumns({"_user_ts": F.shiftleft(F.xxhash64("user_key"), 33).bitwiseOR(F.col("ts")), "_first": F.lit(True)})
    later = F.lag("_first").over(same)
    return narrow.withColumn("_later", later).where(F.col("_later").isNull()).drop("_user_ts", "_first", "_later", "event_id")


def keep_active(clicks: DataFrame, source: Source) -> DataFrame:
    """Drop items, then users, with too few clicks (one pass each, as ComiRec does)."""
    for name, least in (("item_key", source.min_item_events), ("user_key", source.min_user_events)):
        if least > 1:
            counted = clicks.withColumn("events", F.count("*").over(Window.partitionBy(name)))
            clicks = counted.where(F.col("events") >= least).drop("events")
    return clicks


def rejects(judged: DataFrame, *, any_there: bool) -> DataFrame:
    """The rejects table; without another pass where there are none."""
    refused = judged.where(F.col("fate") == REJECTED)
    return (refused if any_there else judged.limit(0)).select(
        F.coalesce("_file", F.lit("")).alias("source_file"),
        F.coalesce("_row", F.lit(-1)).cast("bigint").alias("row"),
        "reason",
        F.coalesce(F.substring("_raw", 1, 500), F.lit("")).alias("raw"),
    )


# ---- users and items --------------------------------------------------------------------------------------------------


def complete(entities: DataFrame, clicked: DataFrame, key: str, fields: tuple[Field, ...], *others: Column) -> DataFrame:
    """One row for every entity of the table or of the clicked keys; what is unknown is null ([] for multi fields), and eligible.

    An entity that stands twice in the table keeps its smallest row, so that the choice does not depend on file order.
    """
    columns = [F.col(field.name) for field in fields]
    given = entities.where(F.col(key).isNotNull()).select(key, *others, *columns)
    packed = F.struct(*[name for name in given.columns if name != key]) if len(given.columns) > 1 else F.struct(F.lit(0).alias("none"))
    single = given.groupBy(key).agg(F.min(packed).alias("kept"))
    whole = clicked.join(single, key, how="full_outer")
    filled = []
    for field in fields:
        value = F.col(f"kept.{field.name}")
        value = F.filter(F.coalesce(value, F.array().cast("array<string>")), lambda v: v.isNotNull()) if field.role == "multi" else value
        filled.append(value.alias(field.name))
    if others:
        filled = [
            F.col("kept.publish_ts").alias("publish_ts"),
            F.coalesce("kept.eligible", F.lit(True)).alias("eligible"),
            *(F.col(f"kept.{name}").alias(name) for name in given.columns if name == CONTENT_VECTOR.name),
            *filled,
        ]
    return whole.select(key, *filled)


def key_type(entities: DataFrame, key: str, known: str) -> str:
    """The type published tables give the key back in: int64 if every key, clicked or not, is a canonical integer; else string.

    A log of integer keys may come with a catalogue that writes some as text ('9e+05'): then all are text.
    """
    if known == "string":
        return known
    return "string" if entities.where(~F.col(key).rlike(CANONICAL_INT)).limit(1).count() else "int64"


JOB = Job("ingest", transform, "Read the raw data of a day's window and publish clicks, users, items and rejects.")

if __name__ == "__main__":
    sys.exit(main(JOB))
