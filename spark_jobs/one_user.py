"""One user as text: who it is, what it clicked, what it is recommended and why. Reads the few rows it needs, without Spark."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.command import Request
from conf.errors import Fault, UsageError
from conf.files import open_root
from conf.manifest import Manifest

Row = dict[str, Any]


def show_user(asked: Request, key: str, *, num: int) -> Iterator[str]:
    """The lines about a user: fields, the last `num` clicks, newest first, the first `num` candidates with channel and rank there.

    Raises:
        UsageError: the day knows no such user. NotReadyError: the day has no candidates.
    """
    day = Day(asked)
    known = day.rows("user_index", "key", [key])
    if not known:
        raise UsageError(
            "--user", [Fault(f"no user {key!r} on ds={asked.ds}", f"{day.manifest('user_index').rows} users", "check the key")]
        )
    state = day.rows("user_state", "user_idx", [known[0]["idx"]])
    history = list(reversed(state[0]["items"])) if state else []
    clicked = {row["idx"]: row["key"] for row in day.rows("item_index", "idx", history[:num])}
    candidates, manifest = day.candidates(key), day.manifest("candidates")
    items = day.items([*clicked.values(), *(str(row["item_key"]) for row in candidates[:num])])
    yield f"user {day.user(key)}"
    yield f"history, newest first: {min(num, len(history))} of {len(history)}"
    yield from (f"  {items[clicked[idx]]}" for idx in history[:num])
    fallback = "; without history: the popular items" if candidates and candidates[0]["is_fallback"] else ""
    yield f"candidates, ds={manifest.ds} run={manifest.run_id}: {min(num, len(candidates))} of {len(candidates)}{fallback}"
    yield from (f"{row['rank']:4}  {row['score']:.4f}  {items[str(row['item_key'])]}  {_sources(row)}" for row in candidates[:num])


class Day:
    """The tables of the day that was asked for, row by row."""

    def __init__(self, asked: Request) -> None:
        self._asked, self._registry = asked, asked.settings.registry()

    def manifest(self, table: str) -> Manifest:
        """Of the current version."""
        return self._asked.store.manifest(table, self._asked.ds, self._asked.settings)

    def rows(self, table: str, column: str, values: Sequence[object]) -> list[Row]:
        """The rows of the table whose column has one of the values."""
        return [row for file in self._asked.store.files_of(self.manifest(table)) for row in matching(file, column, values)]

    def candidates(self, key: str) -> list[Row]:
        """The user's candidates, best first, as layout rows has them."""
        found = self.rows("candidates", "user_key", [key])
        if found and "item_keys" in found[0]:
            (one,) = found
            columns = zip(one["item_keys"], one["scores"], one["sources"], strict=True)
            return [
                {"rank": rank, "item_key": item, "score": score, "sources": sources, "is_fallback": one["is_fallback"]}
                for rank, (item, score, sources) in enumerate(columns, start=1)
            ]
        return sorted(found, key=lambda row: row["rank"])

    def items(self, keys: Sequence[str]) -> dict[str, str]:
        """key -> the item in words: its key, title and fields."""
        known = {row["item_key"]: row for row in self.rows("items", "item_key", sorted(set(keys)))}
        title = self._asked.settings.title_field()
        names = [title] if title else []
        names += [field.name for field in self._registry.source_fields("item") if field.role != "text" and field.name != title]
        return {key: "  ".join([key, *_values(known.get(key, {}), names)]) for key in keys}

    def user(self, key: str) -> str:
        """The user in words: key and fields."""
        about = self.rows("users", "user_key", [key])
        names = [field.name for field in self._registry.source_fields("user") if field.role != "text"]
        return "  ".join([key, *_values(about[0] if about else {}, names)])


def matching(file: str, column: str, values: Sequence[object]) -> list[Row]:
    """Rows of a Parquet file whose column has one of the values, be it of keys as texts or as integers; none where there are no values.

    Row groups that cannot hold one are not read.
    """
    filesystem, path = open_root(file)
    with filesystem.open_input_file(path) as handle:
        kind = pq.read_schema(handle).field(column).type
    try:
        wanted = pa.array(values).cast(kind)
    except pa.ArrowInvalid:  # keys are integers, and one of these is none
        return []
    rows: list[Row] = pq.read_table(path, filesystem=filesystem, filters=pc.field(column).isin(wanted)).to_pylist()
    return rows


def _values(row: Row, names: Sequence[str]) -> list[str]:
    texts = [", ".join(value) if isinstance(value := row.get(name), list) else value for name in names]
    return [text for text in texts if text]


def _sources(row: Row) -> str:
    return " ".join(f"{source['channel']}#{source['rank']}" for source in row["sources"])
