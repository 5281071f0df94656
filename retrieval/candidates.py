"""Candidates: run every channel for every user, merge the lists, publish them under business keys."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.sections.retrieval import Channels, Merge
from retrieval.candidate_rows import CHANNEL_LISTS, LAYOUTS, Stamps, Tally, channel_rows, lists_column
from retrieval.candidates_quotas import learn, valid_clicks
from retrieval.channels import build_channel
from retrieval.gates import check_lists
from retrieval.index_age import indexes_of
from retrieval.merge import Merged, merge
from retrieval.ragged import Ragged
from retrieval.search import ArrowFunction
from retrieval.similarity import JOINT, one_row_each, u2i_index
from retrieval.vector_index import TOGETHER
from retrieval.world import KEY_TYPES, StoredWorld, Users, users_of
from spark_jobs.job import Context, Job, Written, main
from spark_jobs.task_files import Batch, write_partitions


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


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Written]:
    """One pass over the users writes both outputs."""
    settings, facts = context.settings, context.facts
    world = stored_world(context)
    recommender = Recommender(settings.channels, settings.merge, settings.model.history, int(facts["interests"]))
    spaces = ["vector", *["joint"] * (world.u2i is not None and world.u2i.name == JOINT)]
    vectors = one_row_each(tables["embeddings_user"], interests=recommender.interests, spaces=spaces)
    users = user_rows(tables["user_state"], vectors, tables.get("neighbours_user"))
    if settings.merge.kind == "quota" and settings.merge.quotas == "learned":
        recommender = replace(recommender, merge=with_quotas(context, users, tables["events"], world, recommender))
    stamps = Stamps(context.ds, str(facts["model_id"]), context.run_id)
    publish = make_publish(world.held, recommender, LAYOUTS[settings.merge.layout], stamps)
    keyed = with_user_keys(users, tables["user_index"], facts.get("user_key_type", "string")).sortWithinPartitions("user_key")
    tally = Tally()
    written = write_partitions(context, ("channel_candidates", "candidates"), keyed, publish, tally)
    count(context, tally)
    check_lists(context, tally)
    return written


def with_quotas(context: Context, users: DataFrame, events: DataFrame, world: StoredWorld, recommender: Recommender) -> Merge:
    """The settings of the merge with the learned quotas, which go to the counters; one more pass over a sample of the users."""
    settings = recommender.merge
    truth = valid_clicks(events, num=settings.quota_users, seed=context.settings.split.seed).persist()
    asked = users.where(F.size("items") > 0).join(F.broadcast(truth.select("user_idx")), on="user_idx", how="left_semi")
    equal = replace(recommender, merge=settings.model_copy(update={"quotas": {}}))
    made = asked.mapInArrow(make_lists(world.held, equal), f"user_idx int, {CHANNEL_LISTS}")
    learned = learn(made.select("user_idx", F.inline("channels")), truth, settings, names=list(recommender.channels.names))
    context.counters["quotas"] = {"learned": learned.quotas, "valid_recall": learned.recall, "tried": learned.tried}
    return settings.model_copy(update={"quotas": learned.quotas})


def stored_world(context: Context) -> StoredWorld:
    """The inputs as the executors read them, the index files checked."""
    indexes = indexes_of(context)
    index, u2i = indexes["items"], u2i_index(indexes, context.settings.channels.u2i.space)
    for one in {index.name: index, u2i.name: u2i}.values():
        one.check()
    return StoredWorld(
        index=index,
        neighbours_item=tuple(context.files("neighbours_item")) if "neighbours_item" in context.manifests else (),
        cooc=tuple(context.files("cooc")),
        user_state=tuple(context.files("user_state")),
        item_index=tuple(context.files("item_index")),
        profile=context.settings.channels.u2u2i.profile,
        item_key_type=context.facts.get("item_key_type", "string"),
        item_feat=tuple(context.files("item_feat")) if context.settings.merge.category_field is not None else (),
        category_field=context.settings.merge.category_field,
        u2i=u2i,
    )


# ---- what the tasks do ------------------------------------------------------------------------------------


def user_rows(user_state: DataFrame, vectors: DataFrame, neighbours_user: DataFrame | None) -> DataFrame:
    """What the tasks read: user_idx, items, the columns of vectors (see `one_row_each`); neighbours and similarities, where given."""
    vectors = vectors.withColumnRenamed("idx", "user_idx")
    users = user_state.select("user_idx", "items").join(vectors, on="user_idx", how="inner")
    if neighbours_user is not None:
        neighbours = neighbours_user.select(F.col("idx").alias("user_idx"), "neighbours", "similarities")
        users = users.join(neighbours, on="user_idx", how="inner")
    return users.repartition("user_idx")  # by user: the files of user_state may be fewer than the cores


def with_user_keys(users: DataFrame, user_index: DataFrame, user_key_type: str) -> DataFrame:
    """The rows with the user's business key, in the type it came with."""
    kind = KEY_TYPES[user_key_type]
    keys = user_index.select(F.col("idx").alias("user_idx"), F.col("key").cast(kind).alias("user_key"))
    return users.join(keys, on="user_idx", how="inner")


def blocks(
    batches: Iterable[pa.RecordBatch], load_world: Callable[[], StoredWorld], recommender: Recommender
) -> Iterator[tuple[pa.RecordBatch, dict[str, Ragged], Merged]]:
    """Rows of `user_rows`, some at a time, with their lists by channel and merged."""
    world = load_world()
    for batch in batches:
        for start in range(0, batch.num_rows, TOGETHER):
            block = batch.slice(start, TOGETHER)
            users = users_of(block, interests=recommender.interests, seen=recommender.channels.seen, last=recommender.history)
            yield block, *recommender.lists(users, world)


def make_lists(load_world: Callable[[], StoredWorld], recommender: Recommender) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: rows of `user_rows` in, (user_idx, channels) out, one a user."""

    def lists(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The lists of every channel."""
        for block, made, _ in blocks(batches, load_world, recommender):
            columns = [block.column("user_idx"), lists_column(made, block.num_rows)]
            yield pa.RecordBatch.from_arrays(columns, names=["user_idx", "channels"])

    return lists


def make_publish(
    load_world: Callable[[], StoredWorld], recommender: Recommender, layout: Callable[..., pa.RecordBatch], stamps: Stamps
) -> Callable[[Iterable[pa.RecordBatch], Tally], Iterator[Batch]]:
    """What `write_partitions` runs: rows of `user_rows` with user_key in, rows of both tables out, counted."""

    def publish(batches: Iterable[pa.RecordBatch], tally: Tally) -> Iterator[Batch]:
        """Both tables, block by block."""
        item_keys = load_world().item_keys
        listed = np.zeros(len(item_keys), dtype=np.bool_)
        for block, made, merged in blocks(batches, load_world, recommender):
            tally.add(made, merged)
            listed[merged.lists.values] = True
            yield "channel_candidates", channel_rows(made, block.column("user_idx").to_numpy())
            yield "candidates", layout(merged, block.column("user_key"), item_keys, stamps)
        tally.mark(listed)

    return publish


def count(context: Context, tally: Tally) -> None:
    """Users, fallbacks and list lengths into the counters. Raises BadDataError if a user was lost on the way."""
    expected = context.manifests["user_state"].rows
    if tally.users != expected:
        fault = Fault(f"{expected} users, but vectors and neighbours of {tally.users}", fix="run embed and neighbours again")
        raise BadDataError(f"candidates, ds={context.ds}", [fault])
    lists = {name: {"mean_length": round(tally.lengths[name] / tally.users, 3), "empty": tally.empty[name]} for name in tally.lengths}
    context.counters["candidates"] = {"users": tally.users, "fallback_users": tally.fallback, "channels": lists}


JOB = Job(name="candidates", transform=transform, doc="Run the channels, merge them, and publish the candidate tables.")

if __name__ == "__main__":
    sys.exit(main(JOB))
