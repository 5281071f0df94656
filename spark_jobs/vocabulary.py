"""clicks, users, items -> the numbering of everything ever seen, the vocabularies of train values, and the encoded features.

Two kinds of ids: idx is a row number of every user and item, trained on or not; a field id (user_id and item_id included) exists
only for values frequent enough in train.
"""

import sys
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID, OOV, Field
from conf.tables import TRAIN
from spark_jobs.job import Context, Job, main
from spark_jobs.ranking import with_rank
from spark_jobs.splits import assign_split


def number(entities: DataFrame, clicks: DataFrame, *, key: str) -> DataFrame:
    """Every row of `entities` and every clicked key, with `train_count` (train clicks) and `idx` from 1, most clicked first, then by key.

    `clicks` carries `split`. Columns of `entities` are null for a key that only the clicks know. The result is cached.
    """
    counts = clicks.groupBy(key).agg(F.count(F.when(F.col("split") == TRAIN, 1)).alias("train_count"))
    known = entities.join(counts, key, how="full").withColumn("train_count", F.coalesce("train_count", F.lit(0)))
    ranked = with_rank(known, [F.col("train_count").desc(), F.col(key)], "idx", start=1)
    return ranked.withColumn("idx", F.col("idx").cast("int")).persist()


def index_of(numbered: DataFrame, *, key: str, ds: str) -> DataFrame:
    """user_index or item_index."""
    return numbered.select(F.col(key).alias("key"), "idx", F.lit(ds).alias("added_ds"))


def id_vocabulary(numbered: DataFrame, field: Field, *, key: str, ds: str) -> DataFrame:
    """The vocabulary of user_id or item_id. `idx` is already in vocabulary order, so that rank = idx - 1."""
    frequent = numbered.where(F.col("train_count") >= field.min_count)
    return frequent.select(
        F.col(key).alias("value"),
        _id_of_idx().alias("id"),
        (F.col("idx") - 1).alias("rank"),
        F.col("train_count").alias("count"),
        F.lit(ds).alias("added_ds"),
    )


def _id_of_idx() -> Column:
    return (F.col("idx") + F.lit(FIRST_ID - 1)).cast("int")


def field_vocabulary(numbered: DataFrame, field: Field, *, ds: str) -> DataFrame:
    """The values of one field that at least `min_count` train clicks carry, most frequent first, ties by value.

    A value of a multi field counts once per click, however often one entity repeats it.
    """
    value = F.explode(F.array_distinct(field.name)) if field.role == "multi" else F.col(field.name)
    values = numbered.where(F.col("train_count") > 0).select(value.alias("value"), "train_count").where(F.col("value").isNotNull())
    counts = values.groupBy("value").agg(F.sum("train_count").alias("count")).where(F.col("count") >= field.min_count)
    # A vocabulary is small beside the log: one task sorts it.
    rank = F.row_number().over(Window.partitionBy(F.lit(0)).orderBy(F.col("count").desc(), F.col("value"))) - 1
    ranked = counts.withColumn("rank", rank)
    return ranked.select(
        "value", (F.col("rank") + FIRST_ID).cast("int").alias("id"), "rank", "count", F.lit(ds).alias("added_ds")
    ).persist()


def features(numbered: DataFrame, fields: Sequence[Field], vocabularies: Mapping[str, DataFrame], *, id_field: str) -> DataFrame:
    """idx and one column per field: int ids of single fields, arrays of int ids of multi fields.

    A single value that is missing or has no id becomes OOV. Unknown values of a multi field are left out, then the
    first `max_len` kept; [] = none is known.
    """
    encoded = numbered
    for field in fields:
        if field.name == id_field:
            known = F.col("train_count") >= field.min_count
            encoded = encoded.withColumn(field.name, F.when(known, _id_of_idx()).otherwise(OOV))
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


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """The job: one numbering per side; vocabularies and features follow from it."""
    registry, ds = context.registry, context.ds
    clicks = assign_split(tables["clicks"], split=context.settings.split, has_clock=bool(context.facts["has_clock"]))
    made: dict[str, DataFrame] = {}
    for side, fields, entities in (("user", registry.user, tables["users"]), ("item", registry.item, tables["items"])):
        key, id_field = f"{side}_key", f"{side}_id"
        raw = [field.name for field in fields if field.name != id_field]
        eligible = ["eligible"] if side == "item" else []
        numbered = number(entities.select(key, *eligible, *raw), clicks, key=key)
        context.counters.update(_counts(numbered, side))
        vocabularies = {
            field.name: id_vocabulary(numbered, field, key=key, ds=ds)
            if field.name == id_field
            else field_vocabulary(numbered, field, ds=ds)
            for field in fields
        }
        encoded = features(numbered, fields, vocabularies, id_field=id_field)
        if side == "item":  # an item that only the clicks know is eligible, as in ingest
            encoded = encoded.withColumn("eligible", F.coalesce("eligible", F.lit(True)))
        made |= {f"{side}_index": index_of(numbered, key=key, ds=ds), f"{side}_feat": encoded.select("idx", *eligible, *_names(fields))}
        made |= {f"vocab_{name}": vocabulary for name, vocabulary in vocabularies.items()}
    return made


def _names(fields: Sequence[Field]) -> list[str]:
    return [field.name for field in fields]


def _counts(numbered: DataFrame, side: str) -> dict[str, int]:
    row = numbered.agg(
        F.count(F.lit(1)).alias("all"),
        F.count(F.when(F.col("train_count") == 0, 1)).alias("untrained"),
        F.coalesce(F.sum("train_count"), F.lit(0)).alias("train"),
    ).first()
    assert row is not None
    if row["train"] == 0:
        raise BadDataError("job vocabulary", [Fault("the split leaves no click to train on", fix="see split.* in the settings")])
    return {f"{side}s": row["all"], f"{side}s_without_train_clicks": row["untrained"], "train_clicks": row["train"]}


JOB = Job(name="vocabulary", transform=transform, doc="Number users, items and field values; encode the features.")

if __name__ == "__main__":
    sys.exit(main(JOB))
