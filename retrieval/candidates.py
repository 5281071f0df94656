"""Candidates: run every channel for every user, merge the lists, publish them under business keys."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.sections.retrieval import Channels, Merge
from retrieval.candidates_quotas import learn, valid_clicks
from retrieval.channels import build_channel
from retrieval.gates import check_lists
from retrieval.index_age import indexes_of
from retrieval.merge import Merged, merge
from retrieval.ragged import Ragged
from retrieval.search import ArrowFunction
from retrieval.similarity import one_row_each
from retrieval.world import KEY_TYPES, StoredWorld, Users, users_of
from spark_jobs.job import Context, Job, Output, main

_BLOCK = 512  # users scored together: u2u2i gathers up to 2,500 paths a user, 1.3 million a block, about 100 MB while sorting

_SOURCE = "struct<channel:string,rank:int,score:float>"


@dataclass(frozen=True)
class Recommender:
    """The settings that turn a user into lists. history: clicks the model is given, for the seen filter. interests: vectors a user."""

    channels: Channels
    merge: Merge
    history: int
    interests: int

    def lists(self, users: Users, world: StoredWorld) -> tuple[dict[str, Ragged], Merged]:
        """The list of each channel, in order of priority, and their merge."""
        made: dict[str, Ragged] = {name: build_channel(name)(users, world, self.channels) for name in self.channels.names}
        merged = merge(made, self.merge, has_history=users.history.lengths > 0, categories=world.categories)
        return made, merged


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """One pass over the users gives both outputs."""
    settings, facts = context.settings, context.facts
    world = stored_world(context)
    recommender = Recommender(settings.channels, settings.merge, settings.model.history, int(facts["interests"]))
    users = user_rows(tables["user_state"], tables["embeddings_user"], tables["neighbours_user"], interests=recommender.interests)
    if settings.merge.kind == "quota" and settings.merge.quotas == "learned":
        recommender = replace(recommender, merge=with_quotas(context, users, tables["events"], world, recommender))
    made = users.mapInArrow(make_recommend(world.held, recommender), schema(world.item_key_type)).persist()  # both outputs read it
    count(context, made)
    check_lists(context, made)
    keyed = with_user_keys(made, tables["user_index"], facts.get("user_key_type", "string"))
    stamped = keyed.select("*", *stamps(context.ds, str(facts["model_id"]), context.run_id))
    published = as_lists(stamped) if settings.merge.layout == "lists" else as_rows(stamped)
    order = ("user_key",) if settings.merge.layout == "lists" else ("user_key", "rank")
    return {
        "channel_candidates": Output(by_channel(made), sort_by=("user_idx", "channel")),
        "candidates": Output(published, sort_by=order),
    }


def with_quotas(context: Context, users: DataFrame, events: DataFrame, world: StoredWorld, recommender: Recommender) -> Merge:
    """The settings of the merge with the learned quotas, which go to the counters; one more pass over a sample of the users."""
    settings = recommender.merge
    truth = valid_clicks(events, num=settings.quota_users, seed=context.settings.split.seed).persist()
    asked = users.where(F.size("items") > 0).join(F.broadcast(truth.select("user_idx")), on="user_idx", how="left_semi")
    equal = replace(recommender, merge=settings.model_copy(update={"quotas": {}}))
    made = asked.mapInArrow(make_recommend(world.held, equal), schema(world.item_key_type))
    learned = learn(by_channel(made), truth, settings, names=list(recommender.channels.names))
    context.counters["quotas"] = {"learned": learned.quotas, "valid_recall": learned.recall, "tried": learned.tried}
    return settings.model_copy(update={"quotas": learned.quotas})


def stored_world(context: Context) -> StoredWorld:
    """The inputs as the executors read them, the index files checked."""
    index = indexes_of(context)["items"]
    index.check()
    return StoredWorld(
        index=index,
        neighbours_item=tuple(context.files("neighbours_item")),
        cooc=tuple(context.files("cooc")),
        user_state=tuple(context.files("user_state")),
        item_index=tuple(context.files("item_index")),
        profile=context.settings.channels.u2u2i.profile,
        item_key_type=context.facts.get("item_key_type", "string"),
        item_feat=tuple(context.files("item_feat")) if context.settings.merge.category_field is not None else (),
        category_field=context.settings.merge.category_field,
    )


# ---- one row a user, in and out ------------------------------------------------------------------------------------


def user_rows(user_state: DataFrame, embeddings_user: DataFrame, neighbours_user: DataFrame, *, interests: int) -> DataFrame:
    """What `make_recommend` reads: user_idx, items, vector (K vectors, one after the other), neighbours, similarities."""
    vectors = one_row_each(embeddings_user, interests=interests).withColumnRenamed("idx", "user_idx")
    neighbours = neighbours_user.withColumnRenamed("idx", "user_idx")
    users = user_state.select("user_idx", "items").join(vectors, on="user_idx", how="inner")
    # by user: the files of user_state may be fewer than the cores
    return users.join(neighbours, on="user_idx", how="inner").repartition("user_idx")


def schema(item_key_type: str) -> str:
    """Spark schema of what `make_recommend` gives."""
    key = KEY_TYPES[item_key_type]
    return (
        "user_idx int, channels array<struct<channel:string,items:array<int>,scores:array<float>>>, "
        f"item_keys array<{key}>, scores array<float>, sources array<array<{_SOURCE}>>, is_fallback boolean"
    )


def make_recommend(load_world: Callable[[], StoredWorld], recommender: Recommender) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: rows of `user_rows` in, rows of `schema` out, one a user."""

    def recommend(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        world = load_world()
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK):
                block = batch.slice(start, _BLOCK)
                users = users_of(block, interests=recommender.interests, seen=recommender.channels.seen, last=recommender.history)
                made, merged = recommender.lists(users, world)
                yield to_batch(users, made, merged, world.item_keys)

    return recommend


def to_batch(users: Users, made: Mapping[str, Ragged], merged: Merged, item_keys: pa.Array) -> pa.RecordBatch:
    """One row a user with every channel's list and the merged one, item_idx turned into business keys in the latter."""
    starts = pa.array(merged.lists.starts, pa.int32())
    columns = {
        "user_idx": pa.array(users.idx, pa.int32()),
        "channels": channels_to_arrow(made, len(users)),
        "item_keys": pa.ListArray.from_arrays(starts, item_keys.take(pa.array(merged.lists.values))),
        "scores": merged.lists.weights_to_arrow(),
        "sources": merged.sources_to_arrow(),
        "is_fallback": pa.array(merged.is_fallback),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def channels_to_arrow(made: Mapping[str, Ragged], num: int) -> pa.Array:
    """list<struct<channel, items, scores>>[num]: a struct for each channel, in their order."""
    size = len(made)
    lists = pa.concat_arrays([one.to_arrow() for one in made.values()])
    scores = pa.concat_arrays([one.weights_to_arrow() for one in made.values()])
    by_user = pa.array(np.arange(size * num).reshape(size, num).T.ravel())
    names = pa.array(list(made) * num, pa.string())
    structs = pa.StructArray.from_arrays([names, lists.take(by_user), scores.take(by_user)], names=["channel", "items", "scores"])
    return pa.ListArray.from_arrays(pa.array(range(0, num * size + 1, size), pa.int32()), structs)


# ---- what is published ---------------------------------------------------------------------------------------------


def by_channel(made: DataFrame) -> DataFrame:
    """Columns of channel_candidates: one row per user and channel, empty lists included."""
    return made.select("user_idx", F.inline("channels"))


def with_user_keys(made: DataFrame, user_index: DataFrame, user_key_type: str) -> DataFrame:
    """The rows with the user's business key, in the type it came with."""
    kind = KEY_TYPES[user_key_type]
    keys = user_index.select(F.col("idx").alias("user_idx"), F.col("key").cast(kind).alias("user_key"))
    return made.join(keys, on="user_idx", how="inner")


def stamps(ds: str, model_id: str, run_id: str) -> list[Column]:
    """The columns that are the same in every row."""
    return [F.lit(value).alias(name) for name, value in (("ds", ds), ("model_id", model_id), ("run_id", run_id))]


def as_lists(stamped: DataFrame) -> DataFrame:
    """Layout lists: one row a user."""
    return stamped.select("ds", "user_key", "item_keys", "scores", "sources", "is_fallback", "model_id", "run_id")


def as_rows(stamped: DataFrame) -> DataFrame:
    """Layout rows: one row a candidate."""
    exploded = stamped.select("*", F.posexplode(F.arrays_zip("item_keys", "scores", "sources")).alias("place", "one"))
    return exploded.select(
        "ds",
        "user_key",
        (F.col("place") + 1).cast("int").alias("rank"),
        F.col("one.item_keys").alias("item_key"),
        F.col("one.scores").alias("score"),
        F.col("one.sources").alias("sources"),
        "is_fallback",
        "model_id",
        "run_id",
    )


def count(context: Context, made: DataFrame) -> None:
    """Users, fallbacks and list lengths into the counters. Raises BadDataError if a user was lost on the way."""
    total = made.agg(F.count("*").alias("users"), F.sum(F.col("is_fallback").cast("int")).alias("fallback")).first()
    assert total is not None
    expected = context.manifests["user_state"].rows
    if total["users"] != expected:
        fault = Fault(f"{expected} users, but vectors and neighbours of {total['users']}", fix="run embed and neighbours again")
        raise BadDataError(f"candidates, ds={context.ds}", [fault])
    size = F.size("items")
    rows = by_channel(made).groupBy("channel").agg(F.avg(size).alias("mean"), F.sum((size == 0).cast("int")).alias("empty")).collect()
    lists = {row["channel"]: {"mean_length": round(row["mean"], 3), "empty": row["empty"]} for row in rows}
    context.counters["candidates"] = {"users": total["users"], "fallback_users": total["fallback"], "channels": lists}


JOB = Job(name="candidates", transform=transform, doc="Run the channels, merge them, and publish the candidate tables.")

if __name__ == "__main__":
    sys.exit(main(JOB))
