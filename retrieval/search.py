"""The Arrow function Spark runs: vectors in, neighbours out; and the same search as a function in SQL."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, SparkSession
from pyspark.sql.pandas.functions import pandas_udf

from conf.errors import BadDataError, Fault
from retrieval import worker
from retrieval.clusters import centre_index, clusters_of
from retrieval.ragged import F32, I32, Ragged
from retrieval.vector_index import IndexFiles, VectorIndex, index_files
from retrieval.world import KEY_TYPES, business_keys

ArrowFunction = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

NEIGHBOURS_SCHEMA = "idx int, neighbours array<int>, similarities array<float>"
CLUSTERED_SCHEMA = f"{NEIGHBOURS_SCHEMA}, cluster int"
_ANSWERS = 1 << 22  # neighbours of queries searched together, 8,388 queries for 500 each; 250 MB while they are searched


def make_search(
    load_index: Callable[[], VectorIndex], *, top_k: int, exclude_self: bool = False, centres: F32 | None = None
) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (idx, vector) batches in, (idx, neighbours, similarities) batches out.

    Args:
        load_index: gives the index; called once a task, so it should hold what it loads (`IndexFiles.held`).
        top_k: neighbours of each row, best first, ties by smaller id; fewer where the index holds or finds fewer, never padded.
        exclude_self: leave out the neighbour whose id is the row's own idx. Others with an equal vector stay.
        centres: float32[C, D] of clusters; with them the batches out have column cluster, the nearest one (`clusters_of`).
    """

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A row out for each row in, in order; raises BadDataError if a vector has another length than the index's."""
        index, together = load_index(), max(1, _ANSWERS // (top_k + exclude_self))
        centre = None if centres is None else centre_index(centres)
        for batch in batches:
            for start in range(0, batch.num_rows, together):
                block = batch.slice(start, together)
                own = block.column("idx").to_numpy().astype(np.int32)
                vectors = vectors_of(block.column("vector"), index.vectors.shape[1])
                found = index.nearest(vectors[:, None, :], top_k + exclude_self)
                if exclude_self:
                    found = without_self(found, own).first(top_k)
                yield neighbours_batch(own, found, None if centre is None else clusters_of(centre, vectors[:, None, :]))

    return search


@dataclass(frozen=True)
class KeyFiles:
    """Where the business keys of users or items stand. Small: it travels to the executors.

    files: of user_index or item_index, each with its sha256. kind: type of the keys, as facts name it (`KEY_TYPES`).
    """

    files: tuple[tuple[str, str], ...]
    kind: str

    @classmethod
    def of(cls, folder: str, side: Literal["user", "item"]) -> "KeyFiles":
        """Of a run folder of user_index or item_index; raises BadDataError if it is none."""
        manifest = worker.manifest_of(folder, f"{side}_index")
        files = tuple((f"{folder}/{entry.name}", entry.sha256) for entry in manifest.files)
        return cls(files, manifest.facts.get(f"{side}_key_type", "string"))

    def held(self) -> pa.Array:
        """The key of each idx in the type it came with, null where there is none; loaded once in this process."""
        return worker.once("keys of a search", self, self._read)

    def _read(self) -> pa.Array:
        return business_keys([worker.local_file(*file) for file in self.files], self.kind)


def register_search_udf(
    spark: SparkSession, name: str, index_folder: str, *, top_k: int, index: str = "items", key_folder: str | None = None
) -> None:
    """Offer the search in SQL: `SELECT idx, name(vector).neighbours FROM ...`.

    The function takes an array<float> and gives struct<neighbours array<int>, similarities array<float>>: at most `top_k`, best
    first; null for a null vector. With a key folder neighbours are business keys, array<string> or array<bigint> as they came.

    Args:
        index_folder: a run folder of the table `index`, path or URI that the executors can open.
        index: `items`, `users` or, of a model that compares by inner product, `items_cosine`.
        key_folder: a run folder of item_index (of user_index where users are searched), of the same day; None = numbers of rows.

    Raises:
        BadDataError: a file is missing or damaged, or a folder is of another table. KeyError: there is no index of that name.
    """
    files = index_files(index_folder)[index]
    files.check()
    keys = KeyFiles.of(key_folder, "user" if index == "users" else "item") if key_folder is not None else None
    spark.udf.register(name, _search_udf(files, keys, top_k))


def _search_udf(files: IndexFiles, keys: KeyFiles | None, top_k: int) -> Callable[..., Column]:
    def nearest(vectors: pd.Series) -> pd.DataFrame:
        """Columns neighbours (arrays, best first) and similarities (float32 arrays), a row each; both None for a null vector."""
        index = files.held()
        known = vectors.notna().to_numpy()
        neighbours = np.full(len(vectors), None, dtype=object)
        similarities = neighbours.copy()
        if known.any():
            queries = vectors_of(pa.array(vectors[known].to_list(), pa.list_(pa.float32())), index.vectors.shape[1])
            found = index.nearest(queries[:, None, :], top_k)
            assert found.weights is not None
            values = found.values if keys is None else keys_of(keys.held(), found.values)
            for row, (start, stop) in zip(np.flatnonzero(known), zip(found.starts, found.starts[1:], strict=False), strict=True):
                neighbours[row], similarities[row] = values[start:stop], found.weights[start:stop].astype(np.float32)
        return pd.DataFrame({"neighbours": neighbours, "similarities": similarities})

    kind = "int" if keys is None else KEY_TYPES[keys.kind]
    made: Any = pandas_udf(nearest, f"neighbours array<{kind}>, similarities array<float>")  # type: ignore[call-overload]
    function: Callable[..., Column] = made
    return function


def keys_of(keys: pa.Array, idx: I32) -> Any:
    """The key of each idx as a numpy array; raises BadDataError where an idx has none."""
    found = keys.take(pa.array(idx, mask=idx >= len(keys)))
    if found.null_count:
        missing = idx[found.is_null().to_numpy(zero_copy_only=False)][:5].tolist()
        fix = "give the index of keys of the day, and variant, that the vectors are of"
        raise BadDataError("search", [Fault(f"{found.null_count} neighbours have no business key", f"idx {missing}", fix)])
    return found.to_numpy(zero_copy_only=False)


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


def neighbours_batch(idx: I32, found: Ragged, clusters: I32 | None) -> pa.RecordBatch:
    """Rows of `neighbours_user` or `neighbours_item`; without clusters they lack that column."""
    columns = {"idx": pa.array(idx, pa.int32()), "neighbours": found.to_arrow(), "similarities": found.weights_to_arrow()}
    return pa.RecordBatch.from_pydict(columns if clusters is None else columns | {"cluster": pa.array(clusters, pa.int32())})
