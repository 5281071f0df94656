"""How near the vectors of what belongs together are, and how evenly all others are spread.

Source: Wang and Isola 2020, "Understanding contrastive representation learning through alignment and uniformity on the hypersphere"
(alpha = 2, t = 2); MIC (Lu et al. 2022) Fig. 4.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.special import logsumexp

from spark_jobs.metrics.lists import F64
from spark_jobs.metrics.scoring import ALL
from spark_jobs.metrics.summary import Number

CHANNEL: Final = "vectors"
_BLOCK: Final = 1_024  # vectors compared with all others at once: 64 MB


def vector_use(users: DataFrame, items: DataFrame, units: DataFrame, *, num: int, seed: int) -> list[Number]:
    """UI-align, UU-uniform and II-uniform as numbers of channel 'vectors' at N = 0, of at most `num` pairs or vectors a side.

    users, items: idx, interest, vector. units: user_idx, truth: their clicked pairs. Of several interests of a user, UI-align
    takes the one nearest to the item, UU-uniform all. Samples are those of the smallest hash. A number without a pair is left out.
    """
    numbers = []
    pairs = units.select("user_idx", F.explode("truth").alias("item_idx")).where(F.col("item_idx") > 0)
    nearest = _nearest(users, items, _least(pairs, num, seed))
    if len(nearest):
        numbers.append(Number(CHANNEL, "ui_align", 0, ALL, alignment(nearest), len(nearest)))
    for name, vectors in (("uu_uniform", users), ("ii_uniform", items)):
        sample = _unit(_least(vectors.select("idx", "interest", "vector"), num, seed).toArrow().column("vector").to_numpy())
        if len(sample) > 1:
            numbers.append(Number(CHANNEL, name, 0, ALL, uniformity(sample), len(sample)))
    return numbers


def alignment(cosines: F64) -> float:
    """Mean squared distance of pairs of unit vectors, by their cosines: in [0, 4]."""
    return float((2 - 2 * cosines).mean())


def uniformity(unit_ND: F64) -> float:
    """ln of the mean of exp(-2 |x - y|^2) over all pairs of two or more unit vectors: in [-8, 0]."""
    size = len(unit_ND)
    parts = []
    for start in range(0, size - 1, _BLOCK):
        cosine = unit_ND[start : start + _BLOCK] @ unit_ND[start:].T
        later = np.triu_indices(len(cosine), k=1, m=cosine.shape[1])
        parts.append(logsumexp(4 * cosine[later] - 4))  # |x - y|^2 = 2 - 2 cos
    return float(logsumexp(parts)) - math.log(size * (size - 1) / 2)


def _least(rows: DataFrame, num: int, seed: int) -> DataFrame:
    """The `num` rows of the smallest hash of their first two columns."""
    order = F.xxhash64(F.lit(seed), *rows.columns[:2])
    return rows.orderBy(order, *rows.columns[:2]).limit(num)


def _unit(vectors: Sequence[F64]) -> F64:
    """float64[n, D], each of length 1, or 0 where it is 0; float64[0, 0] of none."""
    found = np.stack(vectors).astype(np.float64) if len(vectors) else np.zeros((0, 0))
    unit: F64 = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return unit


def _nearest(users: DataFrame, items: DataFrame, pairs: DataFrame) -> F64:
    """The cosine of each pair, that of the nearest interest."""
    mine = users.select(F.col("idx").alias("user_idx"), F.col("vector").alias("user"))
    theirs = items.select(F.col("idx").alias("item_idx"), F.col("vector").alias("item"))
    table = pairs.join(mine, "user_idx", how="inner").join(theirs, "item_idx", how="inner").toArrow()
    user, item = (_unit(table.column(side).to_numpy()) for side in ("user", "item"))
    keys = (table.column("user_idx").to_numpy().astype(np.int64) << 32) + table.column("item_idx").to_numpy()
    _, place = np.unique(keys, return_inverse=True)
    nearest = np.full(place.max(initial=-1) + 1, -np.inf)
    np.maximum.at(nearest, place, (user * item).sum(axis=1))
    return nearest
