"""events -> samples: each train and valid click with what its user did before it, and the masks of its views.

A row holds everything a training step needs about the user; item features are looked up by item_idx.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.compiled import I32
from conf.files import open_root
from conf.masks import Masking, masking_of
from conf.settings import Settings
from conf.tables import TRAIN, VALID, resolve
from spark_jobs.event_files import num_files, read_events
from spark_jobs.job import Context, Job, Made, Output, main, spark_schema
from spark_jobs.kernels.samples import dealt, permutation, positions_in_user, windows
from spark_jobs.masks import compiled_masks
from spark_jobs.mutual_information import patterns_of
from spark_jobs.splits import FIRST_TARGET
from spark_jobs.sql import samples as sql
from spark_jobs.sql.masks import with_masks
from spark_jobs.sql.user_blocks import cut_blocks
from spark_jobs.task_files import arrow_schema, write_by_tasks
from spark_jobs.user_blocks import blocks_of, is_target

EVENT_COLUMNS = ("user_idx", "item_idx", "ts", "split", "weight")
ROW_GROUPS_PER_FILE = 16
ROW_GROUPS_PER_STREAM = 2  # so that the order of row groups can still be drawn anew each epoch


@dataclass(frozen=True)
class Recipe:
    """What the rows of one configuration hold.

    history: L. first_target: position of a train user's first target, from 0. user_columns: single user fields, copied from
    user_feat.
    """

    history: int
    first_target: int
    user_columns: tuple[str, ...]
    masks: Masking


def recipe_of(settings: Settings, masks: Masking, *, split_kind: str) -> Recipe:
    """The recipe of these settings; under the user split a train user's first targets are history only (ComiRec)."""
    registry = settings.registry()
    return Recipe(
        history=settings.model.history,
        first_target=FIRST_TARGET if split_kind == "user" else 0,
        user_columns=tuple(field.name for field in registry.user if field.role == "single"),
        masks=masks,
    )


# ---- the compiled engine -------------------------------------------------------------------------------------------


def samples_of(
    events: pa.Table, user_columns: Mapping[str, I32], schema: pa.Schema, recipe: Recipe, *, split: int, group: int
) -> Iterator[pa.RecordBatch]:
    """The rows of whole users in random order, `group` at a time. `events` is sorted by user and total order.

    user_columns: of each event, the recipe's columns of its user. The order is a function of the events alone.
    """
    user, item, stage, ts, weight = (events[name].to_numpy() for name in ("user_idx", "item_idx", "split", "ts", "weight"))
    position = positions_in_user(user)
    rows = np.flatnonzero(is_target(stage, position, split=split, first_target=recipe.first_target))
    if not len(rows):
        return
    ascending, place = dealt(permutation(len(rows), int(user[rows[0]])), group)
    for at in range(0, len(rows), group):
        some, spot = rows[ascending[at : at + group]], place[at : at + group]
        hist, hist_len = windows(item, some, spot, position, recipe.history)
        lists = pa.ListArray.from_arrays(pa.array(np.arange(len(some) + 1, dtype=np.int32) * recipe.history), pa.array(hist))
        sample_id = np.empty(len(some), np.int64)
        sample_id[spot] = user[some].astype(np.int64) << 32 | position[some]
        given = {"user_idx": user, "item_idx": item, "ts": ts, "split": stage, "weight": weight, **user_columns}
        columns = {name: np.empty(len(some), column.dtype) for name, column in given.items()}
        for name, column in columns.items():
            column[spot] = given[name][some]
        columns |= {"sample_id": sample_id, "hist_len": hist_len}
        arrays = {name: pa.array(column) for name, column in (columns | compiled_masks(recipe.masks, sample_id, hist_len)).items()}
        arrays["hist"] = lists
        yield pa.RecordBatch.from_arrays([arrays[field.name].cast(field.type) for field in schema], schema=schema)


def columns_of_users(uris: Sequence[str], names: Sequence[str], user: I32) -> dict[str, I32]:
    """Columns of user_feat for each of these users, sorted; read a piece at a time, since a task needs few of all users."""
    found = {name: np.zeros(len(user), np.int32) for name in names}
    if not names or not len(user):
        return found
    for uri in uris:
        filesystem, path = open_root(uri)
        with filesystem.open_input_file(path) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(columns=["idx", *names], use_threads=False):
                idx = batch.column("idx").to_numpy()
                start, end = np.searchsorted(user, idx, side="left"), np.searchsorted(user, idx, side="right")
                size = end - start
                place = np.repeat(start - (np.cumsum(size) - size), size) + np.arange(size.sum())
                for name in names:
                    found[name][place] = np.repeat(batch.column(name).to_numpy(), size)
    return found


def compiled(context: Context, recipe: Recipe, splits: Sequence[int], group: int) -> Made:
    """The table, a task for each file of events and split. A file mixes the clicks of its users, whom their numbers' hash chose."""
    table = resolve("samples", context.registry, context.settings.shape())
    events, features, chosen = context.files("events"), context.files("user_feat"), context.settings.samples
    shape = {"first_target": recipe.first_target, "history": recipe.history, "size": chosen.block}

    def build(piece: tuple[str, int], counts: Counter[str]) -> Iterator[pa.RecordBatch]:
        uri, split = piece
        table_of_events = read_events(uri, EVENT_COLUMNS)
        columns = columns_of_users(features, recipe.user_columns, table_of_events["user_idx"].to_numpy())
        if chosen.layout == "sequences":
            yield from blocks_of(table_of_events, columns, arrow_schema(table), split=split, **shape)
        else:
            yield from samples_of(table_of_events, columns, arrow_schema(table), recipe, split=split, group=group)

    return write_by_tasks(context, table, [(uri, split) for split in splits for uri in events], build)


# ---- the job -------------------------------------------------------------------------------------------------------


def count_targets(events: DataFrame, counted: Mapping[str, int], recipe: Recipe) -> dict[str, int]:
    """Rows of each split, and the train events that are history only because they come too early. counted: by the job events."""
    early = 0
    if recipe.first_target:
        per_user = events.where(F.col("split") == TRAIN).groupBy("user_idx").count()
        row = per_user.agg(F.sum(F.least("count", F.lit(recipe.first_target)))).first()
        early = int(row[0] or 0) if row else 0
    return {
        "train_samples": counted["train_events"] - early,
        "valid_samples": counted["valid_events"],
        "train_events_only_history": early,
    }


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


def blocks_by_sql(context: Context, tables: Mapping[str, DataFrame], recipe: Recipe, num_rows: Mapping[int, int]) -> Made:
    """The table in layout sequences; a file holds the blocks of its users in order, as those of the compiled engine do."""
    features = tables["user_feat"].select(F.col("idx").alias("user_idx"), *recipe.user_columns)
    events = tables["events"].join(features, "user_idx", how="left")
    shape = {"history": recipe.history, "size": context.settings.samples.block, "first_target": recipe.first_target}
    parts = []
    for split, num in num_rows.items():
        rows = cut_blocks(events, split=split, user_columns=recipe.user_columns, **shape)
        parts.append(rows.repartition(num_files(num), "user_idx").sortWithinPartitions("sample_id"))
    return Output(parts[0] if len(parts) == 1 else parts[0].union(parts[1]))


def by_sql(context: Context, tables: Mapping[str, DataFrame], recipe: Recipe, num_rows: Mapping[int, int], group: int) -> Made:
    """The table by window functions and a shuffle, slower."""
    features = tables["user_feat"].select(F.col("idx").alias("user_idx"), *recipe.user_columns)
    events = tables["events"].join(features, "user_idx", how="left")
    schema = spark_schema(resolve("samples", context.registry, context.settings.shape()))
    parts = []
    for split, num in num_rows.items():
        cut = sql.cut_windows(
            events,
            split=split,
            history=recipe.history,
            first_target=recipe.first_target,
            user_columns=recipe.user_columns,
            item_users=context.settings.shape().item_users,
        )
        rows = with_masks(cut, recipe.masks).select(*(F.col(field.name).cast(field.dataType) for field in schema))
        parts.append(shuffled(rows, -(-num // (group * ROW_GROUPS_PER_FILE))))
    return Output(parts[0] if len(parts) == 1 else parts[0].union(parts[1]), options=exact_row_groups(group))


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Made]:
    """The job. Train and valid rows stand in files of their own, so that a reader of one split opens no file of the other."""
    settings = context.settings
    masks = masking_of(settings, patterns_of(context, tables) if settings.samples.masks.strategy == "cfm" else {})
    recipe = recipe_of(settings, masks, split_kind=str(context.facts["split_kind"]))
    counters = count_targets(tables["events"], context.manifests["events"].counters, recipe)
    group = row_group_rows(counters["train_samples"], wanted=settings.samples.row_group_rows, streams=settings.trainer.streams)
    context.counters.update(counters | {"row_group_rows": group, "fields_masked": masks.maskable()})
    num_rows = {split: num for split, num in ((TRAIN, counters["train_samples"]), (VALID, counters["valid_samples"])) if num}
    if settings.samples.layout == "sequences":  # what a reader needs to cut the rows, in the order of layout windows
        context.facts["sequences"] = {"history": recipe.history, "group_rows": group}
    if settings.samples.engine == "compiled":
        return {"samples": compiled(context, recipe, tuple(num_rows), group)}
    if settings.samples.layout == "sequences":
        return {"samples": blocks_by_sql(context, tables, recipe, num_rows)}
    return {"samples": by_sql(context, tables, recipe, num_rows, group)}


JOB = Job(name="samples", transform=transform, doc="Write one training row per click, with history and masks.")

if __name__ == "__main__":
    sys.exit(main(JOB))
