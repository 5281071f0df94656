"""Quotas of the channels, learned from clicks that are held out for validation: never from those held out for test."""

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.sections.retrieval import Merge
from conf.tables import VALID
from retrieval.merge_quotas import Learned, learn_quotas
from retrieval.ragged import Ragged


def valid_clicks(events: DataFrame, *, num: int, seed: int) -> DataFrame:
    """user_idx, truth array<int>: the distinct valid items, ascending, of `num` users at most, those of the smallest hash."""
    valid = events.where(F.col("split") == VALID).groupBy("user_idx").agg(F.sort_array(F.collect_set("item_idx")).alias("truth"))
    order = F.xxhash64(F.lit(seed).cast("long"), F.col("user_idx").cast("long"))
    return valid.orderBy(order, "user_idx").limit(num)


def learn(lists: DataFrame, truth: DataFrame, settings: Merge, *, names: list[str]) -> Learned:
    """The quotas that find most of `truth` (as of `valid_clicks`) in `lists`: user_idx, channel, items, scores, a row a channel of `names`.

    Raises:
        BadDataError: none of the users has a list.
    """
    used = [name for name in names if settings.weights.get(name, 1) > 0]
    table = lists.where(F.col("channel").isin(used)).join(truth, on="user_idx", how="inner").orderBy("user_idx").toArrow()
    if not len(table):
        raise BadDataError("merge.quotas: learned", [Fault("no user with history has a valid click", fix="give merge.quotas by hand")])
    by_channel = {name: table.filter(pc.equal(table["channel"], pa.scalar(name))) for name in used}
    channels = {name: Ragged.from_arrow(part["items"], part["scores"]) for name, part in by_channel.items()}
    return learn_quotas(channels, Ragged.from_arrow(by_channel[used[0]]["truth"]), top=settings.top, steps=settings.quota_steps)
