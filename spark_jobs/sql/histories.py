"""Each user's events in their total order, and the sessions that they fall into.

Source: MicRec 4.1 ("continuous consumption window"), read as: a pause longer than gap_s starts a new session.
"""

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from conf.tables import CONTEXT, TRAIN
from spark_jobs.session_cuts import Rule


def in_total_order() -> WindowSpec:
    """A user's events in their total order. Events equal in all of it are interchangeable.

    (ts, seq, item) decides; where seq ties too (two files, one row number), what was cut off by the split stays behind what was not.
    """
    stage = F.when(F.col("split") == CONTEXT, TRAIN).otherwise(F.col("split"))
    return Window.partitionBy("user_idx").orderBy("ts", "seq", stage, "item_idx", "weight", "session_key")


def with_position(events: DataFrame) -> DataFrame:
    """Add int `position`: how many events of the same user stand before each in the total order."""
    return events.withColumn("position", F.row_number().over(in_total_order()) - 1)


def cut(events: DataFrame, rule: Rule) -> DataFrame:
    """Events of every split -> (user_idx, group, clicks), one row a session, held-out events included.

    clicks: array<struct<position, ts, item_idx, split>> in order. group: where in the user's events the first of the session was before
    max_span_s cut it; (user_idx, group, position of the first click) orders the sessions.
    """
    placed = with_position(events).withColumn("group", _group(rule))
    click = F.struct("position", "ts", "item_idx", "split")
    sessions = placed.groupBy("user_idx", "group").agg(F.sort_array(F.collect_list(click)).alias("clicks"))
    return sessions if rule.max_span_s is None else _cut_long(sessions, rule.max_span_s)


def _group(rule: Rule) -> Column:
    """The position of the first event of the session that each event belongs to."""
    position = F.col("position")
    if rule.kind == "user":
        return F.lit(0)
    if rule.kind == "gap":
        last = F.lag("ts").over(in_total_order())
        starts = F.when(last.isNull() | (F.col("ts") - last > rule.gap_s), position)
        return F.max(starts).over(in_total_order().rowsBetween(Window.unboundedPreceding, Window.currentRow))
    # Given sessions of one user may interleave (two devices). A click without a session id met nothing: a session of its own.
    first = F.min("position").over(Window.partitionBy("user_idx", "session_key"))
    return F.when(F.col("session_key").isNull(), position).otherwise(first)


def _cut_long(sessions: DataFrame, max_span_s: int) -> DataFrame:
    """Greedy: a session ends before the first event further than max_span_s from its start."""

    def go_on(starts: Column, click: Column) -> Column:
        too_far = click["ts"] - F.element_at(starts, -1) > max_span_s
        return F.when(too_far, F.concat(starts, F.array(click["ts"]))).otherwise(starts)

    def in_part(click: Column) -> Column:
        since = click["ts"] - F.col("start")
        return (since >= 0) & (since <= max_span_s)

    # Two parts never start at the same time, so the time alone tells them apart.
    starts = F.aggregate("clicks", F.array(F.col("clicks")[0]["ts"]), go_on)
    parts = sessions.withColumn("start", F.explode(starts))
    return parts.select("user_idx", "group", F.filter("clicks", in_part).alias("clicks"))
