"""Which slices each user belongs to, and what is known of every item: its popularity, its category, its slices."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.fields import FIRST_ID, Field
from conf.sections.evaluation import Slices
from conf.tables import TRAIN
from spark_jobs.metrics.lists import F64, I32, I64, Flags, Items

COLD_USERS: Final = "cold users"
COLD_ITEMS: Final = "cold items"
MISSING: Final = "(none)"
OTHER: Final = "(other)"

# ---- items -----------------------------------------------------------------------------------------------------------


def known_items(events: DataFrame, item_feat: DataFrame, category: Field | None, slices: Slices) -> Items:
    """What is known of every item of item_feat, by its train clicks and its category (of a multi field the first)."""
    category_id = _first_value(category) if category else F.lit(0)
    table = item_feat.select("idx", category_id.alias("category")).toArrow()
    counted = events.where(F.col("split") == TRAIN).groupBy("item_idx").count().toArrow()
    size = int(table.column("idx").to_numpy().max(initial=0)) + 1  # row numbers are dense
    clicks, categories = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int32)
    clicks[counted.column("item_idx").to_numpy()] = counted.column("count").to_numpy()
    categories[table.column("idx").to_numpy()] = table.column("category").to_numpy()
    return items_of(clicks, categories if category else None, slices)


def items_of(clicks: I64, category: I32 | None, slices: Slices) -> Items:
    """From the train clicks of every item_idx; row 0 stands for unknown items, which are cold and of the tail."""
    heads, tails = _popular(clicks, slices.head), ~_popular(clicks, slices.tail)
    named = {"item popularity=head": heads, "item popularity=middle": ~(heads | tails), "item popularity=tail": tails}
    if slices.cold_items:
        named[COLD_ITEMS] = clicks < slices.cold_items
    return Items(bits=surprise(clicks), category=category, head=heads, slices=named)


def surprise(clicks: I64) -> F64:
    """-log2 of each item's share of all clicks, every item of the catalogue given one more; row 0 is no item of it."""
    share: F64 = (clicks + 1) / (clicks.sum() + max(len(clicks) - 1, 1))
    return -np.log2(share)


def _popular(clicks: I64, quantile: float) -> Flags:
    """bool[I]: clicked as often as the item at this quantile of the clicked ones, or more often."""
    clicked = clicks[clicks > 0]
    if not len(clicked):
        return np.zeros(len(clicks), dtype=bool)
    found: Flags = clicks >= np.quantile(clicked, quantile, method="higher")
    return found


def _first_value(field: Field) -> Column:
    """The field's id, 0 where it is missing or rare: one category for all rare ones would make them alike."""
    value = F.col(field.name) if field.role == "single" else F.coalesce(F.try_element_at(field.name, F.lit(1)), F.lit(0))
    return F.when(value >= FIRST_ID, value).otherwise(0)


# ---- users -----------------------------------------------------------------------------------------------------------


def user_slices(
    units: DataFrame, user_state: DataFrame, users: DataFrame, user_index: DataFrame, fields: Sequence[Field], asked: Slices
) -> DataFrame:
    """user_idx, slices array<string> of every unit: activity, cold, and a slice a value of each of the user fields."""
    state = user_state.select("user_idx", "num_train")
    known = units.select("user_idx").join(state, "user_idx", how="left").withColumn("num_train", F.coalesce("num_train", F.lit(0)))
    if fields:
        keys = user_index.select(F.col("idx").alias("user_idx"), F.col("key").alias("user_key"))
        about = users.select("user_key", *(field.name for field in fields))
        known = known.join(keys, "user_idx", how="left").join(about, "user_key", how="left").persist()
    labels = [F.array().cast("array<string>")]
    if asked.activity:
        labels.append(F.array(_activity(asked.activity)))
    if asked.cold_users:
        labels.append(F.filter(F.array(F.lit(COLD_USERS)), lambda _: F.col("num_train") < asked.cold_users))
    labels += [_of_field(known, field, asked.values) for field in fields]
    return known.select("user_idx", F.concat(*labels).alias("slices"))


def _activity(starts: Sequence[int]) -> Column:
    """user activity=0-9, =10-49, =50+ for starts 10, 50."""
    clicks = F.col("num_train")
    label = F.lit(f"user activity={starts[-1]}+")
    for low, high in reversed(list(zip([0, *starts], starts, strict=False))):
        span = f"{low}-{high - 1}" if high > low + 1 else str(low)
        label = F.when(clicks < high, f"user activity={span}").otherwise(label)
    return label


def _of_field(known: DataFrame, field: Field, num: int) -> Column:
    """array<string>: field=value for the `num` values of most users, other values together, and users without any."""
    given = F.col(field.name) if field.role == "multi" else F.filter(F.array(field.name), lambda value: value.isNotNull())
    values = F.array_distinct(F.coalesce(given, F.array().cast("array<string>")))
    counted = known.select(F.explode(values).alias("value")).groupBy("value").count()
    frequent = [row["value"] for row in counted.orderBy(F.desc("count"), "value").limit(num).collect()]
    named = F.transform(values, lambda v: F.concat(F.lit(f"{field.name}="), F.when(v.isin(frequent), v).otherwise(OTHER)))
    return F.when(F.size(values) == 0, F.array(F.lit(f"{field.name}={MISSING}"))).otherwise(F.array_distinct(named))
