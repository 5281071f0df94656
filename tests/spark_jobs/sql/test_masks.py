"""Draws and masks in Spark SQL: bit for bit those of conf.draws and conf.masks."""

import random

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from conf.draws import u01, words64
from conf.masks import UH_A, UM_A, UM_B, Masking, correlated, field_mask, half_mask, history_mask, masks_of, pattern_mask
from conf.schemas.columns import mask_columns
from conf.schemas.table import Shape
from spark_jobs.schema import type_name
from spark_jobs.sql import draws, masks
from tests.spark_jobs.small_logs import settings_of

DRAW = random.Random(5)
IDS = [0, 1, -1, 2**63 - 1, -(2**63), (2**31 - 1) << 32, *(DRAW.randrange(2**63) for _ in range(200))]
SAMPLES = [(sample_id, n % 8) for n, sample_id in enumerate(IDS)]


@pytest.fixture(scope="module")
def samples(spark):
    return spark.createDataFrame(SAMPLES, "sample_id bigint, hist_len smallint").coalesce(1).persist()


def collected(samples, columns):
    """{name: int64[n]}, rows in order."""
    rows = {row.sample_id: row for row in samples.select("sample_id", *[column.alias(name) for name, column in columns.items()]).collect()}
    return {name: np.array([rows[sample_id][name] for sample_id in IDS], dtype=np.int64) for name in columns}


def test_the_words_are_those_of_splitmix64(samples):
    ids = np.array(IDS)
    cases = {"one": (17,), "more": (0, 3, 2), "large": (2**64 - 1, 2**63 + 5), "negative": (-1, -7)}
    found = collected(samples, {name: draws.words64(seed, F.col("sample_id"), *words) for name, (seed, *words) in cases.items()})
    for name, (seed, *words) in cases.items():
        assert (found[name].view(np.uint64) == words64(seed, ids, *words)).all(), name
    # The first outputs of splitmix64 with seed 0, as its authors publish them.
    first = samples.limit(1).select(draws.mix(F.lit(0).cast("bigint"))).first()[0] % 2**64
    assert first == 0xE220A8397B1DCDAF


def test_the_draws_are_those_of_u01(samples):
    found = collected(samples, {f"d{n}": draws.draws53(4, 17, F.col("sample_id"), 1, 2)[n] for n in range(4)})
    for n in range(4):
        assert (found[f"d{n}"] * 2.0**-53 == u01(17, np.array(IDS), 1, 2, n)).all()


@pytest.mark.parametrize("num_fields", [1, 2, 7, 20])
def test_field_masks_are_those_of_conf_masks(samples, num_fields):
    cases = {f"p{n}": p for n, p in enumerate((0.0, 0.3, 0.97, 1.0))}
    rest = {"seed": 23, "draw": 2, "what": UM_B}
    found = collected(samples, {name: masks.field_mask(F.col("sample_id"), num_fields, p=p, **rest) for name, p in cases.items()})
    for name, p in cases.items():
        assert (found[name] == field_mask(np.array(IDS), num_fields, p=p, **rest)).all(), p
    if num_fields > 1:
        assert all(0 < mask < 2**num_fields - 1 for of_p in found.values() for mask in of_p.tolist())


@pytest.mark.parametrize("length", [5, 63])
def test_history_masks_are_those_of_conf_masks(samples, length):
    lengths = F.least(F.col("hist_len") * 9, F.lit(length))
    hist_len = np.minimum(np.array([n for _, n in SAMPLES]) * 9, length)
    cases = {f"p{n}": p for n, p in enumerate((0.0, 0.2, 1.0))}
    rest = {"seed": 2**40, "draw": 1, "what": UH_A}
    found = collected(samples, {name: masks.history_mask(F.col("sample_id"), lengths, length, p=p, **rest) for name, p in cases.items()})
    for name, p in cases.items():
        assert (found[name] == history_mask(np.array(IDS), hist_len, length, p=p, **rest)).all(), p


def test_a_draw_equal_to_the_threshold_is_not_below_it():
    for p in (0.3, 2.0**-53, 2.0**-60, 0.5, 1 - 2.0**-53, 1.0):
        at = masks._threshold(p)
        assert at * 2.0**-53 >= p > (at - 1) * 2.0**-53
    assert masks._threshold(0.0) == 0


@pytest.mark.parametrize("num_fields", [5, *(pytest.param(num, marks=pytest.mark.slow) for num in (2, 63))])
def test_halves_and_patterns_are_those_of_conf_masks(samples, num_fields):
    patterns = correlated(np.random.default_rng(4).random((num_fields, num_fields)))
    rest = {"seed": -3, "draw": 1, "what": UM_A}
    cases = {
        "half": masks.half_mask(F.col("sample_id"), num_fields, **rest),
        "pattern": masks.pattern_mask(F.col("sample_id"), patterns, **rest),
    }
    found = collected(samples, cases)
    assert (found["half"] == half_mask(np.array(IDS), num_fields, **rest)).all()
    assert (found["pattern"] == pattern_mask(np.array(IDS), patterns, **rest)).all()


@pytest.mark.parametrize("strategy", ["random_p", pytest.param("rfm", marks=pytest.mark.slow), "cfm"])
def test_the_columns_are_those_of_table_samples(samples, strategy):
    fields = {"user": ["user_id", "city", "hobbies"], "item": ["item_id", "tags"]}
    asked = settings_of(model={"history": 9, "fields": fields})
    wanted = mask_columns(asked.registry(), Shape(history=9, mask_draws=2, strategy=strategy))
    masking = Masking(9, 3, 2, 0.3, 0.2, 2, 17, strategy, user_patterns=(3, 6, 5), item_patterns=(1, 2))
    made = masks.with_masks(samples, masking)
    assert [(field.name, type_name(field.dataType)) for field in made.schema.fields[2:]] == [(c.name, c.type) for c in wanted]
    found = collected(made, {column.name: F.col(column.name) for column in wanted})
    ids, hist_len = np.array(IDS), np.array([n for _, n in SAMPLES])
    expected = masks_of(masking, ids, hist_len, 0) | masks_of(masking, ids, hist_len, 1)
    assert list(found) == list(expected)
    assert all((found[name] == expected[name]).all() for name in found)


def test_arithmetic_that_would_not_wrap_is_an_error_not_another_mask(spark, samples):
    spark.conf.set("spark.sql.ansi.enabled", "true")
    try:
        with pytest.raises(PySparkException, match="ARITHMETIC_OVERFLOW"):
            samples.select(draws.words64(17, F.col("sample_id"))).collect()
    finally:
        spark.conf.set("spark.sql.ansi.enabled", "false")
