"""Who is near to whom: users by one vector or by a set of them, items by cosine; and which index U2I searches."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from retrieval.clusters import centre_index, clusters_of
from retrieval.ragged import F32, F64, Ragged, best_first
from retrieval.search import (
    CLUSTERED_SCHEMA,
    NEIGHBOURS_SCHEMA,
    ArrowFunction,
    make_search,
    neighbours_batch,
    vectors_of,
    without_self,
)
from retrieval.vector_index import IndexFiles, VectorIndex, unit

JOINT: Final = "items_joint"  # the index of items in the joint space
_BLOCK = 256  # users rescored together: their candidates' vectors take about 50 MB at 4 interests of 64 numbers


def cosine_index(files: Mapping[str, IndexFiles]) -> IndexFiles:
    """The index of items by cosine: `items` itself where the model's similarity is the cosine."""
    return files["items"] if files["items"].is_unit else files["items_cosine"]


def u2i_index(files: Mapping[str, IndexFiles], space: Literal["encoder", "joint"]) -> IndexFiles:
    """The index that U2I searches. Without an index of its own the joint space is encoder space, by cosine."""
    if space == "encoder":
        return files["items"]
    return files.get(JOINT) or cosine_index(files)


def one_row_each(embeddings: DataFrame, *, interests: int, spaces: Sequence[str] = ("vector",)) -> DataFrame:
    """idx and, of each of these columns of an embedding table, the vectors of an idx one after the other, by interest."""
    if interests > 1:
        rows = embeddings.groupBy("idx").agg(F.array_sort(F.collect_list(F.struct("interest", *spaces))).alias("rows"))
        return rows.select("idx", *(F.flatten(F.col(f"rows.{space}")).alias(space) for space in spaces))
    return embeddings.select("idx", *spaces)


def near_users(
    embeddings_user: DataFrame, load_index: Callable[[], VectorIndex], *, num: int, interests: int, centres: F32 | None = None
) -> DataFrame:
    """Each user's `num` nearest training users, the user itself left out by id; columns as in neighbours_user.

    With one vector a user, by cosine. With several, by the set similarity of `set_similarity`, over the users that any of the
    vectors finds. Without centres there is no column cluster.
    """
    users = one_row_each(embeddings_user, interests=interests).repartition("idx")
    search = make_user_search(load_index, top_k=num, interests=interests, centres=centres)
    return users.mapInArrow(search, NEIGHBOURS_SCHEMA if centres is None else CLUSTERED_SCHEMA)


def near_items(embeddings_item: DataFrame, load_index: Callable[[], VectorIndex], *, num: int, centres: F32 | None = None) -> DataFrame:
    """The `num` items of highest cosine for each item, the item itself left out; columns as in neighbours_item.

    Items that may no longer be recommended are asked for, and never found. Without centres there is no column cluster.
    """
    vectors = embeddings_item.select("idx", "vector").repartition("idx")
    search = make_search(load_index, top_k=num, exclude_self=True, centres=centres)
    return vectors.mapInArrow(search, NEIGHBOURS_SCHEMA if centres is None else CLUSTERED_SCHEMA)


def make_user_search(load_index: Callable[[], VectorIndex], *, top_k: int, interests: int, centres: F32 | None = None) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (idx, K vectors one after the other) in, (idx, neighbours, similarities[, cluster]) out."""
    if interests == 1:
        return make_search(load_index, top_k=top_k, exclude_self=True, centres=centres)

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A row out for each row in, in order: at most `top_k` users, best by `set_similarity` first, never the user itself."""
        index = load_index()
        centre = None if centres is None else centre_index(centres)
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK):
                block = batch.slice(start, _BLOCK)
                own = block.column("idx").to_numpy()
                flat = vectors_of(block.column("vector"), interests * index.vectors.shape[1])
                queries = flat.reshape(block.num_rows, interests, -1)
                found = without_self(index.pool(queries, top_k + 1), own)
                found = found.weighted(set_similarity(index, queries, found))
                yield neighbours_batch(own, best_first(found, top_k), None if centre is None else clusters_of(centre, queries))

    return search


def set_similarity(index: VectorIndex, queries_BKD: F32, found: Ragged) -> F64:
    """float64[total]: S(user b, found user) = (mean over k of max over k' of cos + mean over k' of max over k of cos) / 2.

    Equals the cosine when all vectors of a side are equal; symmetric; blind to the order of the vectors. Every user of the index
    has as many vectors as a query.
    """
    interests = queries_BKD.shape[1]
    rows = index.rows_of(found.values)[:, None] + np.arange(interests)
    others = index.unit_vectors[rows]
    cosines = np.einsum("nkd,njd->nkj", unit(queries_BKD)[found.rows], others, dtype=np.float64)
    result: F64 = np.clip((cosines.max(axis=2).mean(axis=1) + cosines.max(axis=1).mean(axis=1)) / 2, -1, 1)
    return result
