"""Who clicked an item before: MIC's item field "interaction records", in Spark SQL.

Source: MIC 3.3.1, read as of each click: a list made from all clicks would hold the very user that the model is to find.
"""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from conf.tables import TRAIN


def with_item_users(events: DataFrame, length: int) -> DataFrame:
    """Add array<int> `item_users`: user_idx of the last `length` train events of the item before each event, oldest first, 0 at the end.

    `events` holds every split and `position`. Before means by (ts, seq, user_idx, position), which goes on from the total order of each
    user: never the event itself nor a later one, and of two at one time exactly one stands before the other. A user who clicked twice
    stands there twice, and so may the user of the event itself, by an earlier click.
    """
    by_item = Window.partitionBy("item_idx")
    in_order = by_item.orderBy("ts", "seq", "user_idx", "position")
    who = F.when(F.col("split") == TRAIN, F.col("user_idx"))
    # The n-th train event of an item and the held-out ones right before it carry n: the last `length` carry n - length to n - 1.
    numbered = events.withColumn("nth", F.count(who).over(in_order.rowsBetween(Window.unboundedPreceding, -1)))
    last = F.collect_list(who).over(by_item.orderBy("nth").rangeBetween(-length, -1))
    listed = numbered.withColumn("last", last)
    return listed.withColumn("item_users", F.concat("last", F.array_repeat(F.lit(0), length - F.size("last")))).drop("nth", "last")
