"""events -> sessions in Spark SQL: the stretches of clicks in which items count as having met. Train events only."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from conf.tables import TRAIN
from spark_jobs.session_cuts import Rule
from spark_jobs.sql.histories import cut


def sessionise(events: DataFrame, rule: Rule) -> DataFrame:
    """Events of every split -> sessions of the train events, and `was_cut`: held-out events follow in the same session.

    Columns: user_idx int, session_no int, start_ts long, end_ts long, items array<int>, num_items int, was_cut boolean. Parts of one
    session that max_span_s cut are numbered one after the other, whatever interleaves with them.
    """
    # Every held-out event comes after the user's train events, so dropping them only shortens or removes sessions.
    train = F.filter("clicks", lambda click: click["split"] == TRAIN)
    sessions = cut(events, rule).withColumn("train", train).where(F.size("train") > 0)
    first, last = F.col("train")[0], F.element_at("train", -1)
    number = F.row_number().over(Window.partitionBy("user_idx").orderBy("group", first["position"])) - 1
    return sessions.select(
        "user_idx",
        number.alias("session_no"),
        first["ts"].alias("start_ts"),
        last["ts"].alias("end_ts"),
        F.col("train.item_idx").alias("items"),
        F.size("train").alias("num_items"),
        (F.size("clicks") > F.size("train")).alias("was_cut"),
    )
