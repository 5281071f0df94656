"""Blocks of lists for metrics, without Spark."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from conf.sections.evaluation import Slices
from spark_jobs.metrics.groups import items_of
from spark_jobs.metrics.lists import Items, Lists, matrix, truth_of


def known(clicks: Sequence[int], category: Sequence[int] | None = None, **asked: Any) -> Items:
    """Items 1, 2, ... with so many train clicks and these categories (0 = none)."""
    categories = None if category is None else np.array([0, *category], dtype=np.int32)
    return items_of(np.array([0, *clicks], dtype=np.int64), categories, Slices(**asked))


def block(lists: Sequence[Sequence[int] | None], clicked: Sequence[Sequence[int]], n: int, items: Items | None = None) -> Lists:
    """The lists cut at n, and the held-out clicks of their users."""
    items_BN = matrix(pa.array(lists, pa.list_(pa.int32())), n)
    truth = truth_of(pa.array([sorted(mine) for mine in clicked], pa.list_(pa.int32())))
    return Lists.of(items_BN, truth, items if items is not None else known([1] * 99))


def batch(lists: Sequence[Sequence[int] | None], clicked: Sequence[Sequence[int]]) -> pa.RecordBatch:
    """The same as Spark hands them to `measured`: users 1, 2, ... of channel a."""
    columns: Mapping[str, Any] = {
        "user_idx": pa.array(range(1, len(lists) + 1), pa.int32()),
        "channel": pa.array(["a"] * len(lists)),
        "clicked": pa.array([sorted(mine) for mine in clicked], pa.list_(pa.int32())),
        "items": pa.array(lists, pa.list_(pa.int32())),
    }
    return pa.record_batch(list(columns.values()), names=list(columns))
