"""What the fields of users or items tell about each other, for strategy cfm: mutual information of all pairs by one Spark job a side.

MI(X, Y) = sum of p(x, y) ln(p(x, y) / (p(x) p(y))) = H(X) + H(Y) - H(X, Y), in nats. Each item (or user) with a train click counts
once; of its n values in a field each counts 1 / n, of two fields each pair of values 1 / (n m). An empty list is a value of its own,
and so is OOV: values that are missing (of single fields) or rare.

Source: Yao et al. 2021, "Self-supervised learning for large-scale item recommendations", eq. 4.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.fields import FIRST_ID, PAD, Field
from conf.masks import correlated
from conf.tables import TRAIN
from spark_jobs.context import Context

MAX_VALUES = 10  # values of a row that count, the first ones: what towers embed
_WHOLE = 2520  # divisible by 1 to 10: a share of it is a whole number, and sums of these are the same in any order
_DIGITS = 10  # of nats: what is equal by its formula is then equal in numbers, too, and ties are ties

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Information:
    """Of the k fields of one side. rows: items or users that count. nats: float64[k, k], mutual information; entropies in the diagonal."""

    fields: tuple[str, ...]
    rows: int
    nats: Matrix

    def normalised(self, how: str) -> Matrix:
        """float64[k, k]: nats, divided by the smaller entropy of each two (min_entropy) or the root of their product (sqrt); 0 / 0 = 0."""
        if how == "none":
            return self.nats
        entropy = np.diag(self.nats)
        by = np.minimum(entropy[:, None], entropy) if how == "min_entropy" else np.sqrt(entropy[:, None] * entropy)
        return np.round(np.divide(self.nats, by, out=np.zeros_like(by), where=by > 0), _DIGITS)


def patterns_of(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, list[int]]:
    """Of each side what strategy cfm hides together (`conf.masks.correlated`); counted, and told to later jobs as fact `mask_patterns`."""
    mi, patterns, counted = context.settings.samples.masks.mi, dict[str, list[int]](), dict[str, Any]()
    for side, fields in (("user", context.registry.user), ("item", context.registry.item)):
        clicked = tables["events"].where(F.col("split") == TRAIN).select(F.col(f"{side}_idx").alias("idx")).distinct()
        found = measure(tables[f"{side}_feat"].join(clicked, "idx", how="left_semi"), fields, max_values=mi.max_values)
        patterns[side] = list(correlated(found.normalised(mi.normalise)))
        counted[side] = {"rows": found.rows, "fields": list(found.fields), "nats": found.nats.round(6).tolist()}
    context.counters["mutual_information"] = counted
    context.facts["mask_patterns"] = patterns
    return patterns


def measure(features: DataFrame, fields: Sequence[Field], *, max_values: int) -> Information:
    """The mutual information of these fields of user_feat or item_feat, by one Spark job; its result has a row for each pair.

    The id field (first, where there is one) is not looked at: it tells the row, hence every other field, so that MI(id, f) = H(f).
    max_values: most frequent values of a field that count each; all others are one more.
    """
    given = [field for field in fields if field.name != f"{field.side}_id"]
    found = {(row.x, row.y): row for row in plogp(features, given, max_values=max_values).collect()} if given else {}
    rows = int(next(iter(found.values())).mass) // _WHOLE**2 if found else features.count()
    entropy: dict[tuple[int, int], float] = {at: math.log(row.mass) - float(row.plogp) / row.mass for at, row in found.items()}
    place = {field.name: number for number, field in enumerate(given)}

    def nats(one: Field, other: Field) -> float:
        x, y = sorted(place.get(field.name, -1) for field in (one, other))
        if not rows:
            return 0.0
        if x < 0:
            return entropy[y, y] if y >= 0 else math.log(rows)
        return entropy[x, x] if x == y and one is other else entropy[x, x] + entropy[y, y] - entropy[x, y]

    matrix = np.array([[nats(one, other) for other in fields] for one in fields]).reshape(len(fields), len(fields))
    return Information(tuple(field.name for field in fields), rows, matrix.round(_DIGITS).clip(min=0))


def plogp(features: DataFrame, fields: Sequence[Field], *, max_values: int) -> DataFrame:
    """A row for each two fields x <= y by number: mass (bigint) and plogp (decimal), sums over their values of m and m ln m.

    A row of `features` has mass _WHOLE^2. For x = y a value meets itself only.
    """
    values = features.select(*[_values(field, max_values).alias(f"values_{n}") for n, field in enumerate(fields)])
    pairs = combinations_with_replacement(range(len(fields)), 2)
    cells = values.select(F.explode(F.concat(*[_cells(fields, x, y) for x, y in pairs])).alias("cell")).select("cell.*")
    counted = cells.groupBy("x", "y", "value_x", "value_y").agg(F.sum("mass").alias("mass"))
    # decimals: unlike doubles their sum does not depend on the order, hence not on partitions
    term = (F.col("mass") * F.log(F.col("mass"))).cast("decimal(38,12)")
    return counted.groupBy("x", "y").agg(F.sum("mass").alias("mass"), F.sum(term).alias("plogp"))


def _values(field: Field, max_values: int) -> Column:
    """array<int>: ids, those beyond the most frequent ones as one id; [0] where there is none."""
    column, other = F.col(field.name), F.lit(FIRST_ID + max_values)
    if field.role == "single":
        return F.array(F.least(column, other))
    kept = F.transform(F.slice(column, 1, MAX_VALUES), lambda value: F.least(value, other))
    return F.when(F.size(column) > 0, kept).otherwise(F.array(F.lit(PAD)))


def _cells(fields: Sequence[Field], x: int, y: int) -> Column:
    """array<struct<x, y, value_x, value_y, mass>>: of one row, what it adds to the pairs of values of fields x and y."""
    of_x, of_y = F.col(f"values_{x}"), F.col(f"values_{y}")

    def cell(value_x: Column, value_y: Column, mass: Column) -> Column:
        names = {"x": F.lit(x), "y": F.lit(y), "value_x": value_x, "value_y": value_y, "mass": mass.cast("bigint")}
        return F.struct(*[column.alias(name) for name, column in names.items()])

    if fields[x].role == fields[y].role == "single":
        return F.array(cell(of_x[0], of_y[0], F.lit(_WHOLE**2)))
    share_x, share_y = F.lit(_WHOLE) / F.size(of_x), F.lit(_WHOLE) / F.size(of_y)
    if x == y:
        return F.transform(of_x, lambda value: cell(value, value, share_x * _WHOLE))
    met = F.transform(of_x, lambda one: F.transform(of_y, lambda other: cell(one, other, share_x * share_y)))
    return F.flatten(met)
