"""Neighbours: for each user its nearest training users, for each clicked item its nearest items."""

import sys
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.sections.retrieval import I2I
from retrieval.index_age import indexes_of
from retrieval.similarity import cosine_index, near_items, near_users
from spark_jobs.job import Context, Job, Output, main


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """Search both indexes from inside Spark."""
    channels, interests = context.settings.channels, int(context.facts["interests"])
    files = indexes_of(context)
    for index in files.values():
        index.check()
    similar = raised_neighbours(channels.i2i, top=channels.top)
    context.counters["neighbours_item"] = {"asked": channels.i2i.neighbours, "used": similar}
    if similar > channels.i2i.neighbours:
        context.counters["warnings"] = [
            f"channels.i2i.neighbours raised from {channels.i2i.neighbours} to {similar}: "
            f"{channels.i2i.history} clicks of history must reach 2 * channels.top = {2 * channels.top} items"
        ]
    users = near_users(tables["embeddings_user"], files["users"].held, num=channels.u2u2i.neighbours, interests=interests)
    items = near_items(of_clicked(tables["embeddings_item"], tables["user_state"]), cosine_index(files).held, num=similar)
    return {
        "neighbours_user": Output(users, sort_by=("idx",)),
        "neighbours_item": Output(items, sort_by=("idx",)),
    }


def raised_neighbours(settings: I2I, *, top: int) -> int:
    """Similar items per clicked item: as set, raised until a full history reaches 2 * top of them."""
    return max(settings.neighbours, -(-2 * top // settings.history))


def of_clicked(embeddings_item: DataFrame, user_state: DataFrame) -> DataFrame:
    """The rows of the items that stand in any history."""
    clicked = user_state.select(F.explode("items").alias("idx")).distinct()
    return embeddings_item.join(clicked, on="idx", how="left_semi")


JOB = Job(name="neighbours", transform=transform, doc="Find similar users and similar items.")

if __name__ == "__main__":
    sys.exit(main(JOB))
