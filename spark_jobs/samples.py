"""events -> samples: each train and valid click with what its user did before it, and the masks of view b.

A row holds everything a training step needs about the user; item features are looked up by item_idx.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.masks import UM_B, VM_B, field_mask, history_mask
from conf.settings import Settings
from conf.tables import TRAIN, VALID, resolve
from spark_jobs.job import Context, Job, Output, main, spark_schema
from spark_jobs.splits import FIRST_TARGET
from spark_jobs.user_batches import in_order, whole_users

I64 = npt.NDArray[np.int64]

ROW_GROUPS_PER_FILE = 16
ROW_GROUPS_PER_STREAM = 2  # so that the order of row groups can still be drawn anew each epoch


@dataclass(frozen=True)
class Recipe:
    """What the rows of one configuration hold.

    history: L. first_target: position of a train user's first target, from 0. user_columns: single user fields, copied from
    user_feat. num_user_fields, num_item_fields: bits of the field masks. p_field, p_hist, draws, seed: of the masks.
    """

    history: int
    first_target: int
    user_columns: tuple[str, ...]
    num_user_fields: int
    num_item_fields: int
    p_field: float
    p_hist: float
    draws: int
    seed: int


def recipe_of(settings: Settings, *, split_kind: str) -> Recipe:
    """The recipe of these settings; under the user split a train user's first targets are history only (ComiRec)."""
    registry, masks = settings.registry(), settings.samples.masks
    return Recipe(
        history=settings.model.history,
        first_target=FIRST_TARGET if split_kind == "user" else 0,
        user_columns=tuple(field.name for field in registry.user if field.role == "single"),
        num_user_fields=len(registry.user),
        num_item_fields=len(registry.item),
        p_field=masks.p_field,
        p_hist=masks.p_hist,
        draws=masks.draws,
        seed=masks.seed,
    )


def cut_windows(events: DataFrame, schema: T.StructType, recipe: Recipe, *, split: int) -> DataFrame:
    """The rows of one split, in no order. `events` (every split) carries the recipe's user columns; schema: of the samples table."""
    arrow_schema = arrow_schema_of(schema)

    def build(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in whole_users(batches):
            yield samples_of(table, arrow_schema, recipe, split=split)

    return in_order(events).mapInArrow(build, schema)


def samples_of(events: pa.Table, schema: pa.Schema, recipe: Recipe, *, split: int) -> pa.RecordBatch:
    """The rows of whole users; `events` is sorted by user and total order. Pure Arrow and numpy: this is also the local builder."""
    user, item, stage = (events[name].to_numpy() for name in ("user_idx", "item_idx", "split"))
    first_of_user = np.searchsorted(user, user)
    position = np.arange(len(user)) - first_of_user
    wanted = stage == split
    if split == TRAIN:
        wanted &= position >= recipe.first_target
    rows = np.flatnonzero(wanted)
    hist, hist_len = windows(item, rows, position[rows], recipe.history)
    sample_id = user[rows].astype(np.int64) << 32 | position[rows]
    copied = events.select(["user_idx", "item_idx", "ts", "split", "weight", *recipe.user_columns]).take(pa.array(rows))
    columns = {name: copied[name].combine_chunks() for name in copied.column_names}
    columns |= {"sample_id": pa.array(sample_id), "hist": _lists(hist), "hist_len": pa.array(hist_len.astype(np.int16))}
    columns |= {name: pa.array(mask) for name, mask in masks_of(sample_id, hist_len, recipe).items()}
    return pa.RecordBatch.from_arrays([columns[field.name].cast(field.type) for field in schema], schema=schema)


def windows(item: npt.NDArray[np.int32], rows: I64, position: I64, length: int) -> tuple[npt.NDArray[np.int32], I64]:
    """(int32[n, length] the items before each row within its user, oldest first, 0 at the end; int64[n] how many).

    rows: places in `item`; position: how many events of the same user stand before each.
    """
    hist_len = np.minimum(position, length)
    column = np.arange(length)
    place = (rows - hist_len)[:, None] + column
    filled = column < hist_len[:, None]
    return np.where(filled, item[np.where(filled, place, 0)], 0).astype(np.int32), hist_len


def masks_of(sample_id: I64, hist_len: I64, recipe: Recipe) -> dict[str, I64]:
    """um_b<e>, uh_b<e>, vm_b<e> for each draw e."""
    found: dict[str, I64] = {}
    p, p_hist, seed = recipe.p_field, recipe.p_hist, recipe.seed
    for draw in range(recipe.draws):
        found[f"um_b{draw}"] = field_mask(sample_id, recipe.num_user_fields, p=p, seed=seed, draw=draw, what=UM_B)
        found[f"uh_b{draw}"] = history_mask(sample_id, hist_len, recipe.history, p=p_hist, seed=seed, draw=draw)
        found[f"vm_b{draw}"] = field_mask(sample_id, recipe.num_item_fields, p=p, seed=seed, draw=draw, what=VM_B)
    return found


def _lists(matrix: npt.NDArray[np.int32]) -> pa.ListArray:
    """Variable-size lists of one length: Petastorm drops fixed-size lists."""
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()))


def arrow_schema_of(schema: T.StructType) -> pa.Schema:
    """The Arrow schema of a Spark schema of integers, floats and int lists."""
    simple = {"byte": pa.int8(), "short": pa.int16(), "integer": pa.int32(), "long": pa.int64(), "float": pa.float32()}

    def arrow(data_type: T.DataType) -> pa.DataType:
        return pa.list_(arrow(data_type.elementType)) if isinstance(data_type, T.ArrayType) else simple[data_type.typeName()]

    return pa.schema([(field.name, arrow(field.dataType)) for field in schema.fields])


def count_targets(events: DataFrame, recipe: Recipe) -> dict[str, int]:
    """Rows of each split, and the train events that are history only because they come too early."""
    per_user = events.groupBy("user_idx").agg(
        F.count(F.when(F.col("split") == TRAIN, 1)).alias("train"), F.count(F.when(F.col("split") == VALID, 1)).alias("valid")
    )
    late = F.greatest(F.col("train") - recipe.first_target, F.lit(0))
    row = per_user.agg(F.sum(late).alias("train"), F.sum("valid").alias("valid"), F.sum(F.col("train") - late).alias("early")).first()
    assert row is not None
    train, valid, early = (int(row[name] or 0) for name in ("train", "valid", "early"))
    return {"train_samples": train, "valid_samples": valid, "train_events_only_history": early}


def row_group_rows(num_train: int, *, wanted: int, streams: int) -> int:
    """Rows of a row group: `wanted`, or fewer where the train rows would not make 2 groups for each stream."""
    return max(1, min(wanted, num_train // (ROW_GROUPS_PER_STREAM * streams)))


def exact_row_groups(rows: int) -> dict[str, str]:
    """Writer options that make every row group of a file hold exactly `rows` rows, the last one the rest.

    Spark's Parquet writer has no such limit, but it compares what it buffered with the block size only every `row.check` rows: with
    a block size that is always exceeded, each check ends a row group.
    """
    return {"parquet.block.size": "1", "parquet.page.size.row.check.min": str(rows), "parquet.page.size.row.check.max": str(rows)}


def shuffled(rows: DataFrame, num_files: int) -> DataFrame:
    """`num_files` partitions of about equal size, in an order that is random with respect to users, items and time.

    Both hashes are of sample_id alone: the same rows always stand in the same file in the same order.
    """
    return rows.repartition(num_files, "sample_id").sortWithinPartitions(F.xxhash64("sample_id"), "sample_id")


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Output]:
    """The job. Train and valid rows stand in files of their own, so that a reader of one split opens no file of the other."""
    settings = context.settings
    recipe = recipe_of(settings, split_kind=str(context.facts["split_kind"]))
    counters = count_targets(tables["events"], recipe)
    group = row_group_rows(counters["train_samples"], wanted=settings.samples.row_group_rows, streams=settings.trainer.streams)
    context.counters.update(counters | {"row_group_rows": group})
    user_columns = tables["user_feat"].select(F.col("idx").alias("user_idx"), *recipe.user_columns)
    events = tables["events"].join(user_columns, "user_idx", how="left")
    schema = spark_schema(resolve("samples", context.registry, settings.shape()))
    parts = [
        shuffled(cut_windows(events, schema, recipe, split=split), -(-num // (group * ROW_GROUPS_PER_FILE)))
        for split, num in ((TRAIN, counters["train_samples"]), (VALID, counters["valid_samples"]))
        if num
    ]
    rows = parts[0] if len(parts) == 1 else parts[0].union(parts[1])
    return {"samples": Output(rows, options=exact_row_groups(group))}


JOB = Job(name="samples", transform=transform, doc="Write one training row per click, with history and masks.")

if __name__ == "__main__":
    sys.exit(main(JOB))
