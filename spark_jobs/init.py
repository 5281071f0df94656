"""`trichannel init`: look at raw data and write settings that run, with every guess named at the top of the file."""

import datetime
import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.errors import BadDataError, Fault, SchemaError, StorageError, UsageError
from conf.fields import Side
from conf.names import MASK_COLUMN, RESERVED_COLUMNS
from conf.settings import Settings, to_yaml
from spark_jobs.sniff import (
    Table,
    attributes_file,
    field_role,
    lines,
    movielens_folder,
    present,
    sequence_file,
    tables_at,
)
from spark_jobs.sources.guess import ORDER_WORDS, PATTERNS, best_column, fits, guess_ts_format, tokens
from spark_jobs.sources.raw import FIRST_TS, LAST_TS

SECTIONS = ("storage", "source", "split", "session", "cooc", "model", "base", "objectives", "trainer", "evaluation", "report")
ROLES = ("user_key", "item_key", "ts", "session_key", "event_type", "weight")
ACTIVE = 20  # a median user with this many clicks can spare ten of them
CATEGORY_WORDS = ("category", "genre", "genres", "department", "type", "brand")
# For real data: MIC beside a sampled softmax, as in the packaged movielens.yaml.
TRAINING: dict[str, Any] = {
    "base": {"loss": "sampled_softmax", "negatives": "mixed", "num_negatives": 512, "temperature": 0.1},
    "objectives": {"mic": {"weight": 0.3}},
    "model": {"history": 50},
    "trainer": {"batch": 1024, "epochs": 20, "patience": 3, "optimizer": {"lr": 0.002}},
}


@dataclass
class Finding:
    """Settings as data, and what was found on the way, for the head of the file."""

    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def init(path: str, out: str) -> str:
    """Write settings for the raw data at `path` (a file or folder) to the new file `out`, and return their text.

    Raises:
        UsageError: `out` is there already, or cannot be written. NotReadyError: nothing at `path`. BadDataError: it holds no table.
        SchemaError: no table has columns of users and of items.
    """
    target = Path(out)
    if target.exists():
        raise UsageError(f"--out {out}", [Fault("the file is there already", fix="give another name, or remove it")])
    finding = sniff(path)
    settings = Settings.model_validate(finding.settings)
    head = [f"Settings for {quoted(path)}, written by trichannel init. Read the guesses, then: trichannel run --config {quoted(out)}"]
    text = "".join(f"# {line}\n" for line in [*head, *finding.notes]) + "\n" + without_generator(to_yaml(settings, only=SECTIONS))
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"--out {out}", [Fault("the file is there already", fix="give another name, or remove it")]) from None
    except OSError as error:
        raise StorageError(f"--out {out}", [Fault("cannot be written", str(error))], exit_code=UsageError.exit_code) from None
    return text


def sniff(path: str) -> Finding:
    """What is at `path`, as settings: MovieLens, one user a line, or a click log in csv, JSON lines or Parquet; errors as `init`."""
    place = Path(path).expanduser().absolute()
    if place.exists() and (folder := movielens_folder(place)):
        finding = _movielens(folder)
    elif place.exists() and (sequences := sequence_file(place)):
        finding = _sequences(sequences)
    else:
        finding = _generic(place)
    finding.settings |= TRAINING
    root = Path("data").absolute()
    finding.settings["storage"] = {"root": "trichannel-data" if root == place or root in place.parents else "data"}
    return finding


def quoted(text: str) -> str:
    """A name as JSON text: safe in a comment whatever it holds, line breaks included."""
    return json.dumps(text, ensure_ascii=True)


def without_generator(text: str) -> str:
    """The YAML without source.synthetic: settings of a generator only puzzle beside real data."""
    return re.sub(r"\n  # [^\n]*\n  synthetic:\n(?:    [^\n]*\n)*", "\n", text)


# ---- known layouts ------------------------------------------------------------------------------------------------------


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
    counts = [len(line.split()) - 1 for line in lines(file) if line.strip()]
    notes = [f"Found: one user a line, {len(counts):,} users, in order and without times."]
    return Finding({"source": source, "split": split_for(counts)}, notes)


def split_for(clicks_of_users: Iterable[int]) -> dict[str, Any]:
    """last_k with five clicks held out where the median user has 20 or more, else with one."""
    return {"kind": "last_k", "k": 5 if statistics.median(clicks_of_users) >= ACTIVE else 1}


# ---- any click log --------------------------------------------------------------------------------------------------------


def _generic(place: Path) -> Finding:
    tables = tables_at(place)
    log = tables[0] if place.is_file() else max(tables, key=_log_score)
    columns = find_columns(log)
    lacking = [role for role in ("user_key", "item_key") if role not in columns]
    if lacking:
        found = f"found: {', '.join(map(quoted, log.columns[:20]))}"
        raise SchemaError(
            f"--from {log.path}",
            [Fault(f"no column looks like the {role.removesuffix('_key')}'s id", found, f"name one like {role}") for role in lacking],
        )
    ts_format = time_format(log, columns.get("ts"))
    day, counts = survey(log, columns, ts_format)
    source: dict[str, Any] = {"kind": "generic", "path": str(log.path), "format": log.format, "separator": log.separator or ","}
    source |= {"columns": columns, "ts_format": ts_format} | ({"default_ds": day} if day else {})
    notes = [f"Found: {quoted(log.path.name)}, {log.format}, {sum(counts.values()):,} rows, {len(counts):,} users."]
    notes += [f"  {role}: {quoted(name)}" for role, name in columns.items()]
    notes += [] if "ts" in columns else ["  no times: the order of the rows counts"]
    used = set(columns.values())
    fields: dict[Side, dict[str, Any]] = {"user": {}, "item": {}}
    separators: list[str] = []
    for side in ("user", "item"):
        table, key = entity_table(side, tables, log, columns)
        if table is None:
            continue
        entity: dict[str, Any] = {"path": str(table.path), "format": table.format, "key": key, "separator": table.separator or ","}
        left = [name for name in table.columns if name != key and not (table is log and name in used)]
        if table is log:
            left = [name for name in left if depends_on(log, key, name)]
        if side == "item" and (published := _published(table, left, ts_format)):
            entity["publish_ts"] = published
            left.remove(published)
        fields[side] = choose_fields(side, table, left, taken={name for group in fields.values() for name in group}, separators=separators)
        if fields[side] or table is not log:
            source[f"{side}s"] = entity
            notes.append(f"{side}s: {quoted(table.path.name)}, by {quoted(key)}; fields: {', '.join(fields[side]) or 'none'}")
    source["fields"] = fields
    if separators:
        source["multi_separator"] = separators[0]
    titles = [name for name, spec in fields["item"].items() if spec["role"] == "text"]
    settings = {"source": source, "split": split_for(counts.values()), "cooc": {"category_field": category(fields["item"])}}
    return Finding(settings | {"report": {"title_field": titles[0] if titles else None}}, notes)


def _log_score(table: Table) -> tuple[int, int]:
    columns = find_columns(table)
    needed = sum(role in columns for role in ("user_key", "item_key"))
    return 2 * needed + ("ts" in columns), table.num_sampled


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
        return _format_of(given) is not None
    if role == "weight":
        return len(given) == min(len(values), 5_000) and all((_number(value) or 0.0) > 0 for value in given)
    if any(isinstance(value, list | dict | float) for value in given):
        return False
    return len(set(given)) <= 50 if role == "event_type" else True


def _format_of(values: Sequence[Any]) -> str | None:
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
    return (_format_of(present(log.sample[column])) if column else None) or "order"


def survey(log: Table, columns: dict[str, str], ts_format: str) -> tuple[str | None, Counter[str]]:
    """The last day of the log (None without a clock), and the clicks of every user, over all rows."""
    counts: Counter[str] = Counter()
    last: str | None = None
    names = [columns["user_key"]] + ([columns["ts"]] if ts_format != "order" else [])
    rows = log.values(names)
    while chunk := list(itertools.islice(rows, 100_000)):
        counts.update(str(row[0]) for row in chunk if row[0] is not None)
        if ts_format != "order":
            last = max(filter(None, (last, last_day([row[1] for row in chunk], ts_format))), default=None)
    if not counts:
        raise BadDataError(f"--from {log.path}", [Fault(f"column {quoted(columns['user_key'])} holds no value")])
    return last, counts


def last_day(values: Iterable[Any], ts_format: str) -> str | None:
    """The latest day (UTC) of times in a format, YYYY-MM-DD; values that are no time are passed over."""
    seconds = [s for value in values if value is not None and (s := _seconds(value, ts_format)) is not None and FIRST_TS <= s < LAST_TS]
    return datetime.datetime.fromtimestamp(max(seconds), datetime.UTC).date().isoformat() if seconds else None


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


# ---- users and items --------------------------------------------------------------------------------------------------------


def entity_table(side: Side, tables: Sequence[Table], log: Table, columns: dict[str, str]) -> tuple[Table | None, str]:
    """The table with a row for each user or item and its key column: a sibling that shares the key, else the log itself."""
    ours = columns[f"{side}_key"]
    known = {str(value) for value in present(log.sample[ours])}
    for table in tables:
        names = [ours] if ours in table.columns else [n for n in table.columns if fits(f"{side}_key", n)]
        for name in names if table is not log else ():
            keys = [str(value) for value in present(table.sample[name])]
            if len(set(keys)) >= 0.95 * len(keys) and len(known & set(keys)) >= 0.05 * min(len(known), max(len(keys), 1)) > 0:
                return table, name
    return log, ours


def depends_on(table: Table, key: str, name: str) -> bool:
    """Whether the rows of one key agree on a column (in 99 of 100 keys), with enough repeated keys to tell."""
    values: dict[str, set[str]] = {}
    repeats: Counter[str] = Counter()
    for owner, value in zip(table.sample[key], table.sample[name], strict=True):
        if owner is not None and value is not None:
            values.setdefault(str(owner), set()).add(str(value))
            repeats[str(owner)] += 1
    repeated = [owner for owner, count in repeats.items() if count > 1]
    return len(repeated) >= max(1, 0.1 * len(values)) and sum(len(values[owner]) == 1 for owner in repeated) >= 0.99 * len(repeated)


def _published(table: Table, names: Sequence[str], ts_format: str) -> str | None:
    allowed = [name for name in names if ts_format != "order" and _format_of(present(table.sample[name])) == ts_format]
    return best_column("ts", allowed)


def choose_fields(side: Side, table: Table, names: Sequence[str], *, taken: set[str], separators: list[str]) -> dict[str, Any]:
    """Field name -> its settings, for the columns that make fields. separators: the one of multi fields, added at its first use."""
    fields: dict[str, Any] = {}
    for name in names:
        role, separator = field_role(name, table.sample[name])
        if role is None:
            continue
        if separator and separators and separator not in separators:
            role = "single"  # source.multi_separator is one for all
        elif separator and not separators:
            separators.append(separator)
        ours = field_name(side, name, taken | set(fields))
        fields[ours] = {"role": role} | ({"column": name} if name != ours else {})
    return fields


def field_name(side: Side, name: str, taken: set[str]) -> str:
    """A name that our tables can carry: a-z, 0-9 and _, a letter first, 40 at most, neither ours nor taken."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not plain or not plain[0].isalpha() or plain in RESERVED_COLUMNS or MASK_COLUMN.fullmatch(plain) or plain in taken:
        plain = f"{side}_{plain}".strip("_") if plain else f"{side}_field"
    stem, number = plain[:36].strip("_"), 2
    plain = plain[:40].strip("_")
    while plain in taken or plain in RESERVED_COLUMNS:
        plain, number = f"{stem}_{number}", number + 1
    return plain


def category(fields: dict[str, Any]) -> str | None:
    """The item field that says best what an item is about: the one called category, genre, department, ..., or None."""
    for word in CATEGORY_WORDS:
        for name, spec in fields.items():
            if word in name.split("_") and spec["role"] != "text":
                return name
    return None
