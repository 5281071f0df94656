"""Lists scored through Spark: against the slow twins, by slices of items, whatever the partitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_jobs.metrics import ACCURACY, VARIETY, scoring
from spark_jobs.metrics.lists import Items
from spark_jobs.metrics.scoring import COUNTS, first_items, measured, score
from tests.spark_jobs.metrics.blocks import batch, known
from tests.spark_jobs.metrics.slow import twin, variety_twin

LISTS = "user_idx int, channel string, items array<int>"
UNITS = "user_idx int, clicked array<int>"
Cell = tuple[int, str, str, int]


def scored(
    spark: SparkSession,
    lists: Mapping[tuple[int, str], Sequence[int]],
    clicked: Mapping[int, Sequence[int]],
    at: Sequence[int],
    items: Items,
    channels: Sequence[str] = ("a",),
) -> DataFrame:
    rows = spark.createDataFrame([(user, channel, list(mine)) for (user, channel), mine in lists.items()], LISTS)
    units = spark.createDataFrame([(user, sorted(mine)) for user, mine in clicked.items()], UNITS)
    return score(first_items(rows, max(at)), units, items, channels=channels, at=at)


def cells(df: DataFrame) -> dict[Cell, dict[str, float | None]]:
    rows = [row.asDict() for row in df.collect()]
    return {(row.pop("user_idx"), row.pop("channel"), row.pop("slice"), row.pop("n")): row for row in rows}


def test_spark_agrees_with_the_twins(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    # P8.9: random lists, some missing, some shorter than N, clicks repeated
    rng = np.random.default_rng(0)
    at, channels, some = [1, 5, 20], ["a", "b"], np.arange(1, 61)
    clicks, category = rng.integers(0, 9, 60), rng.choice([0, 4, 5], 60)
    items = known(clicks.tolist(), category.tolist())
    clicked = {user: rng.choice(some, rng.integers(1, 30)).tolist() for user in range(1, 41)}
    lists = {
        (user, c): rng.choice(some, rng.integers(0, 30), replace=False).tolist() for user in clicked for c in channels if rng.random() < 0.9
    }
    monkeypatch.setattr(scoring, "CELLS", 140)  # blocks of seven lists
    found = cells(scored(spark, lists, clicked, at, items, channels))
    assert {key for key in found if key[2] == "all"} == {(user, c, "all", n) for user in clicked for c in channels for n in at}
    about: dict[str, Any] = {
        "clicks": {i + 1: int(c) for i, c in enumerate(clicks)},
        "category": {i + 1: int(c) for i, c in enumerate(category) if c},
        "head": set(np.flatnonzero(items.head).tolist()),
    }
    for user, mine in clicked.items():
        for c in channels:
            for n in at:
                own = lists.get((user, c), [])
                want = twin(own, mine, n) | variety_twin(own, n, **about)
                for name, value in want.items():
                    assert found[user, c, "all", n][name] == (None if value is None else pytest.approx(value, abs=1e-9)), (user, c, n, name)
                # a slice: its items alone are held out, and whoever has none of them is not of it
                for name, wanted in items.slices.items():
                    part = [item for item in mine if wanted[item]]
                    assert ((user, c, name, n) in found) == bool(part)
                    if part:
                        row = found[user, c, name, n]
                        assert {k: row[k] for k in (*ACCURACY, *COUNTS)} == pytest.approx(twin(own, part, n), abs=1e-9)
                        assert [row[k] for k in VARIETY] == [None] * len(VARIETY)


def test_neither_partitions_nor_blocks_nor_names_matter(spark: SparkSession) -> None:
    lists, clicked = {(1, "a"): [4, 2, 7], (2, "a"): [7, 1]}, {1: [2, 7], 2: [1], 3: [5]}
    one = cells(scored(spark, lists, clicked, [2], known([1] * 9)))
    assert (3, "a", "all", 2) in one  # no list: counted as empty
    renamed = {user: [item + 100 for item in mine] for user, mine in clicked.items()}
    other = scored(spark, {key: [item + 100 for item in mine] for key, mine in lists.items()}, renamed, [2], known([1] * 109))
    accurate = (*ACCURACY, *COUNTS)
    assert {key: [row[name] for name in accurate] for key, row in cells(other.repartition(7)).items()} == {
        key: [row[name] for name in accurate] for key, row in one.items()
    }


def test_an_item_that_a_list_repeats_counts_once_at_its_first_place(spark: SparkSession) -> None:
    found = cells(scored(spark, {(1, "a"): [5, 5, 6, 7]}, {1: [5, 6]}, [2], known([1] * 9)))[1, "a", "all", 2]
    assert (found["n_hit"], found["recall"], found["mrr"]) == (2, 1.0, 1.0)


def test_items_that_the_day_did_not_know_are_cold_and_never_found() -> None:
    # -1 and -2 stand before every item of their user, and belong to no other
    made = [pa.Table.from_batches([part]).to_pylist() for part in measured(batch([[1], [2]], [[-2, -1, 1], [2]]), known([3, 3]), [1])]
    found = {(row["user_idx"], row["slice"]): row for rows in made for row in rows}
    assert (found[1, "all"]["n_truth"], found[1, "all"]["n_hit"], found[2, "all"]["recall"]) == (3, 1, 1.0)
    assert (found[1, "cold items"]["n_truth"], found[1, "cold items"]["n_hit"]) == (2, 0)
    assert (2, "cold items") not in found
