"""A small day of tables as the Spark jobs would publish them, made with pyarrow: users and items of planted topics.

A user clicks items of one topic (nine times in ten), so a model that learns anything recommends by topic; all items are about equally
popular, so popularity recommends next to nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conf.files import hash_file
from conf.settings import Settings
from conf.storage import FileEntry, Manifest, Publication, Store
from conf.tables import TRAIN, VALID, Table, resolve

DS = "2026-01-31"

_ARROW = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "string": pa.string(),
    "array<int32>": pa.list_(pa.int32()),
    "array<int64>": pa.list_(pa.int64()),
    "array<float32>": pa.list_(pa.float32()),
}

FIELDS = {"user": {"gender": "single", "likes": "multi"}, "item": {"category": "single", "tags": "multi", "title": "text"}}


def planted_settings(root: Path | str, **sections: dict[str, object]) -> Settings:
    """Settings that fit the tiny tables; further values by section, trainer={"epochs": 1}."""
    values: dict[str, dict[str, object]] = {
        "storage": {"root": str(root)},
        "source": {"fields": FIELDS, "user_id_min_count": 1},
        "model": {"dim": 16, "hidden": [32], "history": 5, "dropout": 0.0},
        "trainer": {"launcher": "single", "workers": 1, "streams": 6, "batch": 48, "epochs": 2, "valid_users": 100, "valid_at": 10}
        | {"patience": 5, "batches": "arrow", "optimizer": {"lr": 0.01}},
    }
    for section, given in sections.items():
        values[section] = values.get(section, {}) | given
    return Settings.model_validate(values)


@dataclass(frozen=True)
class World:
    """Every click of every user, in time order, and who likes what."""

    user_topic: npt.NDArray[np.int64]
    item_topic: npt.NDArray[np.int64]
    clicks: list[list[int]]
    num_valid: int


def world(*, users: int = 60, items: int = 80, topics: int = 4, clicks: int = 20, num_valid: int = 2, seed: int = 3) -> World:
    """users and items are numbered from 1; the last num_valid clicks of a user are validation."""
    rng = np.random.default_rng(seed)
    user_topic, item_topic = rng.integers(topics, size=users + 1), np.arange(items + 1) % topics
    log = []
    for user in range(1, users + 1):
        own = np.flatnonzero(item_topic[1:] == user_topic[user]) + 1
        count = clicks + user % 5  # users differ in activity, so row groups and streams come out uneven
        log.append([int(rng.choice(own)) if rng.random() < 0.9 else int(rng.integers(1, items + 1)) for _ in range(count)])
    return World(user_topic, item_topic, log, num_valid)


def sample_rows(made: World, settings: Settings) -> list[dict[str, object]]:
    """One row of `samples` for each click, shuffled."""
    length, rng = settings.model.history, np.random.default_rng(5)
    registry, shape = settings.registry(), settings.shape()
    masks = [c.name for c in resolve("samples", registry, shape).columns if c.name[:2] in ("um", "uh", "vm") and c.name[2] == "_"]
    rows: list[dict[str, object]] = []
    for user, clicks in enumerate(made.clicks, start=1):
        for position, item in enumerate(clicks):
            before = clicks[max(0, position - length) : position]
            row: dict[str, object] = {
                "sample_id": (user << 32) | position,
                "user_idx": user,
                "item_idx": item,
                "ts": position,
                "split": VALID if position >= len(clicks) - made.num_valid else TRAIN,
                "hist": before + [0] * (length - len(before)),
                "hist_len": len(before),
                "weight": 1.0,
                "user_id": 3 + user,
                "gender": 4 + user % 2,
            }
            row |= {name: int(rng.integers(4)) for name in masks}
            rows.append(row)
    return [rows[i] for i in rng.permutation(len(rows))]


Rows = list[dict[str, object]]


def publish(
    settings: Settings,
    made: World | None = None,
    *,
    row_groups: tuple[tuple[int, ...], ...] | None = None,
    tables: dict[str, dict[str, Rows]] | None = None,
    ds: str = DS,
    epoch: str | None = None,
) -> World:
    """Publish samples, user_feat, item_feat, user_state and the vocabularies for a day.

    epoch: since when the vocabularies go on with their numbers.

    row_groups: rows of each row group of each file of samples. tables: other rows than those of `made`.
    """
    made = made or world()
    store, registry, shape = Store.of(settings), settings.registry(), settings.shape()
    for job, by_name in (tables or rows_of_tables(made, settings)).items():
        with store.publication(job, ds, "tables", settings) as publication:
            for name, rows in by_name.items():
                groups = row_groups if name == "samples" else None
                write(
                    publication,
                    resolve(name, registry, shape),
                    rows,
                    groups or (((len(rows) + 2) // 3, (len(rows) + 3) // 4), (len(rows),)),
                    {"vocabulary_epoch": epoch} if epoch else None,
                )
            publication.commit()
    return made


def rows_of_tables(made: World, settings: Settings) -> dict[str, dict[str, Rows]]:
    """job -> table -> rows; with split.refit the state of a user ends with its validation clicks."""
    users, items = len(made.clicks), len(made.item_topic) - 1
    sizes = {"user_id": users, "gender": 2, "likes": 4, "item_id": items, "category": 4, "tags": 2}
    vocabulary: dict[str, Rows] = {
        "user_feat": [
            {"idx": u, "user_id": 3 + u, "gender": 4 + u % 2, "likes": [4 + int(made.user_topic[u])] * (u % 3 > 0)}
            for u in range(1, users + 1)
        ],
        "item_feat": [
            {"idx": i, "eligible": True, "item_id": 3 + i, "category": 4 + int(made.item_topic[i]), "tags": [4, 5][: i % 3]}
            for i in range(1, items + 1)
        ],
    }
    for name, size in sizes.items():
        vocabulary[f"vocab_{name}"] = [{"value": f"v{n}", "id": 4 + n, "rank": n, "count": 1, "added_ds": DS} for n in range(size)]
    trained = [clicks[: len(clicks) - made.num_valid] for clicks in made.clicks]
    state: Rows = [
        {"user_idx": u, "items": known, "ts": list(range(len(known))), "num_train": len(clicks)}
        for u, (clicks, known) in enumerate(zip(trained, made.clicks if settings.split.refit else trained, strict=True), start=1)
    ]
    return {"vocabulary": vocabulary, "events": {"user_state": state}, "samples": {"samples": sample_rows(made, settings)}}


def write(
    publication: Publication,
    table: Table,
    rows: Rows,
    groups: tuple[tuple[int, ...], ...],
    facts: Mapping[str, object] | None = None,
) -> Manifest:
    """Write rows into one file for each tuple of row group sizes, and seal the table; the last group takes what is left."""
    folder = publication.folder(table.name)
    schema = pa.schema([pa.field(c.name, _ARROW[c.type], nullable=c.nullable) for c in table.columns])
    data = pa.Table.from_pylist(rows, schema=schema)
    entries, at = [], 0
    for number, sizes in enumerate(groups):
        name = f"part-{number:05d}-{publication.attempt}.parquet"
        with pq.ParquetWriter(f"{folder}/{name}", schema) as writer:
            for place, size in enumerate(sizes):
                last = number == len(groups) - 1 and place == len(sizes) - 1
                part = data.slice(at) if last else data.slice(at, size)
                if part.num_rows:
                    writer.write_table(part, row_group_size=part.num_rows)
                at += part.num_rows
        footer = pq.read_metadata(f"{folder}/{name}")
        size_b, sha256 = hash_file(publication.store.fs, f"{folder}/{name}")
        row_groups = tuple(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
        entries.append(FileEntry(name, footer.num_rows, size_b, sha256, row_groups))
    content = hashlib.sha256(str(rows).encode()).hexdigest()[:16]
    return publication.seal(table.name, entries, rows=len(rows), content_hash=f"{len(rows)}:{content}", facts=facts or {"has_clock": False})
