"""The masks of view b as in `conf.masks`, bit for bit, as Spark SQL columns.

Strategy random_p (MIC 3.3.1): each field on its own with probability p. Bit f of a mask set = field or position f is hidden.
"""

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.masks import UH_B, UM_B, VM_B
from conf.schemas.columns import mask_type
from spark_jobs.sql.draws import draws53, let

_SPARK_TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}


def with_masks(
    samples: DataFrame,
    *,
    history: int,
    num_user_fields: int,
    num_item_fields: int,
    p_field: float,
    p_hist: float,
    draws: int,
    seed: int,
) -> DataFrame:
    """Add um_b<e>, uh_b<e>, vm_b<e> for each draw e, in the order and types of table samples; needs sample_id and hist_len."""
    sample_id, hist_len = F.col("sample_id"), F.col("hist_len")
    columns: list[Column] = []
    for draw in range(draws):
        user = field_mask(sample_id, num_user_fields, p=p_field, seed=seed, draw=draw, what=UM_B)
        hist = history_mask(sample_id, hist_len, history, p=p_hist, seed=seed, draw=draw)
        item = field_mask(sample_id, num_item_fields, p=p_field, seed=seed, draw=draw, what=VM_B)
        masks = (("um_b", user, num_user_fields), ("uh_b", hist, history), ("vm_b", item, num_item_fields))
        columns += [mask.cast(_SPARK_TYPES[mask_type(bits)]).alias(f"{name}{draw}") for name, mask, bits in masks]
    return samples.select("*", *columns)


def field_mask(sample_id: Column, num_fields: int, *, p: float, seed: int, draw: int, what: int) -> Column:
    """bigint masks of `num_fields` fields: never all, and never none, so that the two views differ but share something.

    Nothing masked: the field with the smallest number is. Everything masked: the field with the largest number is not.
    With fewer than two fields both cannot hold, and nothing is masked.
    """
    if num_fields < 2:
        return F.lit(0).cast("bigint")
    threshold = _threshold(p)

    def hidden(drawn: Column) -> Column:
        smallest, largest = F.array_min(drawn), F.array_max(drawn)
        one = F.transform(drawn, lambda _, field: field + 1 == F.array_position(drawn, smallest))
        all_but_one = F.transform(drawn, lambda _, field: field + 1 != F.array_position(drawn, largest))
        each = F.transform(drawn, lambda number: number < threshold)
        return F.when(smallest >= threshold, one).when(largest < threshold, all_but_one).otherwise(each)

    return pack(let(draws53(num_fields, seed, sample_id, draw, what), hidden))


def history_mask(sample_id: Column, hist_len: Column, length: int, *, p: float, seed: int, draw: int) -> Column:
    """bigint masks of `length` positions, oldest first: each of the first hist_len - 1 is dropped with probability p.

    The most recent click is always kept, so that a history never becomes empty; padding has no bit set.
    """
    threshold = _threshold(p)
    drawn = draws53(length, seed, sample_id, draw, UH_B)
    return pack(F.transform(drawn, lambda number, position: (number < threshold) & (position < hist_len - 1)))


def pack(bits: Column) -> Column:
    """array<boolean> -> bigint, element f becoming bit f; at most 63 elements."""
    return F.aggregate(F.reverse(bits), F.lit(0).cast("bigint"), lambda packed, bit: packed * 2 + bit.cast("bigint"))


def _threshold(p: float) -> int:
    """The smallest integer n with n * 2^-53 >= p: a draw in integers lies below it exactly where the draw in doubles lies below p."""
    return math.ceil(p * 2**53)
