"""Neighbours: for each user its nearest training users, for each clicked item its nearest items; and the cluster of each."""

import sys
from collections.abc import Mapping

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.fields import Side
from conf.sections.retrieval import I2I
from retrieval.clusters import centre_index, clusters_of, find_centres, num_clusters, sample_of
from retrieval.index_age import indexes_of
from retrieval.ragged import F32
from retrieval.similarity import cosine_index, near_items, near_users
from retrieval.vector_index import IndexFiles
from spark_jobs.job import Context, Job, Output, main


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """Search both indexes from inside Spark."""
    channels, interests = context.settings.channels, int(context.facts["interests"])
    files = indexes_of(context)
    users_index, items_index = files["users"], cosine_index(files)
    user_centres, item_centres = centres_of(context, "user", users_index), centres_of(context, "item", items_index)
    similar = raised_neighbours(channels.i2i, top=channels.top)
    context.counters["neighbours_item"] = {"asked": channels.i2i.neighbours, "used": similar}
    if similar > channels.i2i.neighbours:
        context.counters["warnings"] = [
            f"channels.i2i.neighbours raised from {channels.i2i.neighbours} to {similar}: "
            f"{channels.i2i.history} clicks of history must reach 2 * channels.top = {2 * channels.top} items"
        ]
    users = near_users(
        tables["embeddings_user"], users_index.held, num=channels.u2u2i.neighbours, interests=interests, centres=user_centres
    )
    clicked = of_clicked(tables["embeddings_item"], tables["user_state"])
    items = near_items(clicked, items_index.held, num=similar, centres=item_centres)
    return {
        "neighbours_user": Output(users, sort_by=("idx",)),
        "neighbours_item": Output(items, sort_by=("idx",)),
    }


def centres_of(context: Context, side: Side, files: IndexFiles) -> F32:
    """float32[C, D]: centres of what can be a neighbour (decision): training users, or items that may be recommended.

    Raises BadDataError for a missing or damaged file, before any task starts.
    """
    index = files.open()
    points = sample_of(index)
    centres = find_centres(points, num_clusters(len(np.unique(index.ids))))
    sizes = np.bincount(clusters_of(centre_index(centres), points[:, None]), minlength=len(centres))
    told = {"clusters": len(centres), "sample": len(points), "smallest": int(sizes.min()), "largest": int(sizes.max())}
    context.counters[f"clusters_{side}"] = told
    return centres


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
