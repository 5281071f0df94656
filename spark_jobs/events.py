"""clicks -> events in row numbers with their split, and what each user did before the held-out time."""

import sys
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F

from conf.errors import Fault, NotReadyError
from conf.tables import CONTEXT, SPLIT_NAMES, TRAIN
from spark_jobs import event_files
from spark_jobs.event_files import event_order, num_files
from spark_jobs.heavy_users import heavy_users, thinned
from spark_jobs.job import Context, Job, Made, Output, main
from spark_jobs.output import uris, write_now
from spark_jobs.splits import CLICK_ORDER, assign_split
from spark_jobs.user_states import user_states

BROADCAST_ROWS = 1_000_000  # an index of so many keys is copied to every executor (about 0.1 GB), so that no click moves to it
COLUMNS = ("user_idx", "item_idx", "ts", "seq", "split", "weight", "session_key")


def encode(clicks: DataFrame, user_index: DataFrame, item_index: DataFrame) -> DataFrame:
    """Clicks with user_idx and item_idx; an idx is null where the index lacks the key."""
    users = user_index.select(F.col("key").alias("user_key"), F.col("idx").alias("user_idx"))
    items = item_index.select(F.col("key").alias("item_key"), F.col("idx").alias("item_idx"))
    return clicks.join(users, "user_key", how="left").join(items, "item_key", how="left")


def with_recency(clicks: DataFrame) -> DataFrame:
    """Encoded clicks with `split` -> COLUMNS, `recency` (1 = the user's last click), and `split` and `ts` of the click before it."""
    latest_first = Window.partitionBy("user_idx").orderBy(*[F.col(name).desc() for name in CLICK_ORDER])
    before = [F.lead(name).over(latest_first).alias(f"{name}_before") for name in ("split", "ts")]
    return clicks.select(*COLUMNS, F.row_number().over(latest_first).alias("recency"), *before)


def counters(*, max_user_clicks: int) -> dict[str, Column]:
    """What was read, kept, cut and held out, as sums over the rows of `with_recency`, so that no pass of its own counts it.

    cut_in_tie_users: the split falls between two events of equal time.
    """
    kept, held_out = F.col("recency") <= max_user_clicks, ~F.col("split").isin(TRAIN, CONTEXT)
    # A user's train (or context), valid and test events stand one behind the other.
    first_of_split = kept & ((F.col("recency") == max_user_clicks) | ~F.col("split").eqNullSafe(F.col("split_before")))
    first_held_out = held_out & F.col("split_before").isin(TRAIN, CONTEXT)
    counted = {
        "clicks_read": F.lit(True),
        "clicks_beyond_max_user_clicks": ~kept,
        "users_beyond_max_user_clicks": F.col("recency") == max_user_clicks + 1,
        "clicks_with_unknown_key": F.col("user_idx").isNull() | F.col("item_idx").isNull(),
        "clicks_in_given_session": kept & F.col("session_key").isNotNull(),
        "cut_in_tie_users": first_held_out & (F.col("ts") == F.col("ts_before")),
        **{f"{name}_events": kept & (F.col("split") == code) for code, name in enumerate(SPLIT_NAMES)},
        **{f"{name}_users": first_of_split & (F.col("split") == code) for code, name in enumerate(SPLIT_NAMES)},
    }
    return {name: F.count_if(condition) for name, condition in counted.items()}


def _spread(context: Context, name: str, index: DataFrame) -> DataFrame:
    # Else a hash of it: a merge would sort all clicks by the key.
    return index.hint("broadcast" if context.manifests[name].rows <= BROADCAST_ROWS else "shuffle_hash")


def without_oldest(context: Context, clicks: DataFrame, *, cap: int) -> DataFrame:
    """The clicks, of a user with more than half a file's without most of those beyond `cap`. Only where their split does not need them."""
    limit, most = event_files.EVENTS_PER_FILE // 2, context.manifests["user_index"].counters.get("user_max_train_clicks", 0)
    if context.settings.split.kind != "production" or most <= limit:
        return clicks
    heavy = heavy_users(clicks, limit=limit)
    # One more than is kept: whom something was cut off is counted.
    return thinned(clicks, heavy, keep=cap + 1, limit=limit) if heavy else clicks


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Made]:
    """The job: split, encode, cap; tells later jobs the kind of split and whether the source gave sessions."""
    settings, cap = context.settings, context.settings.session.max_user_clicks
    user_index, item_index = (_spread(context, name, tables[name]) for name in ("user_index", "item_index"))
    # Split, recency and files all go by user: what stands together now is not moved again.
    clicks = without_oldest(context, tables["clicks"], cap=cap)
    by_user = encode(clicks, user_index, item_index).repartition(num_files(context.manifests["clicks"].rows), "user_idx")
    events = with_recency(assign_split(by_user, split=settings.split, has_clock=bool(context.facts["has_clock"]), user="user_idx"))
    seen = Observation()
    counted = events.observe(seen, *(column.alias(name) for name, column in counters(max_user_clicks=cap).items()))
    known = F.col("user_idx").isNotNull() & F.col("item_idx").isNotNull()
    kept = counted.where((F.col("recency") <= cap) & known).select(*COLUMNS)
    written = write_now(context, "events", Output(kept.sortWithinPartitions(F.col("user_idx"), *event_order())))
    context.counters.update(seen.get)
    unseen = context.manifests["clicks"].rows - context.counters["clicks_read"]
    context.counters["clicks_read"] += unseen
    context.counters["clicks_beyond_max_user_clicks"] += unseen
    if unknown := context.counters["clicks_with_unknown_key"]:
        fault = Fault(
            f"{unknown} clicks have a user or item that user_index or item_index does not hold",
            "these tables were made from other clicks",
            f"run: trichannel vocabulary --ds {context.ds}",
        )
        raise NotReadyError(f"job events, ds={context.ds}", [fault])
    context.facts.update(split_kind=settings.split.kind, has_sessions=context.counters["clicks_in_given_session"] > 0)
    return {"events": written, "user_state": user_states(context, uris(context, "events", written.files), refit=settings.split.refit)}


JOB = Job(name="events", transform=transform, doc="Encode the clicks, assign the split, and gather each user's state.")

if __name__ == "__main__":
    sys.exit(main(JOB))
