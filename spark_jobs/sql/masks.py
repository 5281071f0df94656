"""The masks of `conf.masks`, bit for bit, as Spark SQL columns."""

import math
from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.masks import UH_B, FieldRule, Masking
from conf.schemas.columns import mask_type
from spark_jobs.sql.draws import draws53, let, words64

_SPARK_TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}


def with_masks(samples: DataFrame, masking: Masking) -> DataFrame:
    """Add um_<v><e>, uh_<v><e>, vm_<v><e> for each draw e and masked view v, as in table samples; needs sample_id and hist_len."""
    sample_id, hist_len = F.col("sample_id"), F.col("hist_len")
    length, seed, p_field = masking.history, masking.seed, masking.p_field
    columns: list[Column] = []
    for draw in range(masking.draws):
        for view in masking.views:
            user = hidden_fields(masking.fields("user", view), sample_id, p=p_field, seed=seed, draw=draw)
            what = masking.history_word(view)
            hist = history_mask(sample_id, hist_len, length, p=masking.p_hist, seed=seed, draw=draw, what=what)
            item = hidden_fields(masking.fields("item", view), sample_id, p=p_field, seed=seed, draw=draw)
            masks = (("um", user, masking.user_fields), ("uh", hist, length), ("vm", item, masking.item_fields))
            columns += [mask.cast(_SPARK_TYPES[mask_type(bits)]).alias(f"{name}_{view}{draw}") for name, mask, bits in masks]
    return samples.select("*", *columns)


def hidden_fields(rule: FieldRule, sample_id: Column, *, p: float, seed: int, draw: int) -> Column:
    """bigint mask sets by the rule; p: of kind each."""
    if rule.kind == "none":
        return F.lit(0).cast("bigint")
    if rule.kind == "each":
        return field_mask(sample_id, rule.num_fields, p=p, seed=seed, draw=draw, what=rule.what)
    if rule.kind == "half":
        mask = half_mask(sample_id, rule.num_fields, seed=seed, draw=draw, what=rule.what)
    else:
        mask = pattern_mask(sample_id, rule.patterns, seed=seed, draw=draw, what=rule.what)
    return F.lit(rule.all_fields).cast("bigint") - mask if rule.inverted else mask


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


def half_mask(sample_id: Column, num_fields: int, *, seed: int, draw: int, what: int) -> Column:
    """bigint masks of the num_fields // 2 fields with the smallest numbers, ties by lower field: the first half of a permutation."""

    def hidden(drawn: Column) -> Column:
        ordered = F.array_sort(F.transform(drawn, lambda number, field: F.struct(number.alias("number"), field.alias("field"))))
        chosen = F.slice(ordered, 1, num_fields // 2)["field"]
        return let(chosen, lambda fields: F.transform(drawn, lambda _, field: F.array_contains(fields, field)))

    return pack(let(draws53(num_fields, seed, sample_id, draw, what), hidden))


def pattern_mask(sample_id: Column, patterns: Sequence[int], *, seed: int, draw: int, what: int) -> Column:
    """bigint: of each sample one of the patterns, all equally likely."""
    drawn = F.shiftrightunsigned(words64(seed, sample_id, draw, what), 11).cast("double") * F.lit(2.0**-53)
    place = F.least((drawn * F.lit(float(len(patterns)))).cast("int"), F.lit(len(patterns) - 1))
    return F.element_at(F.array(*[F.lit(pattern).cast("bigint") for pattern in patterns]), place + 1)


def history_mask(sample_id: Column, hist_len: Column, length: int, *, p: float, seed: int, draw: int, what: int = UH_B) -> Column:
    """bigint masks of `length` positions, oldest first: each of the first hist_len - 1 is dropped with probability p.

    The most recent click is always kept, so that a history never becomes empty; padding has no bit set.
    """
    threshold = _threshold(p)
    drawn = draws53(length, seed, sample_id, draw, what)
    return pack(F.transform(drawn, lambda number, position: (number < threshold) & (position < hist_len - 1)))


def pack(bits: Column) -> Column:
    """array<boolean> -> bigint, element f becoming bit f; at most 63 elements."""
    return F.aggregate(F.reverse(bits), F.lit(0).cast("bigint"), lambda packed, bit: packed * 2 + bit.cast("bigint"))


def _threshold(p: float) -> int:
    """The smallest integer n with n * 2^-53 >= p: a draw in integers lies below it exactly where the draw in doubles lies below p."""
    return math.ceil(p * 2**53)
