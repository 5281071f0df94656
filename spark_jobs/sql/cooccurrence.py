"""sessions -> pairs of items that met, counted and weighed, in Spark SQL; for pairs close in time, from the events.

Source: MicRec 3.5 ("any two items in a session have one co-occurrence relation"), 4.1 (pairs of one category count more) and 5.3
(items within an hour of each other).
"""

from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.fields import FIRST_ID
from conf.tables import TRAIN
from spark_jobs.session_cuts import Rule
from spark_jobs.sql.histories import cut

Counting = Literal["set", "multiset", "window"]


def count_pairs(sessions: DataFrame, *, counting: Counting, window: int, max_session_items: int) -> DataFrame:
    """(item_i int, item_j int, count long) for every two different items that met, item_i < item_j.

    set: a session counts once for each two different items in it. multiset: n_i * n_j times. window: once if they are clicked within
    `window` positions of each other. Sessions of more than `max_session_items` distinct items are cut into chunks of that many, in
    order of first click (set and multiset; a window needs no bound). Of `sessions` only `items` is read.
    """
    if counting == "window":
        return _summed(_met_in_window(sessions, window))
    return _summed(_met_in_chunks(sessions, max_session_items, multiset=counting == "multiset"))


def count_close_pairs(
    events: DataFrame, cuts: Rule, *, counting: Counting, window: int, max_session_items: int, max_dt_s: int
) -> DataFrame:
    """As `count_pairs`, of the clicks that lie at most `max_dt_s` apart, from events of every split cut into the same sessions.

    multiset: as often as two such clicks met. The work grows with the square of a session's clicks.
    """
    # No two sessions of a user have the same first click.
    name = F.struct("user_idx", F.col("clicks")[0]["position"]).alias("session")
    train = F.filter("clicks", lambda click: click["split"] == TRAIN).alias("clicks")
    sessions = cut(events, cuts).select(name, train).withColumn("distinct", F.array_distinct("clicks.item_idx"))
    reach = window if counting == "window" else F.size("clicks")
    both = sessions.select("session", "distinct", "clicks", F.posexplode("clicks").alias("at", "one")).select(
        "session", "distinct", "one", F.explode(F.slice("clicks", F.col("at") + 2, reach)).alias("other")
    )
    one, other = F.col("one.item_idx"), F.col("other.item_idx")
    met = both.where((one != other) & (F.col("other.ts") - F.col("one.ts") <= max_dt_s))
    if counting != "window":
        met = met.where(_chunk_of(one, max_session_items) == _chunk_of(other, max_session_items))
    met = met.select("session", _pair(one, other).alias("pair"), F.lit(1).alias("times"))
    return _summed(met if counting == "multiset" else met.distinct())


def _met_in_window(sessions: DataFrame, window: int) -> DataFrame:
    """(pair, times): each session's different pairs within `window` clicks, once a session."""

    def pairs_of(item: Column, at: Column) -> Column:
        others = F.filter(F.slice("items", at + 2, window), lambda other: other != item)
        return F.transform(others, lambda other: _pair(item, other))

    met = F.array_distinct(F.flatten(F.transform("items", pairs_of)))
    return sessions.select(F.explode(met).alias("pair"), F.lit(1).alias("times"))


def _met_in_chunks(sessions: DataFrame, max_items: int, *, multiset: bool) -> DataFrame:
    """(pair, times): each chunk's pairs of distinct items, with 1 or n_i * n_j."""

    def entry(item: Column) -> Column:
        times = F.size(F.filter("items", lambda other: other == item)) if multiset else F.lit(1)
        return F.struct(item.alias("item"), times.cast("bigint").alias("times"))

    # array_distinct keeps the order of first click.
    entries = sessions.select(F.transform(F.array_distinct("items"), entry).alias("entries")).where(F.size("entries") > 1)
    starts = F.sequence(F.lit(1), F.size("entries"), F.lit(max_items))
    chunks = entries.select(F.explode(F.transform(starts, lambda start: F.slice("entries", start, max_items))).alias("chunk"))
    both = chunks.select("chunk", F.posexplode("chunk").alias("at", "one")).select(
        "one", F.explode(F.slice("chunk", F.col("at") + 2, max_items)).alias("other")
    )
    pair = _pair(F.col("one.item"), F.col("other.item"))
    return both.select(pair.alias("pair"), (F.col("one.times") * F.col("other.times")).alias("times"))


def _chunk_of(item: Column, max_items: int) -> Column:
    """The chunk of its session that an item belongs to."""
    return F.floor((F.array_position("distinct", item) - 1) / max_items)


def _pair(one: Column, other: Column) -> Column:
    """item_i << 32 | item_j: one bigint is less to shuffle than a struct, and quicker to find twice."""
    return F.shiftleft(F.least(one, other).cast("bigint"), 32).bitwiseOR(F.greatest(one, other).cast("bigint"))


def _summed(met: DataFrame) -> DataFrame:
    counted = met.groupBy("pair").agg(F.sum("times").alias("count"))
    low = F.col("pair").bitwiseAND(F.lit(0xFFFFFFFF)).cast("int")
    return counted.select(F.shiftright("pair", 32).cast("int").alias("item_i"), low.alias("item_j"), "count")


def weigh(pairs: DataFrame, categories: DataFrame | None, *, beta: float, filter_categories: bool = False) -> DataFrame:
    """Add same_category and weight = count * (1 + beta * same_category).

    categories: (idx, category), an id or an array of ids; None = nothing is known. Equal = the same id, or a shared one, of a real
    value: unknown never equals unknown. filter_categories: pairs whose categories are both known and differ weigh 0, and are dropped.
    """
    same, both_known = F.lit(False), F.lit(False)
    if categories is not None:
        one = categories.select(F.col("idx").alias("item_i"), F.col("category").alias("category_i"))
        other = categories.select(F.col("idx").alias("item_j"), F.col("category").alias("category_j"))
        pairs = pairs.join(one, "item_i", how="left").join(other, "item_j", how="left")
        multi = categories.schema["category"].dataType.typeName() == "array"
        left, right = F.col("category_i"), F.col("category_j")
        same = F.arrays_overlap(left, right) if multi else (left == right) & (left >= FIRST_ID)
        both_known = _known(left, multi=multi) & _known(right, multi=multi)
    weighed = pairs.withColumn("same_category", F.coalesce(same, F.lit(False)))
    if filter_categories:
        weighed = weighed.where(F.col("same_category") | ~F.coalesce(both_known, F.lit(False)))
    weight = F.col("count") * (1 + F.lit(beta) * F.col("same_category").cast("int"))
    return weighed.select(
        "item_i", "item_j", F.col("count").cast("int").alias("count"), "same_category", weight.cast("float").alias("weight")
    )


def _known(category: Column, *, multi: bool) -> Column:
    """Whether a category holds a real value; null where the item has no row."""
    return F.exists(category, lambda value: value >= FIRST_ID) if multi else category >= FIRST_ID


def both_ways(pairs: DataFrame) -> DataFrame:
    """Every pair once for each of its items: cooc_pairs."""
    there, back = (F.struct(F.col(i).alias("item_i"), F.col(j).alias("item_j")) for i, j in (("item_i", "item_j"), ("item_j", "item_i")))
    return pairs.select(F.explode(F.array(there, back)).alias("ends"), F.col("count").cast("int").alias("count")).select("ends.*", "count")


def strongest(weighed: DataFrame, *, top: int) -> DataFrame:
    """Both directions of each pair; of each item_i the `top` pairs of largest weight, ties by smaller item_j."""
    there, back = (F.struct(F.col(i).alias("item_i"), F.col(j).alias("item_j")) for i, j in (("item_i", "item_j"), ("item_j", "item_i")))
    mirrored = weighed.select(F.explode(F.array(there, back)).alias("ends"), "count", "same_category", "weight")
    rank = F.row_number().over(Window.partitionBy("item_i").orderBy(F.col("weight").desc(), "item_j"))
    columns = ("item_i", "item_j", "count", "same_category", "weight")
    return (
        mirrored.select("ends.*", "count", "same_category", "weight").withColumn("rank", rank).where(F.col("rank") <= top).select(*columns)
    )


def count_chunking(sessions: DataFrame, *, counting: Counting, max_session_items: int) -> dict[str, int]:
    """Sessions that were cut into chunks, and the pairs lost between chunks; nothing is cut in a window."""
    if counting == "window":
        return {"sessions_chunked": 0, "pairs_lost_by_chunking": 0}
    size, cap = F.size(F.array_distinct("items")).cast("long"), max_session_items
    sizes = sessions.select(size.alias("n")).where(F.col("n") > cap)
    rest, full = F.col("n") % cap, F.floor(F.col("n") / cap)
    kept = full * (cap * (cap - 1) // 2) + rest * (rest - 1) / 2
    row = sizes.agg(F.count(F.lit(1)).alias("chunked"), F.sum(F.col("n") * (F.col("n") - 1) / 2 - kept).alias("lost")).first()
    assert row is not None
    return {"sessions_chunked": row["chunked"], "pairs_lost_by_chunking": int(row["lost"] or 0)}


def count_kept(pairs: DataFrame, weighed: DataFrame, *, min_count: int, top: int) -> dict[str, int]:
    """Different pairs and meetings counted; pairs dropped as rare, then by category; rows cut off beyond the top of an item.

    weighed: what `weigh` leaves of the pairs that are not rare.
    """
    met = pairs.agg(
        F.count(F.lit(1)).alias("pairs"),
        F.sum("count").alias("meetings"),
        F.count(F.when(F.col("count") < min_count, 1)).alias("pairs_below_min_count"),
    ).first()
    degrees = weighed.select(F.explode(F.array("item_i", "item_j")).alias("item")).groupBy("item").count()
    left = degrees.agg(
        F.count(F.lit(1)).alias("items_with_neighbours"),
        F.sum(F.greatest(F.col("count") - top, F.lit(0))).alias("rows_beyond_top"),
        (F.sum("count") / 2).alias("pairs"),
    ).first()
    assert met is not None
    assert left is not None
    counted = {name: int(value or 0) for name, value in {**left.asDict(), **met.asDict()}.items()}
    frequent = counted["pairs"] - counted["pairs_below_min_count"]
    return counted | {"pairs_of_other_category": frequent - int(left["pairs"] or 0)}
