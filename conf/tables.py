"""Every table that crosses a border between stages: its columns, their types, its key, and what one row means.

Types are the names in `TYPES`. A column is never null unless it says so. Columns that depend on the settings (feature fields,
masks) are added by `resolve`, so that a resolved `Table` is always the whole truth about the files on disk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final

from conf.errors import Fault
from conf.fields import Field, Registry

SCHEMA_VERSION: Final = 1

SOURCES_TYPE: Final = "array<struct<channel:string,rank:int32,score:float32>>"
TYPES: Final = (
    *("bool", "int8", "int16", "int32", "int64", "float32", "float64", "string"),
    *("array<int32>", "array<int64>", "array<float32>", "array<string>"),
    SOURCES_TYPE,
    f"array<{SOURCES_TYPE}>",
)

TRAIN, VALID, TEST, CONTEXT = 0, 1, 2, 3  # events.split; CONTEXT: history of a held-out user, never trained on
SPLIT_NAMES: Final = ("train", "valid", "test", "context")


@dataclass(frozen=True)
class Column:
    """One column: its type as named in `TYPES`, what it means."""

    name: str
    type: str
    doc: str
    nullable: bool = False

    def __post_init__(self) -> None:
        assert self.type in TYPES, f"column {self.name}: unknown type {self.type}"


@dataclass(frozen=True)
class Table:
    """row: what one row is. key: columns unique together. derived: values of a trained model, whose content hashes round floats."""

    name: str
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    derived: bool = False
    may_be_empty: bool = False
    extra: Callable[[Registry, "Shape"], tuple[Column, ...]] | None = None
    extra_doc: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class Shape:
    """What of the settings, besides the fields, decides columns.

    history: length L of `samples.hist`. mask_draws: stored mask draws E. layout: of `candidates`, rows or lists.
    """

    history: int = 20
    mask_draws: int = 1
    layout: str = "rows"


def mask_type(num_bits: int) -> str:
    """The narrowest signed integer that holds `num_bits` mask bits; raises ValueError above 63."""
    for bits, name in ((7, "int8"), (15, "int16"), (31, "int32"), (63, "int64")):
        if num_bits <= bits:
            return name
    raise ValueError(f"{num_bits} fields or positions do not fit a 64-bit mask; at most 63")


def mask_columns(registry: Registry, shape: Shape) -> tuple[Column, ...]:
    """um_b<e>, uh_b<e>, vm_b<e> for each draw e: view b of user fields, history positions, item fields. View a is clean: not stored."""
    kinds = (
        ("um_b", len(registry.user), "user field f is masked"),
        ("uh_b", shape.history, "history position f is dropped"),
        ("vm_b", len(registry.item), "item field f is masked"),
    )
    return tuple(
        Column(f"{prefix}{draw}", mask_type(bits), f"view b, draw {draw}: bit f set = {meaning}")
        for draw in range(shape.mask_draws)
        for prefix, bits, meaning in kinds
    )


def _raw(field: Field) -> Column:
    if field.role == "multi":
        return Column(field.name, "array<string>", f"multi-valued {field.side} field; [] = missing")
    return Column(field.name, "string", f"{field.role} {field.side} field", nullable=True)


def _encoded(field: Field) -> Column:
    if field.role == "multi":
        return Column(field.name, "array<int32>", f"ids in vocab_{field.name}, in the source's order; [] = missing")
    return Column(field.name, "int32", f"id in vocab_{field.name}; 2 OOV = missing or rare")


def _user_raw(registry: Registry, _: Shape) -> tuple[Column, ...]:
    return tuple(_raw(field) for field in registry.source_fields("user"))


def _item_raw(registry: Registry, _: Shape) -> tuple[Column, ...]:
    return tuple(_raw(field) for field in registry.source_fields("item"))


def _user_encoded(registry: Registry, _: Shape) -> tuple[Column, ...]:
    return tuple(_encoded(field) for field in registry.user)


def _item_encoded(registry: Registry, _: Shape) -> tuple[Column, ...]:
    return tuple(_encoded(field) for field in registry.item)


def _sample_extra(registry: Registry, shape: Shape) -> tuple[Column, ...]:
    single = tuple(_encoded(field) for field in registry.user if field.role == "single")
    return single + mask_columns(registry, shape)


_IDX = Column("idx", "int32", "dense row number from 1; 0 is reserved")
_INDEX = (Column("key", "string", "business key"), _IDX, Column("added_ds", "string", "day the key was first numbered"))
_SPLIT = Column("split", "int8", "0 train, 1 valid, 2 test, 3 context (history of a held-out user)")

TABLES: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        Table(
            "clicks",
            "one cleaned click",
            (
                Column("user_key", "string", "business key of the user"),
                Column("item_key", "string", "business key of the item"),
                Column("ts", "int64", "epoch seconds UTC; position in the user's history where the data has no clock"),
                Column("seq", "int64", "orders events of equal time: file order where known, else a content hash"),
                Column("event_type", "string", "kind of event; 'click' where the source has one kind"),
                Column("weight", "float32", "weight of the event type, > 0"),
                Column("session_key", "string", "session id as given by the source", nullable=True),
                Column("day", "string", "YYYY-MM-DD of ts in source.day_timezone"),
            ),
        ),
        Table(
            "users", "one user", (Column("user_key", "string", "business key"),), ("user_key",), extra=_user_raw, extra_doc="user fields"
        ),
        Table(
            "items",
            "one catalogue item",
            (
                Column("item_key", "string", "business key"),
                Column("publish_ts", "int64", "epoch seconds UTC the item went live", nullable=True),
                Column("eligible", "bool", "may be recommended on this day"),
            ),
            ("item_key",),
            extra=_item_raw,
            extra_doc="item fields",
        ),
        Table(
            "rejects",
            "one refused row",
            (
                Column("source_file", "string", "file the row came from"),
                Column("row", "int64", "row number in that file from 0; -1 where the reader does not know it"),
                Column("reason", "string", "why it was refused"),
                Column("raw", "string", "the row as text, at most 500 characters"),
            ),
            may_be_empty=True,
        ),
        Table(
            "vocab",
            "one value of one field (table vocab_<field>)",
            (
                Column("value", "string", "the value"),
                Column("id", "int32", "4 + rank; 0 PAD, 1 MASK, 2 OOV, 3 EMPTY are reserved and not stored"),
                Column("rank", "int32", "0 = most frequent in train; ties by value"),
                Column("count", "int64", "train events that carry the value"),
                Column("added_ds", "string", "day the value was first numbered"),
            ),
            ("value",),
            may_be_empty=True,
        ),
        Table("user_index", "one user ever seen", _INDEX, ("key",)),
        Table("item_index", "one catalogue item ever seen", _INDEX, ("key",)),
        Table("user_feat", "one user row number", (_IDX,), ("idx",), extra=_user_encoded, extra_doc="ids of the user fields"),
        Table(
            "item_feat",
            "one item row number",
            (_IDX, Column("eligible", "bool", "may be recommended on this day")),
            ("idx",),
            extra=_item_encoded,
            extra_doc="ids of the item fields",
        ),
        Table(
            "events",
            "one encoded click; files are clustered by user and sorted by (user_idx, ts, seq)",
            (
                Column("user_idx", "int32", "row number in user_index"),
                Column("item_idx", "int32", "row number in item_index"),
                Column("ts", "int64", "as in clicks"),
                Column("seq", "int64", "as in clicks"),
                _SPLIT,
                Column("weight", "float32", "as in clicks"),
                Column("session_key", "string", "as in clicks", nullable=True),
            ),
        ),
        Table(
            "user_state",
            "one user",
            (
                Column("user_idx", "int32", "row number in user_index"),
                Column("items", "array<int32>", "item_idx of the last train (or context) events, oldest first; [] = no history"),
                Column("ts", "array<int64>", "their times"),
                Column("num_train", "int32", "train events of the user, all of them"),
            ),
            ("user_idx",),
        ),
        Table(
            "sessions",
            "one session of train events",
            (
                Column("user_idx", "int32", "row number in user_index"),
                Column("session_no", "int32", "0.. per user in time order"),
                Column("start_ts", "int64", "first event"),
                Column("end_ts", "int64", "last event"),
                Column("items", "array<int32>", "item_idx in order, duplicates kept"),
                Column("num_items", "int32", "length of items"),
            ),
            ("user_idx", "session_no"),
        ),
        Table(
            "cooc",
            "two different items that met in a session, in both directions",
            (
                Column("item_i", "int32", "item_idx"),
                Column("item_j", "int32", "item_idx, never equal to item_i"),
                Column("count", "int32", "sessions that hold both"),
                Column("same_category", "bool", "both categories known and equal (sharing a value, if multi-valued)"),
                Column("weight", "float32", "count * (1 + beta * same_category)"),
            ),
            ("item_i", "item_j"),
            may_be_empty=True,
        ),
        Table(
            "samples",
            "one training or validation pair: a click and what its user did before it",
            (
                Column("sample_id", "int64", "user_idx << 32 | position of the click in the user's events"),
                Column("user_idx", "int32", "row number in user_index"),
                Column("item_idx", "int32", "target item"),
                Column("ts", "int64", "time of the click"),
                Column("split", "int8", "0 train, 1 valid"),
                Column("hist", "array<int32>", "item_idx of the events before the click, oldest first, 0 PAD at the end; length L"),
                Column("hist_len", "int16", "events in hist; 0 = no history"),
                Column("weight", "float32", "weight of the click"),
            ),
            ("sample_id",),
            extra=_sample_extra,
            extra_doc="single user fields; masks of view b",
        ),
        Table(
            "embeddings_user",
            "one vector of one user",
            (
                Column("idx", "int32", "user_idx"),
                Column("interest", "int8", "0 for single-interest models"),
                Column("vector", "array<float32>", "encoder space, as the model gives it"),
            ),
            ("idx", "interest"),
            derived=True,
        ),
        Table(
            "embeddings_item",
            "one vector of one item",
            (
                Column("idx", "int32", "item_idx"),
                Column("interest", "int8", "always 0"),
                Column("vector", "array<float32>", "encoder space, as the model gives it"),
            ),
            ("idx", "interest"),
            derived=True,
        ),
        Table(
            "neighbours_user",
            "one user with its nearest training users",
            (
                Column("idx", "int32", "user_idx"),
                Column("neighbours", "array<int32>", "user_idx, nearest first, never the user itself"),
                Column("similarities", "array<float32>", "cosine, non-increasing"),
            ),
            ("idx",),
            derived=True,
        ),
        Table(
            "neighbours_item",
            "one item with its nearest items",
            (
                Column("idx", "int32", "item_idx"),
                Column("neighbours", "array<int32>", "item_idx, nearest first, never the item itself"),
                Column("similarities", "array<float32>", "cosine, non-increasing"),
            ),
            ("idx",),
            derived=True,
        ),
        Table(
            "channel_candidates",
            "one user in one channel",
            (
                Column("user_idx", "int32", "row number in user_index"),
                Column("channel", "string", "u2i, u2u2i, i2i, itemcf or popular"),
                Column("items", "array<int32>", "item_idx, best first"),
                Column("scores", "array<float32>", "non-increasing; ties by smaller item_idx"),
            ),
            ("user_idx", "channel"),
            derived=True,
        ),
        Table(
            "candidates",
            "published: one candidate (layout rows)",
            (
                Column("ds", "string", "the day"),
                Column("user_key", "string", "business key, in the type it came with"),
                Column("rank", "int32", "1 = best"),
                Column("item_key", "string", "business key, in the type it came with"),
                Column("score", "float32", "of the merge; non-increasing in rank"),
                Column("sources", SOURCES_TYPE, "the channels that brought it, with rank and score there"),
                Column("is_fallback", "bool", "the user has no history: the list comes from the popular channel"),
                Column("model_id", "string", "the model that made it"),
                Column("run_id", "string", "the run that made it"),
            ),
            ("user_key", "item_key"),
            derived=True,
        ),
        Table(
            "candidates_lists",
            "published: one user (table `candidates` in layout lists)",
            (
                Column("ds", "string", "the day"),
                Column("user_key", "string", "business key, in the type it came with"),
                Column("item_keys", "array<string>", "business keys in the type they came with, best first"),
                Column("scores", "array<float32>", "of the merge, non-increasing"),
                Column("sources", f"array<{SOURCES_TYPE}>", "for each item the channels that brought it, with rank and score there"),
                Column("is_fallback", "bool", "the user has no history: the list comes from the popular channel"),
                Column("model_id", "string", "the model that made it"),
                Column("run_id", "string", "the run that made it"),
            ),
            ("user_key",),
            derived=True,
        ),
        Table(
            "metrics_user",
            "one user x channel x N",
            (
                Column("run_id", "string", "run of the candidates"),
                Column("user_idx", "int32", "row number in user_index"),
                Column("channel", "string", "a channel, 'merged', or a baseline"),
                Column("n", "int32", "cut-off N"),
                Column("recall", "float64", "hits / truth, in [0, 1]"),
                Column("ndcg_hit", "float64", "NDCG normalised by the number of hits"),
                Column("ndcg_std", "float64", "NDCG normalised by min(|truth|, N)"),
                Column("hr", "float64", "1 if any hit"),
                Column("n_truth", "int32", "held-out items of the user"),
                Column("n_hit", "int32", "of them in the first N"),
            ),
            ("user_idx", "channel", "n"),
            derived=True,
            may_be_empty=True,
        ),
        Table(
            "metrics",
            "one number",
            (
                Column("run_id", "string", "run of the candidates"),
                Column("dataset", "string", "source kind"),
                Column("model", "string", "model id; of a baseline its name and parameters"),
                Column("setting", "string", "variant"),
                Column("channel", "string", "a channel, 'merged', or a baseline"),
                Column("metric", "string", "recall, ndcg_std, ndcg_hit, hr, coverage"),
                Column("n", "int32", "cut-off N"),
                Column("slice", "string", "'all'"),
                Column("value", "float64", "mean over users, in [0, 1]"),
                Column("n_users", "int32", "users averaged over"),
                Column("ci_lo", "float64", "95 % interval of the mean; null for coverage", nullable=True),
                Column("ci_hi", "float64", "95 % interval of the mean; null for coverage", nullable=True),
            ),
            ("channel", "metric", "n", "slice"),
            derived=True,
            may_be_empty=True,
        ),
    )
}

# What a job publishes besides Parquet tables: folders of files under the same protocol.
ARTEFACTS: Final[Mapping[str, str]] = {
    "model": "model.pt (settings, vocabulary versions, weights), metrics.jsonl",
    "index": "items.faiss, users.faiss, their row ids, index.json with the measured recall",
    "report": "report.html, report.json",
}


def resolve(name: str, registry: Registry, shape: Shape = Shape()) -> Table:
    """The table with every column it has on disk; `vocab_<field>` resolves to that field's vocabulary. Raises KeyError if unknown."""
    if name.startswith("vocab_"):
        base = TABLES["vocab"]
    elif name == "candidates" and shape.layout == "lists":
        base = TABLES["candidates_lists"]
    else:
        base = TABLES[name]
    extra = base.extra(registry, shape) if base.extra else ()
    return replace(base, name=name, columns=base.columns + extra, extra=None)


def with_key_types(table: Table, user_key_type: str, item_key_type: str) -> Table:
    """A published table whose business keys have the types they came with ('string' or 'int64')."""
    types = {
        "user_key": user_key_type,
        "item_key": item_key_type,
        "item_keys": f"array<{item_key_type}>",
    }
    return replace(table, columns=tuple(replace(c, type=types.get(c.name, c.type)) for c in table.columns))


def check_columns(table: Table, found: Mapping[str, str], *, samples: Mapping[str, object] | None = None) -> list[Fault]:
    """Every way in which the columns `found` (name -> type) differ from the table; [] if they agree. Extra columns are a fault too."""
    faults = []
    names = ", ".join(found) or "no columns"
    for column in table.columns:
        if column.name not in found:
            near = get_close_matches(column.name, list(found), n=1)
            hint = f"did you mean: {near[0]} ?" if near else ""
            faults.append(Fault(f"column {column.name!r} is missing", f"found: {names}", hint))
        elif found[column.name] != column.type:
            first = f"first value: {samples[column.name]!r}" if samples and column.name in samples else ""
            faults.append(Fault(f"column {column.name!r} is {found[column.name]}, want {column.type}", first))
    known = set(table.names)
    faults += [Fault(f"column {name!r} is not part of the table") for name in found if name not in known]
    return faults


def to_markdown(tables: Sequence[Table], artefacts: Mapping[str, str] = ARTEFACTS) -> str:
    """docs/tables.md: one section a table."""
    lines = ["# Tables", "", "Generated by `python -m conf.tables`; do not edit. A column is never null unless it says so.", ""]
    for table in tables:
        lines += [f"## `{table.name}`", "", f"One row = {table.row}." + (f" Key: {', '.join(table.key)}." if table.key else ""), ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type}{' or null' if c.nullable else ''} | {c.doc} |" for c in table.columns]
        if table.extra_doc:
            lines.append(f"| ... | by the settings | {table.extra_doc} |")
        lines.append("")
    lines += ["## Folders of files", "", "Published like tables, under the same protocol.", ""]
    lines += ["| name | files |", "|---|---|"] + [f"| `{name}` | {files} |" for name, files in artefacts.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_markdown(tuple(TABLES.values())), end="")
