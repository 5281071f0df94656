"""Users and items in unknown files: which table has a row for each, and which of its columns make feature fields. No Spark."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from conf.fields import Role, Side
from conf.names import MASK_COLUMN, RESERVED_COLUMNS
from spark_jobs.log_columns import format_of_times
from spark_jobs.sniff import Table, is_number, present
from spark_jobs.sources.guess import best_column, fits

TEXT_WORDS = {"title", "name", "description", "summary", "text", "headline"}
MULTI_SEPARATORS = ("|", ";", ",")
CATEGORY_WORDS = ("category", "genre", "genres", "department", "type", "brand")


def entity_table(side: Side, tables: Sequence[Table], log: Table, columns: dict[str, str]) -> tuple[Table, str]:
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


def published(table: Table, names: Sequence[str], ts_format: str) -> str | None:
    """The one of the columns that tells when an item went live, in the log's own time format; None where there is none."""
    allowed = [name for name in names if ts_format != "order" and format_of_times(present(table.sample[name])) == ts_format]
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


def field_role(name: str, values: Sequence[Any]) -> tuple[Role | None, str]:
    """(role, the separator in its values for multi); (None, "") for what makes no field.

    No field: one value only, almost as many values as rows (ids), or measures (prices). Text is long, or called title and mostly distinct.
    """
    given = present(values)
    if given and all(isinstance(value, list) for value in given):
        return ("multi", "") if len({str(v) for value in given for v in value}) > 1 else (None, "")
    texts = [str(value).strip() for value in given]
    distinct = len(set(texts))
    if distinct < 2 or any(isinstance(value, dict | list) for value in given):
        return None, ""
    words = sum(len(text.split()) for text in texts) / len(texts)
    length = sum(map(len, texts)) / len(texts)
    mostly_distinct = distinct > 0.5 * len(texts)
    numeric = all(is_number(text) for text in set(texts))
    separator = "" if numeric else _separator(texts)
    if separator:
        return "multi", separator
    if not numeric and mostly_distinct and (words >= 3 or length > 25 or TEXT_WORDS & set(name.lower().replace("-", "_").split("_"))):
        return "text", ""
    measures = numeric and distinct > 100 and any("." in text for text in texts)
    ids = distinct > 0.9 * len(texts) and len(texts) > 20
    return (None, "") if measures or ids else ("single", "")


def _separator(texts: Sequence[str]) -> str:
    """The separator of lists in a text: in a fifth of the values, and the parts repeat more than the wholes."""
    for separator in MULTI_SEPARATORS:
        holding = sum(separator in text for text in texts)
        parts = Counter(part.strip() for text in texts for part in text.split(separator))
        short = sum(len(part.split()) <= 3 for part in parts) > 0.9 * len(parts)
        if holding >= 0.2 * len(texts) and short and len(parts) <= max(1.0, 0.8 * len(set(texts))):
            return separator
    return ""


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
