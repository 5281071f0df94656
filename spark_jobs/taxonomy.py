"""Items that share a value of a field (a category, a tag) as each other's neighbours, a bounded number each.

Source: MicRec 3.4 takes items of one taxonomy as positives of each other. All pairs of a large category would be too many, and its most
clicked items alone would be everybody's neighbours: so the items of a value stand in a circle in the order of a hash, and each takes
those that follow it. Every item of a value is then taken as often as any other.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F


def by_taxonomy(items: DataFrame, *, top: int, seed: int) -> DataFrame:
    """(idx, values array<string>) -> (idx, near array<struct<distance double, item int>>), nearest first, ties by smaller item.

    distance: minus the share of the two items' values that they have in common (Jaccard), so -1 where each has the same one. Of each
    value `top` items are looked at, those that follow in its circle; the `top` of most in common are kept.
    """
    sets = items.select("idx", F.array_distinct(F.filter("values", lambda value: value.isNotNull())).alias("values"))
    placed = _in_circles(sets.select("idx", F.explode("values").alias("value")), seed)
    steps = F.sequence(F.lit(1), F.least(F.lit(top), F.col("size") - 1))
    asking = placed.where(F.col("size") > 1).select("idx", "value", "place", "size", F.explode(steps).alias("step"))
    asking = asking.select("idx", "value", F.pmod(F.col("place") + F.col("step"), F.col("size")).alias("place"))
    found = asking.join(placed.select(F.col("idx").alias("item"), "value", "place"), ["value", "place"], how="inner")
    pairs = found.select("idx", "item").distinct()
    pairs = pairs.join(sets, "idx", how="inner").join(sets.select(F.col("idx").alias("item"), F.col("values").alias("others")), "item")
    near = F.array_sort(F.collect_list(F.struct((-_jaccard()).alias("distance"), "item")))
    return pairs.groupBy("idx").agg(F.slice(near, 1, top).alias("near"))


def _in_circles(values: DataFrame, seed: int) -> DataFrame:
    """Add place (0, 1, ... in the value's circle) and size, the number of its items."""
    same = Window.partitionBy("value")
    order = same.orderBy(F.xxhash64("idx", "value", F.lit(seed)), "idx")
    return values.withColumns({"place": F.row_number().over(order) - 1, "size": F.count(F.lit(1)).over(same).cast("int")})


def _jaccard() -> Column:
    shared, every = F.size(F.array_intersect("values", "others")), F.size(F.array_union("values", "others"))
    return shared.cast("double") / every
