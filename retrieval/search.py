"""The Arrow function Spark runs: vectors in, neighbours out; and the same search as a function in SQL."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, SparkSession
from pyspark.sql.pandas.functions import pandas_udf

from conf.errors import BadDataError, Fault
from retrieval.ragged import F32, I32, Ragged
from retrieval.vector_index import IndexFiles, VectorIndex, index_files

ArrowFunction = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

NEIGHBOURS_SCHEMA = "idx int, neighbours array<int>, similarities array<float>"
_ANSWERS = 1 << 22  # neighbours of queries searched together, 8,388 queries for 500 each; 250 MB while they are searched


def make_search(load_index: Callable[[], VectorIndex], *, top_k: int, exclude_self: bool = False) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (idx, vector) batches in, (idx, neighbours, similarities) batches out.

    Args:
        load_index: gives the index; called once a task, so it should hold what it loads (`IndexFiles.held`).
        top_k: neighbours of each row, best first, ties by smaller id; fewer where the index holds or finds fewer, never padded.
        exclude_self: leave out the neighbour whose id is the row's own idx. Others with an equal vector stay.
    """

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A row out for each row in, in order; raises BadDataError if a vector has another length than the index's."""
        index, together = load_index(), max(1, _ANSWERS // (top_k + exclude_self))
        for batch in batches:
            for start in range(0, batch.num_rows, together):
                block = batch.slice(start, together)
                own = block.column("idx").to_numpy().astype(np.int32)
                vectors = vectors_of(block.column("vector"), index.vectors.shape[1])
                found = index.nearest(vectors[:, None, :], top_k + exclude_self)
                if exclude_self:
                    found = without_self(found, own).first(top_k)
                yield neighbours_batch(own, found)

    return search


def register_search_udf(spark: SparkSession, name: str, index_folder: str, *, top_k: int, index: str = "items") -> None:
    """Offer the search in SQL: `SELECT idx, name(vector).neighbours FROM ...`.

    The function takes an array<float> and gives struct<neighbours array<int>, similarities array<float>>: at most `top_k`, best
    first; null for a null vector.

    Args:
        index_folder: a run folder of the table `index`, path or URI that the executors can open.
        index: `items`, or `users`.

    Raises:
        BadDataError: a file of the index is missing or damaged. KeyError: there is no index of that name.
    """
    files = index_files(index_folder)[index]
    files.check()
    spark.udf.register(name, _search_udf(files, top_k))


def _search_udf(files: IndexFiles, top_k: int) -> Callable[..., Column]:
    def nearest(vectors: pd.Series) -> pd.DataFrame:
        """Columns neighbours (int32 arrays, best first) and similarities (float32 arrays), a row each; both None for a null vector."""
        index = files.held()
        known = vectors.notna().to_numpy()
        neighbours = np.full(len(vectors), None, dtype=object)
        similarities = neighbours.copy()
        if known.any():
            queries = vectors_of(pa.array(vectors[known].to_list(), pa.list_(pa.float32())), index.vectors.shape[1])
            found = index.nearest(queries[:, None, :], top_k)
            assert found.weights is not None
            for row, (start, stop) in zip(np.flatnonzero(known), zip(found.starts, found.starts[1:], strict=False), strict=True):
                neighbours[row], similarities[row] = found.values[start:stop], found.weights[start:stop].astype(np.float32)
        return pd.DataFrame({"neighbours": neighbours, "similarities": similarities})

    made: Any = pandas_udf(nearest, "neighbours array<int>, similarities array<float>")  # type: ignore[call-overload]
    function: Callable[..., Column] = made
    return function


def vectors_of(lists: pa.Array, dim: int) -> F32:
    """float32[n, dim] of a list<float32> column without nulls; raises BadDataError if a vector has another length."""
    flat: F32 = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    lengths = pc.list_value_length(lists)
    if not pc.all(pc.equal(lengths, dim)).as_py():
        found = f"the first of {lengths.filter(pc.not_equal(lengths, dim))[0]} numbers, want {dim}"
        fix = "search with vectors of the model that the index was made of; run: trichannel embed, then: trichannel index"
        raise BadDataError("vectors that are searched for", [Fault("vectors have another length than those of the index", found, fix)])
    return flat.reshape(len(lists), dim)


def without_self(found: Ragged, own: I32) -> Ragged:
    """The lists without the value own[b] in list b."""
    return found.where(found.values != own[found.rows])


def neighbours_batch(idx: I32, found: Ragged) -> pa.RecordBatch:
    """Rows of `neighbours_user` or `neighbours_item`."""
    return pa.RecordBatch.from_arrays(
        [pa.array(idx, pa.int32()), found.to_arrow(), found.weights_to_arrow()], names=["idx", "neighbours", "similarities"]
    )
