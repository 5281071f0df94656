"""Tables made from the model: vectors, neighbours, the lists of every channel, and what is published."""

from typing import Final

from conf.fields import Registry, Side
from conf.schemas.table import SOURCES_TYPE, Column, Shape, Table


def _similar(side: Side, which: str, score: str) -> Table:
    """The published neighbours of a side."""
    return Table(
        f"similar_{side}s",
        f"published where `similar.{side}s` asks for it: one neighbour of one {side}",
        (
            Column("key", "string", f"the {side}; business key, in the type it came with"),
            Column("rank", "int32", "1 = nearest"),
            Column("neighbour_key", "string", f"another {side}, {which}; business key, in the type it came with"),
            Column("score", "float32", f"{score}; non-increasing in rank"),
        ),
        ("key", "neighbour_key"),
        derived=True,
        business_keys={"key": side, "neighbour_key": side},
    )


_JOINT: Final = "`joint` array<float32>: the same in the joint space of MIC's uv; absent where that is encoder space"


def joint_column(_: Registry, shape: Shape) -> tuple[Column, ...]:
    """Of a table of vectors."""
    return (Column("joint", "array<float32>", "the vector in the joint space of MIC's uv"),) if shape.joint else ()


RETRIEVAL: Final = (
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
        extra=joint_column,
        extra_doc=_JOINT,
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
        extra=joint_column,
        extra_doc=_JOINT,
    ),
    Table(
        "neighbours_user",
        "one user with its nearest training users",
        (
            Column("idx", "int32", "user_idx"),
            Column("neighbours", "array<int32>", "user_idx, nearest first, never the user itself"),
            Column("similarities", "array<float32>", "cosine, non-increasing"),
            Column("cluster", "int32", "the user's cluster among those of the training users, from 0; -1 = its vector is zero"),
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
            Column(
                "cluster", "int32", "the item's cluster among those of the items that may be recommended, from 0; -1 = its vector is zero"
            ),
        ),
        ("idx",),
        derived=True,
    ),
    Table(
        "click_ranks",
        "one held-out click, and where U2I would have put it",
        (
            Column("user_idx", "int32", "row number in user_index"),
            Column("position", "int32", "place of the click among the user's events, from 0"),
            Column("item_idx", "int32", "what was clicked"),
            Column("rank", "int32", "its place in the list by all that the user had clicked before, from 1; 0 = not in it"),
        ),
        ("user_idx", "position"),
        derived=True,
        may_be_empty=True,
    ),
    Table(
        "channel_candidates",
        "one user in one channel",
        (
            Column("user_idx", "int32", "row number in user_index"),
            Column("channel", "string", "u2i, u2u2i, i2i, itemcf, popular or cold"),
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
        business_keys={"user_key": "user", "item_key": "item"},
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
        business_keys={"user_key": "user", "item_keys": "item"},
    ),
    Table(
        "candidates_delta",
        "published where `publish.delta` asks for it: one user whose list is another than in the base",
        (
            Column("ds", "string", "the day"),
            Column("run_id", "string", "run of its candidates"),
            Column(
                "base_ds", "string", "the earlier day that is compared with; null = there is none, and all lists are here", nullable=True
            ),
            Column("base_run_id", "string", "run of its candidates", nullable=True),
            Column("user_key", "string", "business key, in the type it came with"),
            Column("op", "string", "upsert: write the list; delete: the user has none any more"),
            Column("item_keys", "array<string>", "business keys in the type they came with, best first; empty for delete"),
            Column("scores", "array<float32>", "of the merge, non-increasing; empty for delete"),
        ),
        ("user_key",),
        derived=True,
        may_be_empty=True,
        business_keys={"user_key": "user", "item_keys": "item"},
    ),
    _similar("user", "one with train events", "cosine; of several interests the similarity of the sets"),
    _similar("item", "one that may be recommended", "cosine"),
)
