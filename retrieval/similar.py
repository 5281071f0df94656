"""Similar: neighbours under business keys, for lookalike audiences and "more like this"; only where section `similar` asks for them."""

import sys
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from retrieval.index_age import indexes_of
from retrieval.similarity import cosine_index, near_items, near_users
from retrieval.world import KEY_TYPES
from spark_jobs.job import Context, Job, Output, main


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """Search the indexes of the day with every user, every item, or both."""
    settings, facts = context.settings.similar, context.facts
    files = indexes_of(context)
    for index in files.values():
        index.check()
    made = {}
    if settings.users:
        held, interests = files["users"].held, int(facts["interests"])
        made["similar_users"] = near_users(tables["embeddings_user"], held, num=settings.users, interests=interests)
    if settings.items:
        made["similar_items"] = near_items(tables["embeddings_item"], cosine_index(files).held, num=settings.items)
    sides = {"similar_users": "user", "similar_items": "item"}
    return {
        name: Output(
            under_keys(found, tables[f"{sides[name]}_index"], key_type=facts.get(f"{sides[name]}_key_type", "string")),
            sort_by=("key", "rank"),
        )
        for name, found in made.items()
    }


def under_keys(found: DataFrame, index: DataFrame, *, key_type: str) -> DataFrame:
    """One row a neighbour: key, rank (from 1), neighbour_key, score; keys in the type they came with.

    found: columns of neighbours_user. index: columns key, idx; every idx is in it.
    """
    keys = index.select("idx", F.col("key").cast(KEY_TYPES[key_type]).alias("key"))
    rows = found.select("idx", F.posexplode(F.arrays_zip("neighbours", "similarities")).alias("place", "near"))
    ranked = rows.select(
        "idx", (F.col("place") + 1).cast("int").alias("rank"), "near.neighbours", F.col("near.similarities").alias("score")
    )
    others = keys.select(F.col("idx").alias("neighbours"), F.col("key").alias("neighbour_key"))
    named = ranked.join(others, on="neighbours", how="inner").join(keys, on="idx", how="inner")
    return named.select("key", "rank", "neighbour_key", "score")


JOB = Job(name="similar", transform=transform, doc="Publish similar users and similar items under their business keys.")

if __name__ == "__main__":
    sys.exit(main(JOB))
