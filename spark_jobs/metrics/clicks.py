"""Held-out clicks counted one by one, each by a list made just before it: HIT as of the click (Xie et al. 2022, MicRec, 5.3)."""

from collections.abc import Sequence
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.metrics.scoring import ALL

CHANNEL: Final = "u2i"  # the one that needs nothing of the day but the model and its index
ASOF: Final = ("n_asof", "n_asof_hit")


def as_of_click(scored: DataFrame, ranks: DataFrame | None, *, at: Sequence[int]) -> DataFrame:
    """scored, as `score` gives it, with n_asof and n_asof_hit: null but for slice 'all' of U2I and the users that `ranks` knows.

    ranks: user_idx, rank (from 1; 0 = not found) of each held-out click; None where nobody asked.
    """
    if ranks is None:
        return scored.select("*", *(F.lit(None).cast("int").alias(name) for name in ASOF))
    cells = ranks.select("user_idx", "rank", F.explode(F.array(*map(F.lit, at))).alias("n"))
    hit = F.when(F.col("rank").between(1, F.col("n")), 1)
    counted = cells.groupBy("user_idx", "n").agg(F.count(F.lit(1)).cast("int").alias(ASOF[0]), F.count(hit).cast("int").alias(ASOF[1]))
    own = counted.select("*", F.lit(CHANNEL).alias("channel"), F.lit(ALL).alias("slice"))
    return scored.join(own, ["user_idx", "channel", "slice", "n"], how="left").select(*scored.columns, *ASOF)
