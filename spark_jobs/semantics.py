"""items -> sem_nn: which items are alike in content, whatever anybody clicked.

By titles (a sentence encoder, or TF-IDF and SVD), by content vectors of the source, or by a shared value of a field. Neighbours by
vector are exact: FAISS proposes, inner products in float64 decide.

Source: MicRec 3.4, "semantic matching"; Johnson et al. 2017 (FAISS).
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, SettingsError
from conf.fields import Registry
from conf.schemas.columns import CONTENT_VECTOR
from conf.sections.semantics import Semantics
from spark_jobs.job import Context, Job, Output, main
from spark_jobs.taxonomy import by_taxonomy
from spark_jobs.text_vectors import F32, F64, SCHEMA, by_encoder, by_tfidf, check_encoder, unit_batch

I64 = npt.NDArray[np.int64]
Search = Callable[[pa.Table, pa.Table], pa.Table]

BLOCK: Final = 65_536  # vectors that one task holds of each side: 2 * 32 MB at 128 numbers, and FAISS's copy
TEXT_CHARS: Final = 512  # of a text; encoders read no more
DIGITS: Final = 6  # of a similarity: what the order of summation can change lies behind them
_FOUND = pa.schema([("point", pa.int32()), ("item", pa.int32()), ("similarity", pa.float64())])
_SPARE = 8  # vectors fetched beyond those asked for: most ties at the end are settled in one search
_SEARCHED = 1 << 22  # (query, vector) pairs that one FAISS call may return
_SCORED = 1 << 13  # pairs scored at once: their vectors stay in the cache


# ---- what is compared ------------------------------------------------------------------------------------------------


def compared_field(settings: Semantics, registry: Registry) -> str | None:
    """The item field that is compared, None for kind vectors.

    Raises:
        SettingsError: no way is chosen, no field fits, or it is not clear which.
    """
    if settings.kind is None:
        fix = "set semantics.kind: tfidf, encoder, taxonomy or vectors"
        raise SettingsError("semantics.kind", [Fault("no way to compare items is chosen", "semantics.kind is null", fix)])
    try:
        return settings.compared({field.name: field.role for field in registry.source_fields("item")})
    except ValueError as error:
        raise SettingsError("semantics", [Fault(str(error))]) from None


def text_vectors(items: DataFrame, field: str, settings: Semantics) -> DataFrame:
    """(idx, field) -> (idx, vector binary) of the items that have a text; null where it has no direction. Equal texts are encoded once."""
    text = F.substring(F.trim(F.regexp_replace(F.col(field), r"\s+", " ")), 1, TEXT_CHARS)
    texts = items.select("idx", text.alias("text")).where(F.col("text") != "")
    distinct = texts.select("text").distinct()
    if settings.kind == "encoder":
        check_encoder(settings.encoder)
        encoded = by_encoder(distinct, settings.encoder)
    else:
        encoded = by_tfidf(distinct, settings.tfidf)
    return texts.join(encoded, "text", how="inner").select("idx", "vector")


def content_vectors(items: DataFrame) -> DataFrame:
    """(idx, content_vector) -> (idx, vector binary) at unit length; null where it has no direction. Raises BadDataError: lengths differ."""
    given = items.select("idx", F.col(CONTENT_VECTOR.name).alias("numbers")).where(F.col("numbers").isNotNull())
    sizes = given.groupBy(F.size("numbers").alias("size")).agg(F.count(F.lit(1)).alias("items"))
    found = sizes.orderBy(F.desc("items"), "size").limit(4).collect()
    if len(found) > 1:
        shown = ", ".join(f"{row['items']} of {row['size']} numbers" for row in found)
        raise BadDataError("column source.items.vector", [Fault("content vectors differ in length", shown, "mend the file of items")])

    def pack(batches: Any) -> Any:
        for batch in batches:
            flat = batch.column("numbers").flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(batch.num_rows, -1) if batch.num_rows else np.empty((0, 1))
            packed = unit_batch(batch.column("idx"), vectors)
            yield pa.RecordBatch.from_arrays(packed.columns, names=["idx", "vector"])

    return given.mapInArrow(pack, SCHEMA.replace("text string", "idx int"))


# ---- neighbours by vector --------------------------------------------------------------------------------------------


def nearest(vectors: DataFrame, *, top: int, min_similarity: float, block: int = BLOCK) -> DataFrame:
    """(idx, vector) of unit length -> (idx, near array<struct<distance double, item int>>): at most `top` other items, nearest first.

    distance: minus the cosine. Items with the same vector are one point of the search, so that a thousand copies of a title neither
    crowd it nor hide each other. Each task compares two blocks of points, `block` of each at most (about: they are drawn by hash).
    """
    same = Window.partitionBy("vector")
    grouped = vectors.withColumns({"point": F.min("idx").over(same), "_place": F.row_number().over(same.orderBy("idx"))}).persist()
    # top + 1 items of a point: more cannot all be neighbours of one of them
    members = F.array_sort(F.collect_list("idx")).alias("members")
    points = grouped.where(F.col("_place") <= top + 1).groupBy("vector").agg(F.min("idx").alias("point"), members).persist()
    cuts = max(1, -(-points.count() // block))
    found = _compared(points, cuts, make_search(top=top + 1, min_similarity=min_similarity))
    near = F.array_sort(F.collect_list(F.struct((-F.col("similarity")).alias("distance"), "item")))
    lists = found.groupBy("point").agg(F.slice(near, 1, top + 1).alias("near"))
    others = F.filter("near", lambda one: one["item"] != F.col("idx"))
    return grouped.join(lists, "point", how="inner").select("idx", F.slice(others, 1, top).alias("near"))


def _compared(points: DataFrame, cuts: int, search: Search) -> DataFrame:
    """`search` on every pair of a block of queries and one of the `cuts` blocks of points; where these are few, more blocks of queries."""
    rows = max(cuts, -(-2 * points.sparkSession.sparkContext.defaultParallelism // cuts))

    def blocks(own: str, num: int, other: str, copies: int) -> DataFrame:
        drawn = F.pmod(F.hash("point"), F.lit(num)).alias(own)
        columns = [F.col(name).alias(name) for name in points.columns]  # as columns of its own: the same table stands on both sides
        return points.select(*columns, drawn, F.explode(F.sequence(F.lit(0), F.lit(copies - 1))).alias(other))

    queries, others = blocks("_row", rows, "_cut", cuts).drop("members"), blocks("_cut", cuts, "_row", rows)
    by_pair = others.groupBy("_row", "_cut")
    return queries.groupBy("_row", "_cut").cogroup(by_pair).applyInArrow(search, "point int, item int, similarity double")


def make_search(*, top: int, min_similarity: float) -> Search:
    """Body of a cogrouped applyInArrow: (point, vector), (point, vector, members) in; (point, item, similarity) out.

    Of each query point the `top` items of highest cosine, itself among them, ties by smaller item; exact, at DIGITS digits.
    """

    def search(queries: pa.Table, others: pa.Table) -> pa.Table:
        if queries.num_rows == 0 or others.num_rows == 0:
            return _FOUND.empty_table()
        asking, found, cosine = best(_matrix(queries), _matrix(others), top, min_similarity)
        which, item = _members(others, found)
        asking, cosine = asking[which], cosine[which]
        order = np.lexsort((item, -cosine, asking))
        asking = asking[order]
        first = np.arange(len(asking)) - np.searchsorted(asking, asking) < top
        order, point = order[first], queries.column("point").to_numpy()[asking[first]]
        return pa.Table.from_arrays([pa.array(point), pa.array(item[order]), pa.array(cosine[order])], schema=_FOUND)

    return search


def _members(points: pa.Table, found: I64) -> tuple[I64, npt.NDArray[np.int32]]:
    """(place in `found`, item) for every item of the points found."""
    lists = points.column("members").combine_chunks()
    starts, items = lists.offsets.to_numpy().astype(np.int64), lists.values.to_numpy()
    sizes = np.diff(starts)[found]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(np.arange(len(found)), sizes), items[np.repeat(starts[found], sizes) + within]


def _matrix(table: pa.Table) -> F32:
    """float32[n, D] of the column `vector`."""
    flat = np.frombuffer(b"".join(table.column("vector").to_pylist()), dtype="<f4")
    return flat.reshape(table.num_rows, -1)


def best(queries_QD: F32, points_ND: F32, num: int, min_similarity: float) -> tuple[I64, I64, F64]:
    """(query, point, cosine) entries: of each query its `num` points of highest cosine and all that may tie with the last of them.

    Vectors of unit length. Cosines are added up in float64 and rounded to DIGITS; those below `min_similarity` are left out.
    """
    import faiss

    index = faiss.IndexFlatIP(points_ND.shape[1])
    index.add(np.ascontiguousarray(points_ND))
    total, parts = len(points_ND), []
    num, fetch, pending = min(num, total), min(num + _SPARE, total), np.arange(len(queries_QD))
    # FAISS adds up in float32, in an order that depends on the batch, and rounding may make ties: what it leaves out can belong to the
    # answer only if the last cosine that it gives is so near to the last one wanted.
    slack = 2 * points_ND.shape[1] * 2.0**-23 + 2 * 10.0**-DIGITS
    while len(pending):
        unsettled = [np.empty(0, dtype=np.int64)]
        for which in np.array_split(pending, -(-len(pending) * fetch // _SEARCHED)):
            raw, rows = index.search(np.ascontiguousarray(queries_QD[which]), fetch)
            last = raw[:, -1]
            settled = (fetch >= total) | (last < raw[:, num - 1] - slack) | (last < min_similarity - slack)
            parts.append((np.repeat(which[settled], fetch), rows[settled].reshape(-1)))
            unsettled.append(which[~settled])
        pending, fetch = np.concatenate(unsettled), min(2 * fetch, total)
    asking, found = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    cosine = np.round(_dots(queries_QD, asking, points_ND, found), DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
    cosine = np.clip(cosine, -1, 1)
    kept = cosine >= min_similarity
    return asking[kept], found[kept], cosine[kept]


def _dots(left: F32, left_rows: I64, right: F32, right_rows: I64) -> F64:
    """float64[m]: left[left_rows[i]] . right[right_rows[i]], each added up in float64 in one fixed order."""
    result = np.empty(len(left_rows), dtype=np.float64)
    for start in range(0, len(result), _SCORED):
        part = slice(start, start + _SCORED)
        result[part] = np.einsum("nd,nd->n", left[left_rows[part]], right[right_rows[part]], dtype=np.float64)
    return result


# ---- the job ---------------------------------------------------------------------------------------------------------


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Output]:
    """The job: find the neighbours by the way that is chosen; a list for every item ever seen, empty where nothing is known of it."""
    settings = context.settings.semantics
    field = compared_field(settings, context.registry)
    index = tables["item_index"].select(F.col("key").alias("item_key"), "idx")
    items = index.join(tables["items"], "item_key", how="inner")
    if settings.kind == "taxonomy":
        known = field_values(items, str(field)).persist()
        near = by_taxonomy(known, top=settings.top, seed=settings.seed)
    else:
        known = (content_vectors(items) if field is None else text_vectors(items, field, settings)).persist()
        usable = known.where(F.col("vector").isNotNull())
        context.counters["items_without_direction"] = known.count() - usable.count()
        near = nearest(usable, top=settings.top, min_similarity=settings.min_similarity)
    found = as_table(index, near).persist()
    with_neighbours = found.where(F.size("neighbours") > 0).count()
    context.counters.update(kind=settings.kind, items_with_content=known.count(), items_with_neighbours=with_neighbours)
    model = settings.encoder.path if settings.kind == "encoder" else None
    context.facts["semantics"] = {"kind": settings.kind, "field": field, "model": model}
    return {"sem_nn": Output(found, sort_by=("item_idx",))}


def field_values(items: DataFrame, field: str) -> DataFrame:
    """(idx, values array<string>) of the items that have a value."""
    column = F.col(field) if items.schema[field].dataType.typeName() == "array" else F.array(field)
    return items.select("idx", column.alias("values")).where(F.exists("values", lambda value: value.isNotNull()))


def as_table(index: DataFrame, near: DataFrame) -> DataFrame:
    """The rows of sem_nn: of each idx of `index` its neighbours, [] where `near` has none."""
    joined = index.join(near, "idx", how="left")
    similar = F.transform("near.distance", lambda distance: (-distance).cast("float"))
    return joined.select(
        F.col("idx").alias("item_idx"),
        F.coalesce("near.item", F.array().cast("array<int>")).alias("neighbours"),
        F.coalesce(similar, F.array().cast("array<float>")).alias("similarities"),
    )


JOB = Job(name="semantics", transform=transform, doc="Find the items that are alike in content.")

if __name__ == "__main__":
    sys.exit(main(JOB))
