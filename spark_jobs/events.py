"""clicks -> events in row numbers with their split, and what each user did before the held-out time."""

import sys
from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import Fault, NotReadyError
from conf.tables import CONTEXT, SPLIT_NAMES, TRAIN, VALID
from spark_jobs.event_files import event_order, num_files
from spark_jobs.job import Context, Job, Output, main
from spark_jobs.splits import CLICK_ORDER, assign_split

BROADCAST_ROWS = 1_000_000  # an index of so many keys is copied to every executor (about 0.1 GB), so that no click moves to it
COLUMNS = ("user_idx", "item_idx", "ts", "seq", "split", "weight", "session_key")


def encode(clicks: DataFrame, user_index: DataFrame, item_index: DataFrame) -> DataFrame:
    """Clicks with user_idx and item_idx; an idx is null where the index lacks the key."""
    users = user_index.select(F.col("key").alias("user_key"), F.col("idx").alias("user_idx"))
    items = item_index.select(F.col("key").alias("item_key"), F.col("idx").alias("item_idx"))
    return clicks.join(users, "user_key", how="left").join(items, "item_key", how="left")


def with_recency(clicks: DataFrame) -> DataFrame:
    """Encoded clicks with `split` -> events with `user_key` and `recency`: 1 = the user's last click."""
    latest_first = Window.partitionBy("user_key").orderBy(*[F.col(name).desc() for name in CLICK_ORDER])
    return clicks.withColumn("recency", F.row_number().over(latest_first)).select("user_key", *COLUMNS, "recency")


def user_states(events: DataFrame, user_index: DataFrame, *, max_user_clicks: int, refit: bool = False) -> DataFrame:
    """One row per user of the index: items and times of its train or context events, oldest first, and how many train events it has.

    refit: valid events are listed, too: they are known when test is asked.
    Of a user with more than `max_user_clicks` events only the most recent are listed; num_train counts all.
    """
    known = events.where(F.col("split").isin(TRAIN, CONTEXT, *[VALID] * refit))
    # The same order as everywhere, as a struct to sort by; only what is recent enough enters the list.
    entry = F.struct("ts", "seq", "item_idx")
    listed = F.sort_array(F.collect_list(F.when(F.col("recency") <= max_user_clicks, entry)))
    # By key, as the events stand together by it: nothing is moved.
    states = known.groupBy("user_key").agg(listed.alias("listed"), F.count(F.when(F.col("split") == TRAIN, 1)).alias("num_train"))
    everyone = user_index.select(F.col("key").alias("user_key"), F.col("idx").alias("user_idx")).join(states, "user_key", how="left")
    return everyone.select(
        "user_idx",
        F.coalesce(F.transform("listed", lambda e: e["item_idx"]), F.array().cast("array<int>")).alias("items"),
        F.coalesce(F.transform("listed", lambda e: e["ts"]), F.array().cast("array<bigint>")).alias("ts"),
        F.coalesce("num_train", F.lit(0)).cast("int").alias("num_train"),
    )


def count(events: DataFrame, *, max_user_clicks: int) -> dict[str, int]:
    """What was read, kept, cut and held out; `cut_in_tie_users`: the split falls between two events of equal time."""
    kept = F.col("recency") <= max_user_clicks
    held_out = ~F.col("split").isin(TRAIN, CONTEXT)
    per_user = events.groupBy("user_key").agg(
        F.count(F.lit(1)).alias("clicks"),
        F.count(F.when(~kept, 1)).alias("cut"),
        F.count(F.when(F.col("user_idx").isNull() | F.col("item_idx").isNull(), 1)).alias("unknown"),
        F.count(F.when(kept & F.col("session_key").isNotNull(), 1)).alias("in_given_session"),
        (F.max(F.when(~held_out, F.col("ts"))) == F.min(F.when(held_out, F.col("ts")))).alias("cut_in_tie"),
        *(F.count(F.when(kept & (F.col("split") == code), 1)).alias(name) for code, name in enumerate(SPLIT_NAMES)),
    )
    totals: dict[str, Column] = {
        "clicks_read": F.sum("clicks"),
        "clicks_beyond_max_user_clicks": F.sum("cut"),
        "users_beyond_max_user_clicks": F.count(F.when(F.col("cut") > 0, 1)),
        "clicks_with_unknown_key": F.sum("unknown"),
        "clicks_in_given_session": F.sum("in_given_session"),
        "cut_in_tie_users": F.count(F.when(F.col("cut_in_tie"), 1)),
        **{f"{name}_events": F.sum(name) for name in SPLIT_NAMES},
        **{f"{name}_users": F.count(F.when(F.col(name) > 0, 1)) for name in SPLIT_NAMES},
    }
    row = per_user.agg(*(column.alias(name) for name, column in totals.items())).first()
    assert row is not None
    return {name: int(row[name] or 0) for name in totals}


def _spread(context: Context, name: str, index: DataFrame) -> DataFrame:
    # Else a hash of it: a merge would sort all clicks by the key.
    return index.hint("broadcast" if context.manifests[name].rows <= BROADCAST_ROWS else "shuffle_hash")


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame | Output]:
    """The job: split, encode, cap; tells later jobs the kind of split and whether the source gave sessions."""
    settings, cap = context.settings, context.settings.session.max_user_clicks
    user_index, item_index = (_spread(context, name, tables[name]) for name in ("user_index", "item_index"))
    # Split, recency, states and files all go by user: what stands together now is not moved again.
    by_user = encode(tables["clicks"], user_index, item_index).repartition(num_files(context.manifests["clicks"].rows), "user_key")
    events = with_recency(assign_split(by_user, split=settings.split, has_clock=bool(context.facts["has_clock"]))).persist()
    context.counters.update(count(events, max_user_clicks=cap))
    if context.counters["clicks_with_unknown_key"]:
        fault = Fault(
            f"{context.counters['clicks_with_unknown_key']} clicks have a user or item that user_index or item_index does not hold",
            "these tables were made from other clicks",
            f"run: trichannel vocabulary --ds {context.ds}",
        )
        raise NotReadyError(f"job events, ds={context.ds}", [fault])
    facts: dict[str, Any] = {"split_kind": settings.split.kind, "has_sessions": context.counters["clicks_in_given_session"] > 0}
    context.facts.update(facts)
    kept = events.where(F.col("recency") <= cap).select(*COLUMNS)
    return {
        "events": Output(kept.sortWithinPartitions(F.col("user_idx"), *event_order())),
        "user_state": user_states(events, tables["user_index"], max_user_clicks=cap, refit=settings.split.refit),
    }


JOB = Job(name="events", transform=transform, doc="Encode the clicks, assign the split, and gather each user's state.")

if __name__ == "__main__":
    sys.exit(main(JOB))
