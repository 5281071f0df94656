"""Tables made from clicks: the log itself, numbers for its keys, events, sessions, co-occurrence, training samples."""

from typing import Final

from conf.schemas.columns import item_encoded, item_raw, sample_extra, user_encoded, user_raw, user_single
from conf.schemas.table import Column, Table

_IDX = Column("idx", "int32", "dense row number from 1; 0 is reserved")
_INDEX = (Column("key", "string", "business key"), _IDX, Column("added_ds", "string", "day the key was first numbered"))
_SPLIT = Column("split", "int8", "0 train, 1 valid, 2 test, 3 context (history of a held-out user)")

DATA: Final = (
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
    Table("users", "one user", (Column("user_key", "string", "business key"),), ("user_key",), extra=user_raw, extra_doc="user fields"),
    Table(
        "items",
        "one catalogue item",
        (
            Column("item_key", "string", "business key"),
            Column("publish_ts", "int64", "epoch seconds UTC the item went live", nullable=True),
            Column("eligible", "bool", "may be recommended on this day"),
        ),
        ("item_key",),
        extra=item_raw,
        extra_doc="item fields; `content_vector` array<float32> or null, with `source.items.vector`",
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
            Column("rank", "int32", "0 = most frequent in train, ties by value; behind those kept from an earlier day, new ones likewise"),
            Column("count", "int64", "train events that carry the value"),
            Column("added_ds", "string", "day the value was first numbered"),
        ),
        ("value",),
        may_be_empty=True,
    ),
    Table("user_index", "one user ever seen", _INDEX, ("key",)),
    Table("item_index", "one catalogue item ever seen", _INDEX, ("key",)),
    Table("user_feat", "one user row number", (_IDX,), ("idx",), extra=user_encoded, extra_doc="ids of the user fields"),
    Table(
        "item_feat",
        "one item row number",
        (_IDX, Column("eligible", "bool", "may be recommended on this day")),
        ("idx",),
        extra=item_encoded,
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
            Column("num_train", "int32", "train events of the user in events"),
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
        "cooc_pairs",
        "two different items that met in a session, in both directions, none left out (only with `cooc.keep_pairs`; "
        "empty where more than 200 million pairs met)",
        (
            Column("item_i", "int32", "item_idx; each file holds whole items, sorted by item_i and item_j"),
            Column("item_j", "int32", "item_idx, never equal to item_i"),
            Column("count", "int32", "as in cooc"),
        ),
        ("item_i", "item_j"),
        may_be_empty=True,
    ),
    Table(
        "sem_nn",
        "one item ever seen and the items that are like it in content (optional: see `semantics.kind`)",
        (
            Column("item_idx", "int32", "row number in item_index"),
            Column("neighbours", "array<int32>", "item_idx, the most similar first, ties by smaller idx, never the item itself; [] = none"),
            Column("similarities", "array<float32>", "of each neighbour: cosine, or (taxonomy) shared values by all values of the two"),
        ),
        ("item_idx",),
        derived=True,
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
        extra=sample_extra,
        extra_doc="single user fields; `item_users` array<int32>, who clicked the item before, with `samples.item_users`; masks of view b, "
        "and of view a where `samples.masks.strategy` masks both",
    ),
    Table(
        "samples_sequences",
        "up to B training or validation clicks of one user, one after the other, and the L before them: `samples` in layout sequences",
        (
            Column("sample_id", "int64", "of the first target; the next ones follow one by one"),
            Column("user_idx", "int32", "row number in user_index"),
            Column("split", "int8", "of all targets: 0 train, 1 valid"),
            Column("num_context", "int16", "events in front of the first target, L at most: context, never targets of this block"),
            Column("num_targets", "int16", "events behind the context, 1 to B: each is one sample, and a target of no other block"),
            Column("items", "array<int32>", "item_idx of context and targets, oldest first, 0 PAD at the end; length L + B"),
            Column("ts", "array<int64>", "times of the targets, 0 at the end; length B"),
            Column("weight", "array<float32>", "weights of the targets, 0 at the end; length B"),
        ),
        ("sample_id",),
        extra=user_single,
        extra_doc="single user fields",
    ),
)
