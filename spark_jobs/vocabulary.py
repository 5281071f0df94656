"""clicks, users, items -> the numbering of everything ever seen, the vocabularies of train values, and the encoded features.

Two kinds of ids: idx is a row number of every user and item, trained on or not; a field id (user_id and item_id included) exists
only for values frequent enough in train.

With `vocabulary.previous_ds` the numbers of an earlier day stay and new ones are appended, so that a model can be trained further.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID, OOV, Field
from conf.tables import TRAIN
from spark_jobs.erasure import erased_keys
from spark_jobs.growth import Rank, append, growth
from spark_jobs.job import Context, Job, main
from spark_jobs.pseudonyms import replaced
from spark_jobs.ranking import with_rank, with_rank_of_few
from spark_jobs.secret_key import key_of
from spark_jobs.splits import assign_split

DISTRIBUTED_FROM = 1_000_000  # users or items from which on many tasks number them and their values: below, one sorts them in less time


def number(
    entities: DataFrame, clicks: DataFrame, *, key: str, ds: str, previous: DataFrame | None = None, rank: Rank = with_rank_of_few
) -> DataFrame:
    """Every row of `entities` and every clicked key, with `_train_count` (train clicks), `idx` from 1, `_added_ds` and `_seen`.

    Most clicked first, then by key. With the index of an earlier day its keys keep their idx, found today (`_seen`) or not, and new ones
    follow in that order. `clicks` carries `split`. Columns of `entities` are null for a key that they lack. The result is cached.
    """
    counts = clicks.groupBy(key).agg(F.count(F.when(F.col("split") == TRAIN, 1)).alias("_train_count"))
    known = entities.join(counts, key, how="full").withColumn("_train_count", F.coalesce("_train_count", F.lit(0)))
    known = known.withColumns({"_seen": F.lit(True), "_added_ds": F.lit(ds)})
    order = [F.col("_train_count").desc(), F.col(key)]
    if previous is None:
        ranked = rank(known, order, "idx", start=1)
    else:
        earlier = previous.withColumnsRenamed({"key": key, "added_ds": "_earlier_ds"})
        grown = append(known, earlier, order, rank, key=key, number="idx", start=1, new=F.lit(True))
        ranked = grown.withColumns(
            {
                "_train_count": F.coalesce("_train_count", F.lit(0)),
                "_seen": F.coalesce("_seen", F.lit(False)),
                "_added_ds": F.coalesce("_earlier_ds", "_added_ds"),
            }
        ).drop("_earlier_ds")
    return ranked.withColumn("idx", F.col("idx").cast("int")).persist()


def index_of(numbered: DataFrame, *, key: str) -> DataFrame:
    """user_index or item_index."""
    return numbered.select(F.col(key).alias("key"), "idx", F.col("_added_ds").alias("added_ds"))


def id_vocabulary(numbered: DataFrame, field: Field, *, key: str, ds: str) -> DataFrame:
    """The vocabulary of user_id or item_id where all is numbered anew: `idx` is then in vocabulary order, so that rank = idx - 1."""
    frequent = numbered.where(F.col("_train_count") >= field.min_count)
    return frequent.select(
        F.col(key).alias("value"),
        _id_of_idx().alias("id"),
        (F.col("idx") - 1).alias("rank"),
        F.col("_train_count").alias("count"),
        F.lit(ds).alias("added_ds"),
    )


def _id_of_idx() -> Column:
    return (F.col("idx") + F.lit(FIRST_ID - 1)).cast("int")


def count_values(numbered: DataFrame, field: Field, *, key: str) -> DataFrame:
    """(value, count): the train clicks that carry each value; the values of user_id and item_id are the keys.

    A value of a multi field counts once per click, however often one entity repeats it.
    """
    trained = numbered.where(F.col("_train_count") > 0)
    if field.name not in numbered.columns:
        return trained.select(F.col(key).alias("value"), F.col("_train_count").alias("count"))
    value = F.explode(F.array_distinct(field.name)) if field.role == "multi" else F.col(field.name)
    values = trained.select(value.alias("value"), "_train_count").where(F.col("value").isNotNull())
    return values.groupBy("value").agg(F.sum("_train_count").alias("count"))


def field_vocabulary(
    counts: DataFrame, field: Field, *, ds: str, previous: DataFrame | None = None, rank: Rank = with_rank_of_few
) -> DataFrame:
    """The values of one field (value, count) that at least `min_count` train clicks carry, most frequent first, ties by value.

    Values of an earlier day's vocabulary keep their id, however rare they have become, and new ones follow. The result is cached.
    """
    order, frequent = [F.col("count").desc(), F.col("value")], F.col("count") >= field.min_count
    if previous is None:
        ranked = rank(counts.where(frequent), order, "rank").withColumn("added_ds", F.lit(ds))
    else:
        earlier = previous.select("value", "rank", "added_ds")
        grown = append(counts, earlier, order, rank, key="value", number="rank", start=0, new=frequent)
        ranked = grown.withColumns({"added_ds": F.coalesce("added_ds", F.lit(ds)), "count": F.coalesce("count", F.lit(0))})
    place = F.col("rank").cast("int")
    return ranked.select("value", (place + FIRST_ID).alias("id"), place.alias("rank"), "count", "added_ds").persist()


def features(
    numbered: DataFrame, fields: Sequence[Field], vocabularies: Mapping[str, DataFrame], *, id_field: str, key: str | None = None
) -> DataFrame:
    """idx and one column per field: int ids of single fields, arrays of int ids of multi fields.

    A single value that is missing or has no id becomes OOV. Unknown values of a multi field are left out, then the
    first `max_len` kept; [] = none is known. key: the values of `id_field`; None = its ids follow from idx, all being numbered anew.
    """
    encoded = numbered
    for field in fields:
        if field.name == id_field and key is None:
            known = F.col("_train_count") >= field.min_count
            encoded = encoded.withColumn(field.name, F.when(known, _id_of_idx()).otherwise(OOV))
        elif field.name == id_field:
            encoded = _encode_single(encoded.withColumn(field.name, F.col(str(key))), field.name, vocabularies[field.name])
        elif field.role == "multi":
            encoded = _encode_multi(encoded, field, vocabularies[field.name])
        else:
            encoded = _encode_single(encoded, field.name, vocabularies[field.name])
    return encoded


def _encode_single(entities: DataFrame, name: str, vocabulary: DataFrame) -> DataFrame:
    ids = vocabulary.select(F.col("value").alias(name), F.col("id").alias("_id"))
    joined = entities.join(ids, name, how="left")
    return joined.withColumn(name, F.coalesce("_id", F.lit(OOV))).drop("_id")


def _encode_multi(entities: DataFrame, field: Field, vocabulary: DataFrame) -> DataFrame:
    """The ids in the order in which the source names the values."""
    values = entities.select("idx", F.posexplode(F.array_distinct(field.name)).alias("_position", "value"))
    known = values.join(vocabulary.select("value", "id"), "value", how="inner")
    ordered = F.slice(F.sort_array(F.collect_list(F.struct("_position", "id"))), 1, field.max_len)
    lists = known.groupBy("idx").agg(F.transform(ordered, lambda pair: pair["id"]).alias("_ids"))
    joined = entities.join(lists, "idx", how="left")
    return joined.withColumn(field.name, F.coalesce("_ids", F.array().cast("array<int>"))).drop("_ids")


def end_of(ds: str, timezone: str) -> int:
    """Epoch seconds at which the day is over there."""
    return int((datetime.fromisoformat(ds).replace(tzinfo=ZoneInfo(timezone)) + timedelta(days=1)).timestamp())


def live(end_s: int | None) -> Column:
    """Whether an item may be recommended on a day that is over at `end_s` (None: the log has no clock): eligible, and seen in train or not
    published later. One that only the clicks know is eligible, as in ingest; one that nothing knows any more is not.

    Columns: eligible, publish_ts, _seen, _train_count, as of `number`.
    """
    eligible = F.coalesce("eligible", "_seen")
    return eligible if end_s is None else eligible & ~_unpublished(end_s)


def _unpublished(end_s: int) -> Column:
    return (F.col("_train_count") == 0) & F.coalesce(F.col("publish_ts") >= end_s, F.lit(False))


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """The job: one numbering per side; vocabularies and features follow from it."""
    clicks = assign_split(tables["clicks"], split=context.settings.split, has_clock=bool(context.facts["has_clock"]))
    earlier = {name.removeprefix("previous_"): table for name, table in tables.items() if name.startswith("previous_")}
    if earlier and (_names_erased(context, earlier["user_index"]) or _has_gaps(earlier["user_index"])):
        earlier = {}
    # A model knows values by their ids: it can be trained further only while the epoch is the one it was trained in.
    began = context.previous["user_index"] if earlier else None
    context.facts["vocabulary_epoch"] = began.facts.get("vocabulary_epoch", began.ds) if began else f"{context.ds}/{context.run_id}"
    context.counters["starts_cold"] = not earlier
    users = _side(context, "user", context.registry.user, tables["users"], clicks, earlier)
    return users | _side(context, "item", context.registry.item, tables["items"], clicks, earlier)


def _names_erased(context: Context, index: DataFrame) -> bool:
    """Whether a user on the erasure list stands in the index of the earlier day: its rows cannot go without moving others."""
    source = context.settings.source
    erased = erased_keys(context.spark, source)
    if erased is None:
        return False
    key = key_of(source)
    if key is not None and source.pseudonyms.users:
        erased = replaced(erased, ["user_key"], key)
    return not index.join(erased, index["key"] == erased["user_key"], how="left_semi").isEmpty()


def _has_gaps(index: DataFrame) -> bool:
    """Whether users were erased from the index of the earlier day: who goes on from it would number rows that are not there."""
    row = index.agg(F.count(F.lit(1)).alias("rows"), F.max("idx").alias("last")).first()
    assert row is not None
    return bool(row["rows"] != (row["last"] or 0))


def _side(
    context: Context, side: str, fields: Sequence[Field], entities: DataFrame, clicks: DataFrame, earlier: Mapping[str, DataFrame]
) -> dict[str, DataFrame]:
    """The tables of the users or of the items. earlier: those of the day whose numbers stay, by name; {} = all is numbered anew."""
    ds, key, id_field = context.ds, f"{side}_key", f"{side}_id"
    raw = [field.name for field in fields if field.name != id_field]
    eligible, catalogue = (["eligible"], ["eligible", "publish_ts"]) if side == "item" else ([], [])
    end_s = end_of(ds, context.settings.source.day_timezone) if context.facts["has_clock"] else None
    rank = with_rank if context.manifests[f"{side}s"].rows >= DISTRIBUTED_FROM else with_rank_of_few
    numbered = number(entities.select(key, *catalogue, *raw), clicks, key=key, ds=ds, previous=earlier.get(f"{side}_index"), rank=rank)
    context.counters.update(_counts(numbered, side))
    if side == "item" and end_s is not None:
        context.counters["items_not_yet_published"] = numbered.where(_unpublished(end_s)).count()
    vocabularies = {}
    for field in fields:
        if field.name == id_field and not earlier:
            vocabularies[field.name] = id_vocabulary(numbered, field, key=key, ds=ds)
        else:
            counts, previous = count_values(numbered, field, key=key), earlier.get(f"vocab_{field.name}")
            vocabularies[field.name] = field_vocabulary(counts, field, ds=ds, previous=previous, rank=rank)
    encoded = features(numbered, fields, vocabularies, id_field=id_field, key=key if earlier else None)
    if side == "item":
        encoded = encoded.withColumn("eligible", live(end_s))
    made = {f"{side}_index": index_of(numbered, key=key), f"{side}_feat": encoded.select("idx", *eligible, *_names(fields))}
    made |= {f"vocab_{name}": vocabulary for name, vocabulary in vocabularies.items()}
    if earlier:
        rows = {f"{side}_index": numbered.select(F.col("_added_ds").alias("added_ds"), F.col("_seen").alias("seen"))}
        for name, table in vocabularies.items():
            rows[f"vocab_{name}"] = table.select("added_ds", (F.col("count") > 0).alias("seen"))
        context.counters.setdefault("growth", {}).update(growth(rows, ds=ds))
    return made


def _names(fields: Sequence[Field]) -> list[str]:
    return [field.name for field in fields]


def _counts(numbered: DataFrame, side: str) -> dict[str, int]:
    row = numbered.agg(
        F.count(F.lit(1)).alias("all"),
        F.count(F.when(F.col("_train_count") == 0, 1)).alias("untrained"),
        F.coalesce(F.sum("_train_count"), F.lit(0)).alias("train"),
        F.coalesce(F.max("_train_count"), F.lit(0)).alias("most"),
    ).first()
    assert row is not None
    if row["train"] == 0:
        raise BadDataError("job vocabulary", [Fault("the split leaves no click to train on", fix="see split.* in the settings")])
    return {
        f"{side}s": row["all"],
        f"{side}s_without_train_clicks": row["untrained"],
        f"{side}_max_train_clicks": row["most"],
        "train_clicks": row["train"],
    }


JOB = Job(name="vocabulary", transform=transform, doc="Number users, items and field values; encode the features.")

if __name__ == "__main__":
    sys.exit(main(JOB))
