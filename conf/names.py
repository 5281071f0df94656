"""What may be a name: a day, a variant or run (they become folder names), a feature field (it becomes a column)."""

import re
from datetime import date

from conf.errors import Fault, SettingsError
from conf.tables import TABLES

DS = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # variants, run ids: they become folder names
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MASK_COLUMN = re.compile(r"(um|uh|vm)_[ab]\d+")
# A field becomes a column of these tables, and a user field stands beside a user's `items` when users are encoded.
RESERVED_COLUMNS = {column.name for table in TABLES.values() if table.extra for column in table.columns} | {
    "user_id",
    "item_users",
    "item_id",
    "items",
    "content_vector",
    "key",
}


def is_day(text: str) -> bool:
    """Whether the text is a real calendar day YYYY-MM-DD."""
    try:
        return DS.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def check_ds(ds: str, option: str = "--ds") -> str:
    """The day, if it is a real calendar day YYYY-MM-DD; raises SettingsError otherwise (also keeps it safe as a folder name)."""
    if not is_day(ds):
        raise SettingsError(option, [Fault(f"{ds!r} is not a day", fix=f"use YYYY-MM-DD, for instance {option} 2026-01-31")])
    return ds


def check_name(option: str, name: str) -> str:
    """The name, if it is safe as a folder name; raises SettingsError otherwise."""
    if not NAME.fullmatch(name):
        raise SettingsError(option, [Fault(f"{name!r} cannot be a name", fix="letters, digits, '.', '_', '-'; 64 at most, no leading '.'")])
    return name
