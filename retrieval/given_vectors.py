"""Vectors made elsewhere in place of the model's: the retrieval half on its own."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, NotReadyError, SchemaError
from conf.files import open_root
from retrieval.ragged import F32
from retrieval.vector_index import unit
from spark_jobs.job import Context

_SETTING: Final = "embeddings.path"
_SCHEMA: Final = "idx int, vector array<float>"


def given_embeddings(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """embeddings_user and embeddings_item from `items.parquet` and `users.parquet` in the folder that the settings name.

    An item without a vector has no row: it is never recommended. A user without one, or every user where there is no users.parquet,
    gets the mean of the unit vectors of the last model.history clicks; one without such clicks the zero vector, near to nothing.
    What was found goes to the counters, what later jobs need to know of the vectors to the facts.

    Raises:
        NotReadyError: there is no items.parquet. SchemaError: columns key and vector are not there. BadDataError: a key twice, a
        vector that is missing or of another length, or no key that the day knows.
    """
    settings, folder = context.settings, str(context.settings.embeddings.path)
    files = parquet_files(folder, "items")
    if not files:
        fault = Fault("no items.parquet there", fix="write the vectors there: Parquet, columns key and vector")
        raise NotReadyError(f"{_SETTING}={folder}", [fault])
    dim = dim_of(files[0])
    items = _numbered(context, "items", files, tables["item_index"], dim=dim)
    users = mean_of_clicks(tables["user_state"], items, last=settings.model.history, dim=dim)
    if own_files := parquet_files(folder, "users"):
        own = _numbered(context, "users", own_files, tables["user_index"], dim=dim)
        users = own.unionByName(users.join(own.select("idx"), on="idx", how="left_anti"))
    facts = {"model_id": f"given-{_fingerprint(items, users)}", "similarity": settings.embeddings.similarity, "dim": dim, "interests": 1}
    context.facts.update(facts)
    made = {"embeddings_user": users, "embeddings_item": items}
    return {name: df.withColumn("interest", F.lit(0).cast("tinyint")) for name, df in made.items()}


# ---- the files -------------------------------------------------------------------------------------------------------


def parquet_files(folder: str, name: str) -> list[str]:
    """`name`.parquet in the folder, as paths or URIs: one file, or those in a folder of that name; [] where there is none."""
    place = f"{folder.rstrip('/')}/{name}.parquet"
    filesystem, path = open_root(place)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return []
    if info.type == pafs.FileType.File:
        return [_as_uri(place)]
    inside = filesystem.get_file_info(pafs.FileSelector(path))
    return sorted(f"{_as_uri(place)}/{file.base_name}" for file in inside if file.base_name.endswith(".parquet"))


def _as_uri(place: str) -> str:
    return place if "://" in place else Path(place).expanduser().resolve().as_uri()


def dim_of(file: str) -> int:
    """Numbers in the first vector. Raises SchemaError unless the file has columns key and vector (a list of numbers)."""
    filesystem, path = open_root(file)
    with filesystem.open_input_file(path) as handle:
        parquet = pq.ParquetFile(handle)
        schema = parquet.schema_arrow
        kind = schema.field("vector").type if "vector" in schema.names else pa.null()
        if "key" not in schema.names or not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
            found = ", ".join(f"{field.name} {field.type}" for field in schema)
            fix = "name its columns key and vector, each vector as one list, and write the file anew"
            raise SchemaError(f"{_SETTING}: {file}", [Fault("want columns key and vector (a list of numbers)", f"found: {found}", fix)])
        first = next(parquet.iter_batches(batch_size=1, columns=["vector"]), None)
    return len(first.column(0)[0].as_py() or []) if first is not None and first.num_rows else 0


def _numbered(context: Context, name: str, files: list[str], index: DataFrame, *, dim: int) -> DataFrame:
    """idx, vector of the keys that the day knows; how many rows the files have and how many of them are known goes to the counters."""
    given = context.spark.read.parquet(*files).select(F.col("key").cast("string"), F.col("vector").cast("array<float>"))
    joined = given.join(index.select("key", "idx"), on="key", how="left").persist()
    not_finite = F.exists("vector", lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == float("inf")))
    wrong = F.col("vector").isNull() | (F.size("vector") != dim) | not_finite
    counted = {"given": F.count("*"), "known": F.count("idx"), "keys": F.countDistinct("key"), "wrong": F.count(F.when(wrong, 1))}
    row = joined.agg(*(column.alias(name) for name, column in counted.items())).first()
    assert row is not None
    faults = []
    if row["wrong"]:
        what = f"{row['wrong']} of {row['given']} vectors are missing, not finite, or without the {dim} numbers of the first item's"
        fix = "take these rows out, or make their vectors anew; users need vectors as long as the items', from one model"
        faults.append(Fault(what, fix=fix))
    if row["keys"] < row["given"]:
        faults.append(Fault(f"{row['given'] - row['keys']} keys are missing or stand there twice", fix="one row a key"))
    if not row["known"]:
        faults.append(Fault("no key is known", f"{row['given']} given", f"use the {name}' keys of the raw clicks"))
    if faults:
        raise BadDataError(f"{_SETTING}: {name}.parquet", faults)
    context.counters.setdefault("given_vectors", {})[name] = {"given": row["given"], "known": row["known"]}
    return joined.where(F.col("idx").isNotNull()).select("idx", "vector")


# ---- users without a vector ------------------------------------------------------------------------------------------


def mean_of_clicks(user_state: DataFrame, items: DataFrame, *, last: int, dim: int) -> DataFrame:
    """idx, vector of every user: the mean of the unit vectors of its last `last` clicked items that have one, zeros where none has."""
    clicks = user_state.select(F.col("user_idx").alias("user"), F.posexplode(F.slice(F.reverse("items"), 1, last)).alias("place", "idx"))
    found = clicks.join(items, on="idx", how="inner").groupBy("user")
    ordered = found.agg(F.flatten(F.array_sort(F.collect_list(F.struct("place", "vector"))).getField("vector")).alias("vectors"))
    means = ordered.mapInArrow(lambda batches: _means(batches, dim), _SCHEMA)
    zeros = F.array_repeat(F.lit(0.0).cast("float"), dim)
    everyone = user_state.select(F.col("user_idx").alias("idx"))
    return everyone.join(means, on="idx", how="left").select("idx", F.coalesce("vector", zeros).alias("vector"))


def _means(batches: Iterable[pa.RecordBatch], dim: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        lists = batch.column("vectors")
        lengths = lists.value_lengths().to_numpy() // dim
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        vectors = unit(flat.reshape(-1, dim))
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        means: F32 = (np.add.reduceat(vectors, starts, dtype=np.float64) / lengths[:, None]).astype(np.float32) if len(lengths) else vectors
        rows = pa.ListArray.from_arrays(pa.array(range(0, means.size + 1, dim), pa.int32()), pa.array(means.reshape(-1)))
        yield pa.RecordBatch.from_arrays([batch.column("user"), rows], names=["idx", "vector"])


def _fingerprint(*tables: DataFrame) -> str:
    """8 hex digits of the content, whatever the order of rows."""
    total = 0
    for table in tables:
        row = table.agg(F.sum(F.xxhash64("idx", "vector").cast("decimal(38,0)"))).first()
        total = (31 * total + int((row and row[0]) or 0)) % 2**32
    return f"{total:08x}"
