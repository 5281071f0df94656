"""sessions -> cooc: how often two items met, kept for the strongest pairs of each item.

Source: MicRec 3.5 ("any two items in a session have one co-occurrence relation") and 4.1 (pairs of one category count more).
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.fields import FIRST_ID, Registry
from conf.sections.data import Cooc
from spark_jobs.close_pairs import close_pairs
from spark_jobs.job import Context, Job, main
from spark_jobs.session_cuts import Rule as Cuts
from spark_jobs.session_cuts import resolve_rule as resolve_cuts
from spark_jobs.user_batches import in_order, whole_users

I64 = npt.NDArray[np.int64]
Counting = Literal["set", "multiset", "window"]

MAX_EXACT_PAIRS = 200_000_000  # so many different pairs one process can hold, and draw negatives that met in no session at all
MAX_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of one Python worker: about 50 bytes a pair while they are counted


@dataclass(frozen=True)
class Rule:
    """What counts as meeting.

    set: a session counts once for each two different items in it. multiset: n_i * n_j times. window: once if they are clicked within
    `window` positions of each other. Sessions of more than `max_session_items` distinct items are cut into chunks of that many, in
    order of first click (set and multiset; a window needs no bound).
    """

    counting: Counting
    window: int
    max_session_items: int


def resolve_rule(settings: Cooc, *, has_clock: bool, session_kind: str) -> Rule:
    """The rule for this data; `auto` counts sets where sessions mean something: cut by a clock or given by the source."""
    auto: Counting = "set" if has_clock or session_kind == "given" else "window"
    counting = auto if settings.count == "auto" else settings.count
    return Rule(counting, settings.window, settings.max_session_items)


def count_pairs(sessions: DataFrame, rule: Rule) -> DataFrame:
    """(item_i, item_j, count) for every two different items that met, item_i < item_j.

    A pair travels as one bigint (item_i << 32 | item_j), already summed within each piece of a task's sessions.
    """

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for pair, times in pairs_of(batch.column("items"), rule):
                yield pa.RecordBatch.from_arrays([pa.array(pair), pa.array(times)], names=["pair", "times"])

    return _summed(sessions.select("items").mapInArrow(count, "pair long, times long"))


def count_close_pairs(events: DataFrame, cuts: Cuts, rule: Rule, *, max_dt_s: int) -> DataFrame:
    """As `count_pairs`, of the clicks that lie at most `max_dt_s` apart, from events cut into the same sessions."""
    window = rule.window if rule.counting == "window" else None

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in whole_users(batches):
            multiset = rule.counting == "multiset"
            found = close_pairs(table, cuts, max_dt_s=max_dt_s, window=window, max_items=rule.max_session_items, multiset=multiset)
            yield pa.RecordBatch.from_arrays([pa.array(part) for part in found], names=["pair", "times"])

    return _summed(in_order(events).mapInArrow(count, "pair long, times long"))


def _summed(counted: DataFrame) -> DataFrame:
    counted = counted.groupBy("pair").agg(F.sum("times").alias("count"))
    low = F.col("pair").bitwiseAND(F.lit(0xFFFFFFFF)).cast("int")
    return counted.select(F.shiftright("pair", 32).cast("int").alias("item_i"), low.alias("item_j"), "count")


def pairs_of(items: pa.ListArray, rule: Rule) -> Iterator[tuple[I64, I64]]:
    """(pairs, times) of some sessions, each pair at most once per piece yielded. Pure Arrow and numpy."""
    sizes = np.diff(items.offsets.to_numpy()).astype(np.int64)
    flat = items.flatten().to_numpy().astype(np.int64)
    session = np.repeat(np.arange(len(sizes)), sizes)
    pieces = _window_pairs(session, flat, rule.window) if rule.counting == "window" else _set_pairs(session, flat, rule)
    for pair, times in pieces:
        distinct, place = np.unique(pair, return_inverse=True)
        yield distinct, np.bincount(place, weights=times, minlength=len(distinct)).astype(np.int64)


def _window_pairs(session: I64, items: I64, window: int) -> Iterator[tuple[I64, I64]]:
    """Each session's different pairs within `window` clicks, once a session; in pieces of whole sessions."""
    for piece in _pieces(np.bincount(session), window):
        start, end = np.searchsorted(session, piece)
        some, item = session[start:end], items[start:end]
        wheres, pairs = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for distance in range(1, min(window, len(item) - 1) + 1):
            left, right = item[:-distance], item[distance:]
            met = (some[:-distance] == some[distance:]) & (left != right)
            wheres.append(some[:-distance][met])
            pairs.append(_pair(left[met], right[met]))
        where, pair = np.concatenate(wheres), np.concatenate(pairs)
        order = np.lexsort((pair, where))
        where, pair = where[order], pair[order]
        new = np.append(True, (np.diff(where) > 0) | (np.diff(pair) > 0))[: len(pair)]
        yield pair[new], np.ones(int(new.sum()), dtype=np.int64)


def _set_pairs(session: I64, items: I64, rule: Rule) -> Iterator[tuple[I64, I64]]:
    """Each chunk's pairs of distinct items, with 1 or n_i * n_j; chunks of one size are paired together, as one matrix."""
    _, first, repeats = np.unique(session << 32 | items, return_index=True, return_counts=True)
    by_first_click = np.argsort(first)
    first, repeats = first[by_first_click], repeats[by_first_click]
    session, items = session[first], items[first]
    position = np.arange(len(session)) - np.searchsorted(session, session)
    starts = np.flatnonzero(position % rule.max_session_items == 0)
    sizes = np.diff(np.append(starts, len(session)))
    for size in np.unique(sizes[sizes > 1]).tolist():
        left, right = np.triu_indices(size, k=1)
        chunks = starts[sizes == size]
        step = max(1, MAX_PAIRS_AT_ONCE // len(left))
        for some in (chunks[at : at + step] for at in range(0, len(chunks), step)):
            place = some[:, None] + np.arange(size)
            pair = _pair(items[place[:, left]], items[place[:, right]]).ravel()
            times = (repeats[place[:, left]] * repeats[place[:, right]]).ravel() if rule.counting == "multiset" else np.ones_like(pair)
            yield pair, times


def _pair(one: I64, other: I64) -> I64:
    pair: I64 = np.minimum(one, other) << 32 | np.maximum(one, other)
    return pair


def _pieces(sizes: I64, pairs_per_item: int) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of sessions with about MAX_PAIRS_AT_ONCE pairs together, at least one session each."""
    piece = np.cumsum(sizes) * pairs_per_item // MAX_PAIRS_AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(sizes)]
    yield from ((start, end) for start, end in pairwise(bounds) if start < end)


def weigh(pairs: DataFrame, categories: DataFrame | None, *, beta: float) -> DataFrame:
    """Add same_category and weight = count * (1 + beta * same_category).

    categories: (idx, category), an id or an array of ids; None = nothing is known. Equal = the same id, or a shared one, of a real
    value: unknown never equals unknown.
    """
    same: Column = F.lit(False)
    if categories is not None:
        one = categories.select(F.col("idx").alias("item_i"), F.col("category").alias("category_i"))
        other = categories.select(F.col("idx").alias("item_j"), F.col("category").alias("category_j"))
        pairs = pairs.join(one, "item_i", how="left").join(other, "item_j", how="left")
        multi = categories.schema["category"].dataType.typeName() == "array"
        left, right = F.col("category_i"), F.col("category_j")
        same = F.arrays_overlap(left, right) if multi else (left == right) & (left >= FIRST_ID)
    weighed = pairs.withColumn("same_category", F.coalesce(same, F.lit(False)))
    weight = F.col("count") * (1 + F.lit(beta) * F.col("same_category").cast("int"))
    return weighed.select(
        "item_i", "item_j", F.col("count").cast("int").alias("count"), "same_category", weight.cast("float").alias("weight")
    )


def strongest(weighed: DataFrame, *, top: int) -> DataFrame:
    """Both directions of each pair; of each item_i the `top` pairs of largest weight, ties by smaller item_j."""
    there, back = (F.struct(F.col(i).alias("item_i"), F.col(j).alias("item_j")) for i, j in (("item_i", "item_j"), ("item_j", "item_i")))
    mirrored = weighed.select(F.explode(F.array(there, back)).alias("ends"), "count", "same_category", "weight")
    rank = F.row_number().over(Window.partitionBy("item_i").orderBy(F.col("weight").desc(), "item_j"))
    columns = ("item_i", "item_j", "count", "same_category", "weight")
    return (
        mirrored.select("ends.*", "count", "same_category", "weight").withColumn("rank", rank).where(F.col("rank") <= top).select(*columns)
    )


def category_field(settings: Cooc, registry: Registry) -> str | None:
    """The item field to compare.

    Raises:
        SettingsError: it is a text field, or not among the fields that item_feat holds.
    """
    name = settings.category_field
    known = [field.name for field in registry.item if field.name != "item_id"]
    if name is not None and name not in known:
        fault = Fault(f"{name!r} is not among the encoded item fields", f"these are: {', '.join(known) or 'none'}", "see model.fields.item")
        raise SettingsError("cooc.category_field", [fault])
    return name


def count_chunking(sessions: DataFrame, rule: Rule) -> dict[str, int]:
    """Sessions that were cut into chunks, and the pairs lost between chunks; nothing is cut in a window."""
    if rule.counting == "window":
        return {"sessions_chunked": 0, "pairs_lost_by_chunking": 0}
    size, cap = F.size(F.array_distinct("items")).cast("long"), rule.max_session_items
    sizes = sessions.select(size.alias("n")).where(F.col("n") > cap)
    rest, full = F.col("n") % cap, F.floor(F.col("n") / cap)
    kept = full * (cap * (cap - 1) // 2) + rest * (rest - 1) / 2
    row = sizes.agg(F.count(F.lit(1)).alias("chunked"), F.sum(F.col("n") * (F.col("n") - 1) / 2 - kept).alias("lost")).first()
    assert row is not None
    return {"sessions_chunked": row["chunked"], "pairs_lost_by_chunking": int(row["lost"] or 0)}


def count_kept(pairs: DataFrame, *, min_count: int, top: int) -> dict[str, int]:
    """Different pairs and meetings counted, pairs dropped as rare, rows cut off beyond the top of an item."""
    met = pairs.agg(
        F.count(F.lit(1)).alias("pairs"),
        F.sum("count").alias("meetings"),
        F.count(F.when(F.col("count") < min_count, 1)).alias("pairs_below_min_count"),
    ).first()
    ends = pairs.where(F.col("count") >= min_count).select(F.explode(F.array("item_i", "item_j")).alias("item"))
    degrees = ends.groupBy("item").count()
    cut = degrees.agg(F.count(F.lit(1)).alias("items"), F.sum(F.greatest(F.col("count") - top, F.lit(0))).alias("beyond_top")).first()
    assert met is not None
    assert cut is not None
    counted = {**met.asDict(), "items_with_neighbours": cut["items"], "rows_beyond_top": cut["beyond_top"]}
    return {name: int(value or 0) for name, value in counted.items()}


def negatives_of(counted: Mapping[str, int]) -> str:
    """How items that met in no session are known: `exact` where all pairs can be held, else `stored`: those in no row of cooc.

    Source: MicRec 3.5, "all items that have not co-occurred with d_i in any session".
    """
    return "exact" if counted["pairs"] <= MAX_EXACT_PAIRS else "stored"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """The job: count, drop rare pairs, weigh, keep the strongest."""
    settings, facts = context.settings.cooc, context.facts
    rule = resolve_rule(settings, has_clock=bool(facts["has_clock"]), session_kind=str(facts["session_kind"]))
    name = category_field(settings, context.registry)
    categories = tables["item_feat"].select("idx", F.col(name).alias("category")) if name else None
    session = context.settings.session
    if session.pair_max_dt_s is None:
        pairs = count_pairs(tables["sessions"], rule).persist()
    else:
        cuts = resolve_cuts(session, has_clock=bool(facts["has_clock"]), has_sessions=bool(facts["has_sessions"]))
        pairs = count_close_pairs(tables["events"], cuts, rule, max_dt_s=session.pair_max_dt_s).persist()
    counters: dict[str, Any] = {"counting": rule.counting, **count_chunking(tables["sessions"], rule)}
    kept = count_kept(pairs, min_count=settings.min_count, top=settings.top)
    context.counters.update(counters | kept | {"negatives": negatives_of(kept)})
    frequent = pairs.where(F.col("count") >= settings.min_count)
    return {"cooc": strongest(weigh(frequent, categories, beta=settings.beta), top=settings.top)}


JOB = Job(name="cooccurrence", transform=transform, doc="Count how often two items met in a session.")

if __name__ == "__main__":
    sys.exit(main(JOB))
