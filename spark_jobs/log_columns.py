"""A click log's columns, judged by name and by value: who clicked what and when, the time format, the last day. No Spark."""

import datetime
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from conf.errors import BadDataError, Fault
from spark_jobs.last_clicks import LastClicks
from spark_jobs.sniff import Table, present
from spark_jobs.sources.guess import ORDER_WORDS, PATTERNS, best_column, guess_ts_format, tokens
from spark_jobs.sources.raw import FIRST_TS, LAST_TS

ROLES = ("user_key", "item_key", "ts", "session_key", "event_type", "weight")


def find_columns(table: Table) -> dict[str, str]:
    """Our columns -> the table's, by name, where the values allow it; no column is used twice."""
    found: dict[str, str] = {}
    left = [name for name in table.columns if present(table.sample[name])]
    for role in ROLES:
        candidates = [name for name in left if _allowed(role, table.sample[name])]
        name = best_column(role, candidates)
        if role == "ts" and name is None:
            ranks = [n for n in candidates_of_order(left) if all(_number(v) is not None for v in present(table.sample[n])[:1000])]
            name = ranks[0] if ranks else None
        if name is not None:
            found[role] = name
            left.remove(name)
    given = [name for name in left if fits_event_id(name) and len(set(map(str, table.sample[name]))) == table.num_sampled]
    return found | ({"event_id": given[0]} if given else {})


def candidates_of_order(names: Sequence[str]) -> list[str]:
    """Columns called position, rank, step, ..."""
    return [name for name in names if any(word in ORDER_WORDS for word in tokens(name))]


def fits_event_id(name: str) -> bool:
    """Whether a column is called like the id of an event."""
    return {"event", "row", "click", "log", "request", "transaction", "review"} & set(tokens(name)) != set() and "id" in tokens(name)


def _allowed(role: str, values: Sequence[Any]) -> bool:
    """Whether the values can be what the name says: times that parse, ratings above 0, few kinds of event, ids that are one value."""
    given = present(values)[:5_000]
    if role == "ts":
        return format_of_times(given) is not None
    if role == "weight":
        return len(given) == min(len(values), 5_000) and all((_number(value) or 0.0) > 0 for value in given)
    if any(isinstance(value, list | dict | float) for value in given):
        return False
    return len(set(given)) <= 50 if role == "event_type" else True


def format_of_times(values: Sequence[Any]) -> str | None:
    """The source.ts_format that reads these values, none missing among them, or None if none does."""
    if values and all(isinstance(value, datetime.date) for value in values):
        return "iso8601"
    return guess_ts_format([str(value) for value in values[:1_000]])


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def time_format(log: Table, column: str | None) -> str:
    """The source.ts_format of a column; order where there is none, or where it holds ranks."""
    return (format_of_times(present(log.sample[column])) if column else None) or "order"


@dataclass(frozen=True)
class Survey:
    """What all rows of a log say. last_day: None without a clock. counts: user -> clicks."""

    last_day: str | None
    counts: Counter[str]
    num_items: int
    last_clicks: LastClicks


def survey(log: Table, columns: dict[str, str], ts_format: str) -> Survey:
    """One pass over all rows."""
    counts: Counter[str] = Counter()
    clicks = LastClicks()
    items: set[str] = set()
    last: float | None = None
    rows = log.values([columns[role] for role in ("user_key", "item_key", "ts") if role in columns])
    while chunk := list(itertools.islice(rows, 100_000)):
        counts.update(str(row[0]) for row in chunk if row[0] is not None)
        items.update(str(row[1]) for row in chunk if row[1] is not None)
        moments = [_moment(row[2], ts_format) if len(row) > 2 else 0.0 for row in chunk]
        clicks.add(
            (str(row[0]), str(row[1]), moment)
            for row, moment in zip(chunk, moments, strict=True)
            if row[0] is not None and row[1] is not None and moment is not None
        )
        last = max((moment for moment in (last, *moments) if moment is not None), default=None)
    if not counts:
        raise BadDataError(f"--from {log.path}", [Fault(f"column {quoted(columns['user_key'])} holds no value")])
    return Survey(None if ts_format == "order" else _day(last), counts, len(items), clicks)


def last_day(values: Iterable[Any], ts_format: str) -> str | None:
    """The latest day (UTC) of times in a format, YYYY-MM-DD; values that are no time are passed over."""
    return _day(max((moment for value in values if (moment := _moment(value, ts_format)) is not None), default=None))


def _day(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


def _moment(value: Any, ts_format: str) -> float | None:
    """Seconds since 1970, or the rank where the format is order; None for what `ingest` refuses as a time."""
    if value is None:
        return None
    if ts_format == "order":
        rank = _number(value)
        return rank if rank is not None and math.isfinite(rank) else None
    seconds = _seconds(value, ts_format)
    return seconds if seconds is not None and FIRST_TS <= seconds < LAST_TS else None


def _seconds(value: Any, ts_format: str) -> float | None:
    if isinstance(value, datetime.date):
        moment = value if isinstance(value, datetime.datetime) else datetime.datetime(value.year, value.month, value.day)
    elif ts_format in ("epoch_s", "epoch_ms"):
        number = _number(value)
        return number if number is None or ts_format == "epoch_s" else number / 1000
    else:
        try:
            text = str(value).strip()
            pattern = PATTERNS.get(ts_format)
            moment = datetime.datetime.strptime(text, pattern) if pattern else datetime.datetime.fromisoformat(text.replace(" UTC", "Z"))
        except ValueError:
            return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def quoted(text: str) -> str:
    """A name as JSON text: safe in a comment whatever it holds, line breaks included."""
    return json.dumps(text, ensure_ascii=True)
