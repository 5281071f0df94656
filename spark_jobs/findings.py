"""What is at a path, as settings: MovieLens, one user a line, or any click log, with the guesses told in words. No Spark."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.errors import Fault, SchemaError
from conf.fields import Side
from spark_jobs.entity_fields import category, choose_fields, depends_on, entity_table, published
from spark_jobs.last_clicks import Found, LastClicks
from spark_jobs.log_columns import find_columns, last_day, quoted, survey, time_format
from spark_jobs.sniff import Table, attributes_file, lines, movielens_folder, sequence_file, tables_at

ACTIVE = 20  # a median user with this many clicks can spare ten of them


@dataclass
class Finding:
    """Settings as data, and what was found on the way, for the head of the file. clicks_an_item: on average; inf = many, not counted.
    last_clicks: what tells of them; None = not looked at."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    clicks_an_item: float = math.inf
    last_clicks: Found | None = None


def finding_at(path: str) -> Finding:
    """What is at `path`, as settings without a recipe: MovieLens, one user a line, or csv, JSON lines or Parquet; errors as `init`."""
    place = Path(path).expanduser().absolute()
    if place.exists() and (folder := movielens_folder(place)):
        finding = _movielens(folder)
    elif place.exists() and (sequences := sequence_file(place)):
        finding = _sequences(sequences)
    else:
        finding = _generic(place)
    root = Path("data").absolute()
    finding.settings["storage"] = {"root": "trichannel-data" if root == place or root in place.parents else "data"}
    return finding


def _movielens(folder: Path) -> Finding:
    source: dict[str, Any] = {"kind": "movielens", "path": str(folder)}
    notes = ["Found: the MovieLens layout."]
    ordered = not any((folder / name).is_file() for name in ("u.data", "ratings.dat"))
    if ordered:
        source["ts_format"] = "order"
    else:
        log, separator = (folder / "u.data", "\t") if (folder / "u.data").is_file() else (folder / "ratings.dat", "::")
        stamps = [parts[3] for line in lines(log) if len(parts := line.split(separator)) == 4]
        source["default_ds"] = last_day(stamps, "epoch_s") or "2026-01-31"
    settings = {"source": source, "split": {"kind": "last_k", "k": 5}, "cooc": {"category_field": "genres"}}
    return Finding(settings | {"report": {"title_field": "title"}}, notes)


def _sequences(file: Path) -> Finding:
    attributes = attributes_file(file)
    source: dict[str, Any] = {
        "kind": "sequences",
        "path": str(file),
        "attributes": str(attributes) if attributes else None,
        "ts_format": "order",
    }
    if attributes is None:
        source["fields"] = {"user": {}, "item": {}}
    counts: list[int] = []
    seen: set[str] = set()
    clicks = LastClicks()
    for user, *clicked in (line.split() for line in lines(file) if line.strip()):
        counts.append(len(clicked))
        seen.update(clicked)
        clicks.add((user, item, 0.0) for item in clicked)
    notes = [f"Found: one user a line, {len(counts):,} users, in order and without times."]
    split = split_for(counts)
    return Finding({"source": source, "split": split}, notes, sum(counts) / max(len(seen), 1), clicks.found(held_out=split["k"]))


def split_for(clicks_of_users: Iterable[int]) -> dict[str, Any]:
    """last_k with five clicks held out where the median user has 20 or more, else with one."""
    return {"kind": "last_k", "k": 5 if statistics.median(clicks_of_users) >= ACTIVE else 1}


def _generic(place: Path) -> Finding:
    tables = tables_at(place)
    log = tables[0] if place.is_file() else max(tables, key=_log_score)
    columns = _columns_of(log)
    ts_format = time_format(log, columns.get("ts"))
    seen = survey(log, columns, ts_format)
    split = split_for(seen.counts.values())
    num_clicks, num_items = seen.counts.total(), max(seen.num_items, 1)
    source: dict[str, Any] = {"kind": "generic", "path": str(log.path), "format": log.format, "separator": log.separator or ","}
    source |= {"columns": columns, "ts_format": ts_format} | ({"default_ds": seen.last_day} if seen.last_day else {})
    size = f"{num_clicks:,} rows, {len(seen.counts):,} users, {seen.num_items:,} items"
    notes = [f"Found: {quoted(log.path.name)}, {log.format}, {size}."]
    notes += [f"  {role}: {quoted(name)}" for role, name in columns.items()]
    notes += [] if "ts" in columns else ["  no times: the order of the rows counts"]
    entities = _entities(tables, log, columns, ts_format)
    fields = entities.settings["fields"]["item"]
    titles = [name for name, spec in fields.items() if spec["role"] == "text"]
    settings = {"source": source | entities.settings, "split": split, "cooc": {"category_field": category(fields)}}
    settings |= {"report": {"title_field": titles[0] if titles else None}}
    return Finding(settings, notes + entities.notes, num_clicks / num_items, seen.last_clicks.found(held_out=split["k"]))


def _columns_of(log: Table) -> dict[str, str]:
    """`find_columns`; raises SchemaError where users or items are not among them."""
    columns = find_columns(log)
    lacking = [role for role in ("user_key", "item_key") if role not in columns]
    if lacking:
        found = f"found: {', '.join(map(quoted, log.columns[:20]))}"
        raise SchemaError(
            f"--from {log.path}",
            [Fault(f"no column looks like the {role.removesuffix('_key')}'s id", found, f"name one like {role}") for role in lacking],
        )
    return columns


def _entities(tables: Sequence[Table], log: Table, columns: dict[str, str], ts_format: str) -> Finding:
    """Of the section source: fields, and users, items and multi_separator where there are such."""
    source: dict[str, Any] = {}
    notes: list[str] = []
    fields: dict[Side, dict[str, Any]] = {"user": {}, "item": {}}
    separators: list[str] = []
    for side in ("user", "item"):
        table, key = entity_table(side, tables, log, columns)
        entity: dict[str, Any] = {"path": str(table.path), "format": table.format, "key": key, "separator": table.separator or ","}
        left = [name for name in table.columns if name != key]
        if table is log:
            left = [name for name in left if name not in columns.values() and depends_on(log, key, name)]
        if side == "item" and (publish_ts := published(table, left, ts_format)):
            entity["publish_ts"] = publish_ts
            left.remove(publish_ts)
        fields[side] = choose_fields(side, table, left, taken={name for group in fields.values() for name in group}, separators=separators)
        if fields[side] or table is not log:
            source[f"{side}s"] = entity
            notes.append(f"{side}s: {quoted(table.path.name)}, by {quoted(key)}; fields: {', '.join(fields[side]) or 'none'}")
    source |= {"fields": fields} | ({"multi_separator": separators[0]} if separators else {})
    return Finding(source, notes)


def _log_score(table: Table) -> tuple[int, int]:
    columns = find_columns(table)
    needed = sum(role in columns for role in ("user_key", "item_key"))
    return 2 * needed + ("ts" in columns), table.num_sampled
