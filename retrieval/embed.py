"""Embed: batch inference of the trained towers, a vector for every item and K for every user."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from conf.fields import Side
from retrieval.given_vectors import given_embeddings
from retrieval.ragged import F32, I32
from retrieval.search import ArrowFunction
from retrieval.towers_files import BLOCK, TowersFiles, filling
from spark_jobs.job import Context, Job, Output, main

if TYPE_CHECKING:
    from trainer.export import Towers

SCHEMA = "idx int, interest tinyint, vector array<float>"
JOINT_SCHEMA = f"{SCHEMA}, joint array<float>"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """Encode every user of user_state and every item of the catalogue, or take the vectors that the settings name."""
    if context.settings.embeddings.path is not None:
        return {name: Output(df, sort_by=("idx", "interest")) for name, df in given_embeddings(context, tables).items()}
    files = TowersFiles.of(context.manifests["model"], context.files("model"), context.files("item_feat"))
    towers = files.open()  # on the driver too: a bad model file ends the job before any task starts
    context.facts.update({"model_id": towers.model_id, "similarity": towers.similarity, "dim": towers.dim, "interests": towers.interests})
    schema = JOINT_SCHEMA if towers.joint is not None else SCHEMA
    users = embed_users(tables["user_state"], tables["user_feat"], files.held, schema)
    items = embed_items(tables["item_feat"], files.held, schema)
    return {
        "embeddings_user": Output(users, sort_by=("idx", "interest")),
        "embeddings_item": Output(items, sort_by=("idx", "interest")),
    }


def embed_users(user_state: DataFrame, user_feat: DataFrame, load_towers: Callable[[], "Towers"], schema: str) -> DataFrame:
    """One row per user and interest, columns as in embeddings_user."""
    users = user_state.select("user_idx", "items").join(user_feat.withColumnRenamed("idx", "user_idx"), on="user_idx", how="inner")
    # by user: the files of user_state may be fewer than the cores
    return users.repartition("user_idx").mapInArrow(make_embed_users(load_towers), schema)


def embed_items(item_feat: DataFrame, load_towers: Callable[[], "Towers"], schema: str) -> DataFrame:
    """One row per item of the catalogue, columns as in embeddings_item."""
    return item_feat.select("idx").repartition("idx").mapInArrow(make_embed_items(load_towers), schema)


def make_embed_users(load_towers: Callable[[], "Towers"]) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (user_idx, items, user fields) batches in, rows of embeddings_user out."""

    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        towers = load_towers()
        for block in blocks(batches):
            filled = pa.Table.from_batches([block]).take(filling(block.num_rows))
            yield both_spaces(towers, "user", block.column("user_idx").to_numpy(), towers.encode_users(filled))

    return embed


def make_embed_items(load_towers: Callable[[], "Towers"]) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (idx) batches in, rows of embeddings_item out."""

    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        towers = load_towers()
        for block in blocks(batches):
            idx = block.column("idx").to_numpy()
            yield both_spaces(towers, "item", idx, towers.encode_items(idx[filling(len(idx))])[:, None, :])

    return embed


def blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of the batches, at most BLOCK at a time; none empty."""
    for batch in batches:
        for start in range(0, batch.num_rows, BLOCK):
            yield batch.slice(start, BLOCK)


def both_spaces(towers: "Towers", side: Side, idx: I32, vectors_BKD: F32) -> pa.RecordBatch:
    """Rows of an embedding table for each idx, of the vectors of a whole block that begins with theirs."""
    rows = vectors_batch(idx, vectors_BKD[: len(idx)])
    if towers.joint is None:
        return rows
    joint = vectors_batch(idx, towers.in_joint(side, vectors_BKD)[: len(idx)])
    return pa.RecordBatch.from_arrays([*rows.columns, joint.column("vector")], names=[*rows.schema.names, "joint"])


def vectors_batch(idx: I32, vectors_BKD: F32) -> pa.RecordBatch:
    """Rows of an embedding table, in one space: K for each idx."""
    num, interests, dim = vectors_BKD.shape
    starts = np.arange(0, num * interests * dim + 1, dim, dtype=np.int32)
    flat = pa.array(np.ascontiguousarray(vectors_BKD, dtype=np.float32).reshape(-1), pa.float32())
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.repeat(idx, interests), pa.int32()),
            pa.array(np.tile(np.arange(interests, dtype=np.int8), num), pa.int8()),
            pa.ListArray.from_arrays(starts, flat),
        ],
        names=["idx", "interest", "vector"],
    )


JOB = Job(name="embed", transform=transform, doc="Compute the vectors of all users and items with the trained model.")

if __name__ == "__main__":
    sys.exit(main(JOB))
