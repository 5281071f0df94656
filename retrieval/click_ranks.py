"""Click ranks: where U2I would have put each held-out click, by all that its user had clicked just before it.

HIT as of the click (Xie et al. 2022, MicRec, 5.3; as MIND counts it): the tables of a day know each user at the cut only, so the users are
encoded anew, once a click. The other channels read neighbours of the day, which nobody has as of a click: theirs is HIT as of the cut.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.tables import TEST
from retrieval.index_age import indexes_of
from retrieval.ragged import I32, I64, Ragged
from retrieval.scoring import nearest_unseen
from retrieval.search import ArrowFunction
from retrieval.similarity import JOINT, u2i_index
from retrieval.towers_files import BLOCK, TowersFiles, filling
from retrieval.vector_index import VectorIndex
from retrieval.world import seen_items
from spark_jobs.job import Context, Job, Output, main

if TYPE_CHECKING:
    from trainer.export import Towers

SCHEMA = "user_idx int, position int, item_idx int, rank int"
_SPAN = 1 << 31


@dataclass(frozen=True)
class Asked:
    """top: places of a list that are looked at. seen, history: as of the channels, and the clicks the model is given.

    joint: whether the index is of the joint space.
    """

    top: int
    seen: str
    history: int
    joint: bool = False


def transform(context: Context, tables: Mapping[str, DataFrame]) -> Mapping[str, Output]:
    """The place of each held-out click of the users that offline_metrics scores."""
    settings = context.settings
    chosen, seed = settings.evaluation, settings.split.seed
    clicks = with_history(tables["events"], max_users=chosen.max_users, max_clicks=chosen.max_clicks, seed=seed)
    users = clicks.join(tables["user_feat"].withColumnRenamed("idx", "user_idx"), on="user_idx", how="inner").repartition("user_idx")
    towers = TowersFiles.of(context.manifests["model"], context.files("model"), context.files("item_feat"))
    index = u2i_index(indexes_of(context), settings.channels.u2i.space)
    index.check()
    asked = Asked(min(max(chosen.at), settings.channels.top), settings.channels.seen, settings.model.history, index.name == JOINT)
    made = users.mapInArrow(make_rank(towers.held, index.held, asked), SCHEMA).persist()
    context.counters["clicks"], context.counters["clicks_found"] = made.count(), made.where("rank > 0").count()
    return {"click_ranks": Output(made, sort_by=("user_idx", "position"))}


def with_history(events: DataFrame, *, max_users: int, max_clicks: int, seed: int) -> DataFrame:
    """user_idx, items array<int> (all events, in order), asked array<boolean>: of the users with test clicks of the smallest hash.

    asked: a test click whose place is wanted: all of them, or about `max_clicks` drawn by hash where there are more.
    """
    test = events.where(F.col("split") == TEST)
    order = F.xxhash64(F.lit(seed).cast("long"), F.col("user_idx").cast("long"))  # as offline_metrics chooses them
    users = test.groupBy("user_idx").agg(F.count(F.lit(1)).alias("num")).orderBy(order, "user_idx").limit(max_users).persist()
    total = users.agg(F.sum("num")).first()
    share = min(1.0, max_clicks / max((total and total[0]) or 0, 1))
    drawn = F.pmod(F.xxhash64(F.lit(seed).cast("long"), "user_idx", "ts", "seq"), F.lit(_SPAN)) < int(share * _SPAN)
    known = events.join(users.select("user_idx"), on="user_idx", how="left_semi")
    one = F.struct("ts", "seq", "item_idx", ((F.col("split") == TEST) & drawn).alias("asked"))
    listed = known.groupBy("user_idx").agg(F.sort_array(F.collect_list(one)).alias("event"))
    return listed.select("user_idx", F.col("event.item_idx").alias("items"), F.col("event.asked").alias("asked"))


def make_rank(load_towers: Callable[[], "Towers"], load_index: Callable[[], VectorIndex], asked: Asked) -> ArrowFunction:
    """Body of DataFrame.mapInArrow: (user_idx, items, asked, user fields) batches in, a row of `SCHEMA` for each asked click out."""

    def rank(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Encode, search and look, `BLOCK` clicks at a time."""
        towers, index = load_towers(), load_index()
        for batch in batches:
            events = Ragged.from_arrow(batch.column("items"))
            wanted = np.flatnonzero(batch.column("asked").flatten().to_numpy(zero_copy_only=False))
            for start in range(0, len(wanted), BLOCK):
                some = wanted[start : start + BLOCK]
                rows, places, items = events.rows[some], events.places[some], events.values[some]
                before = events.take(rows).first(places)
                vectors_BKD = towers.encode_users(_users(batch, rows, before))
                if asked.joint:
                    vectors_BKD = towers.in_joint("user", vectors_BKD)
                lists = nearest_unseen(index, vectors_BKD[: len(some)], seen_items(before, asked.seen, last=asked.history), asked.top)
                idx = batch.column("user_idx").to_numpy()[rows]
                columns = (idx, places.astype(np.int32), items, ranks_of(lists, items))
                yield pa.RecordBatch.from_arrays([*map(pa.array, columns)], names=["user_idx", "position", "item_idx", "rank"])

    return rank


def _users(batch: pa.RecordBatch, rows: I64, before: Ragged) -> pa.Table:
    """What the towers read of each click's user, filled up to a whole block: a vector must not depend on what it came with."""
    fields = pa.Table.from_batches([batch]).select([name for name in batch.schema.names if name not in ("items", "asked")])
    return fields.take(rows).append_column("items", before.to_arrow()).take(filling(len(rows)))


def ranks_of(lists: Ragged, items: I32) -> I32:
    """int32[B]: the place of item b in list b, from 1; 0 where it is not in it."""
    found = np.zeros(len(lists), dtype=np.int32)
    hits = lists.values == np.repeat(items, lists.lengths)
    found[lists.rows[hits]] = lists.places[hits] + 1
    return found


JOB = Job(name="click_ranks", transform=transform, doc="Find the place U2I gives each held-out click, as of just before it.")

if __name__ == "__main__":
    sys.exit(main(JOB))
