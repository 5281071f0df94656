"""Yesterday's published candidates on today's clicks: what the lists that were served found, with nothing held out for it.

The day before is the last one that has candidates: after a day that was refused, the one that stayed current. Truth is what users clicked
after it, up to and including the day itself; metrics are those of offline_metrics, at the same N.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import resolve
from spark_jobs.held_out import sample_units
from spark_jobs.job import Context, Job, main, spark_schema
from spark_jobs.later_truth import later_clicks, truth_of
from spark_jobs.metrics import ACCURACY
from spark_jobs.metrics.lists import Items
from spark_jobs.metrics.scoring import first_items, score
from spark_jobs.metrics.summary import RATIOS, Number, summarise
from spark_jobs.published_lists import merged_lists

MERGED: Final = "merged"
TABLE: Final = "metrics_yesterday"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, DataFrame]:
    """Score the lists of the day before; an empty table, and the reason in counters["skipped"], where there is nothing to score."""
    reason, numbers = why_not(context), list[Number]()
    if not reason:
        units = users_scored(context, tables["clicks"])
        if context.counters["users_scored"]:
            numbers = measure(context, units)
        else:
            reason = f"nobody whom {context.before['candidates'].ds} knew has clicked since"
    if reason:
        context.counters["skipped"] = reason
    return {TABLE: rows_of(context, numbers)}


def why_not(context: Context) -> str:
    """Why the day before cannot be scored; "" if it can."""
    if not context.before:
        return f"no day before {context.ds} has candidates"
    if not context.facts["has_clock"]:
        return "the log has only an order of clicks: none is known to come after the day before"
    source, ds = context.settings.source, context.before["candidates"].ds
    days = (date.fromisoformat(context.ds) - date.fromisoformat(ds)).days
    if source.train_days is not None and days > source.train_days + source.lookback_days:
        return f"the clicks of {context.ds} do not reach back to {ds}, the last day with candidates"
    return ""


def users_scored(context: Context, clicks: DataFrame) -> DataFrame:
    """user_idx, truth, clicked of at most evaluation.max_users users whom the day before knew, in its row numbers; counted."""
    settings, counters, ds = context.settings, context.counters, context.before["candidates"].ds
    later = later_clicks(clicks, context.earlier("user_index"), context.earlier("item_index"), after=ds, until=context.ds)
    truth = truth_of(later).persist()
    units = sample_units(truth, max_users=settings.evaluation.max_users, seed=settings.split.seed)
    units = units.repartition(context.spark.sparkContext.defaultParallelism, "user_idx").persist()  # a limit leaves one task for all
    counters["candidates_ds"] = ds
    counters["users_with_truth"], counters["users_scored"] = truth.count(), units.count()
    return units


def measure(context: Context, units: DataFrame) -> list[Number]:
    """The accuracy of the merged list and of each channel of the day before."""
    at, users = sorted(set(context.settings.evaluation.at)), F.broadcast(units.select("user_idx"))
    own = context.earlier("channel_candidates").select("user_idx", "channel", "items").join(users, "user_idx", how="left_semi")
    merged = merged_lists(context.earlier("candidates"), units, context.earlier("user_index"), context.earlier("item_index"))
    lists = first_items(own.unionByName(merged.withColumn("channel", F.lit(MERGED))), max(at)).persist()
    channels = sorted({row["channel"] for row in lists.select("channel").distinct().collect()} | {MERGED})
    no_slices = units.select("user_idx", F.array().cast("array<string>").alias("slices"))
    scored = score(lists, units, unknown_items(context.before["item_index"].rows), channels=channels, at=at)
    return [number for number in summarise(scored, no_slices) if number.metric in (*ACCURACY, *RATIOS)]


def unknown_items(num: int) -> Items:
    """`num` items, and row 0, of which nothing is known: what lists are made of is told by offline_metrics, this is what they found."""
    return Items(bits=np.zeros(num + 1), category=None, head=np.zeros(num + 1, dtype=bool), slices={})


def rows_of(context: Context, numbers: Sequence[Number]) -> DataFrame:
    """Table metrics_yesterday."""
    scored = context.before.get("candidates")
    rows = [
        (scored.ds, scored.run_id, x.channel, x.metric, x.n, float(x.value), x.num_units, x.lo, x.hi) for x in numbers if scored is not None
    ]
    schema = spark_schema(resolve(TABLE, context.registry, context.settings.shape()))
    return context.spark.createDataFrame(rows, schema)


JOB = Job("yesterday", transform, "Score the candidates of the day before on the clicks since.")

if __name__ == "__main__":
    sys.exit(main(JOB))
