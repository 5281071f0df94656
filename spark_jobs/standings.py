"""How the merged list stands against each baseline: users' recall of both, pair by pair, since all lists are scored on the same users."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.paired import number
from spark_jobs.significance import Moments, holm, t_test

Standing = dict[str, Any]


def standings(metrics_user: DataFrame, baselines: Sequence[str], n: int) -> list[Standing]:
    """One line a baseline, in the order given: {channel, users, diff, lo, hi, p, p_corrected}.

    diff: mean over users of merged less baseline in recall at n, in [-1, 1], with its 95 % interval lo..hi. p: paired t-test, two-sided;
    p_corrected: over all baselines. None where a single user tells nothing. Source: Holm 1979 (the correction).
    """
    mine = metrics_user.where((F.col("n") == n) & F.col("channel").isin("merged", *baselines))
    users = mine.groupBy("user_idx").pivot("channel", ["merged", *baselines]).agg(F.first("recall"))
    lines: list[Standing] = []
    for channel in baselines:
        pairs = users.where(F.col("merged").isNotNull() & F.col(channel).isNotNull())
        lines.append({"channel": channel} | _line(pairs.select(F.col(channel).alias("a"), F.col("merged").alias("b"))))
    lines = [line for line in lines if line["users"]]
    corrected = holm(np.array([np.nan if line["p"] is None else line["p"] for line in lines]))
    return [line | {"p_corrected": number(p)} for line, p in zip(lines, corrected, strict=True)]


def _line(pairs: DataFrame) -> Standing:
    with_d = pairs.withColumn("d", F.col("b") - F.col("a"))
    ss = [(F.var_pop(name) * F.count(name)).alias(f"ss_{name}") for name in "abd"]
    row = with_d.agg(F.count("d").alias("num"), F.avg("a").alias("mean_a"), F.avg("b").alias("mean_b"), *ss).first()
    assert row is not None
    if not row["num"]:
        return {"users": 0}
    moments = Moments(row["num"], *(np.array([row[name]]) for name in ("mean_a", "mean_b", "ss_a", "ss_b", "ss_d")))
    found = t_test(moments)
    interval = {part: number(getattr(found.diff, of)[0]) for part, of in (("diff", "value"), ("lo", "lo"), ("hi", "hi"))}
    return {"users": row["num"], **interval, "p": number(found.p[0])}
