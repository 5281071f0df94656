"""What a store of lists by user key must change to serve this day's candidates instead of an earlier day's: upserts and deletes.

A list is changed where its items or their order are: scores move with every model, and what is served is the order.
"""

import sys
from collections.abc import Mapping
from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.job import Context, Job, Output, main
from spark_jobs.published_lists import lists_by_key

UPSERT: Final = "upsert"
DELETE: Final = "delete"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """Today's candidates against those of the day before; without one every list is an upsert."""
    new, base = lists_by_key(tables["candidates"]), context.before.get("candidates")
    old = lists_by_key(context.earlier("candidates")) if base else new.limit(0)
    made = changes(old, new).persist()
    found = {row["op"]: row["count"] for row in made.groupBy("op").count().collect()}
    counts = {"upserts": found.get(UPSERT, 0), "deletes": found.get(DELETE, 0)}
    context.counters.update(counts, unchanged=new.count() - counts["upserts"], base_ds=base.ds if base else None)
    stamps = {"ds": context.ds, "run_id": context.manifests["candidates"].run_id}
    earlier = {"base_ds": base.ds, "base_run_id": base.run_id} if base else {"base_ds": None, "base_run_id": None}
    stamped = made.select("*", *(F.lit(value).cast("string").alias(name) for name, value in {**stamps, **earlier}.items()))
    return {"candidates_delta": Output(stamped, sort_by=("user_key",))}


def changes(old: DataFrame, new: DataFrame) -> DataFrame:
    """user_key, op, item_keys, scores: users whose items or their order differ; a user without a list any more has none in these.

    old, new: as `lists_by_key` gives them; keys are compared as text, and have the type they have in `new`.
    """
    kind = new.schema["user_key"].dataType
    before = old.select(F.col("user_key").cast("string").alias("user"), F.col("item_keys").cast("array<string>").alias("was"))
    after = new.withColumn("user", F.col("user_key").cast("string"))
    joined = after.join(before, "user", how="full_outer")
    is_gone = F.col("item_keys").isNull()
    changed = joined.where(is_gone | F.col("was").isNull() | (F.col("was") != F.col("item_keys").cast("array<string>")))
    return changed.select(
        F.coalesce("user_key", F.col("user").cast(kind)).alias("user_key"),
        F.when(is_gone, DELETE).otherwise(UPSERT).alias("op"),
        *(F.coalesce(name, F.array().cast(new.schema[name].dataType)).alias(name) for name in ("item_keys", "scores")),
    )


JOB = Job("delta", transform, "Publish what a key-value store must change to serve the day's candidates.")

if __name__ == "__main__":
    sys.exit(main(JOB))
