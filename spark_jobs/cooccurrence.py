"""sessions -> cooc: how often two items met, kept for the strongest pairs of each item.

Source: MicRec 3.5 ("any two items in a session have one co-occurrence relation") and 4.1 (pairs of one category count more).
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.fields import FIRST_ID, Registry
from conf.files import open_root
from conf.sections.data import Cooc
from conf.tables import TABLES
from spark_jobs import baskets
from spark_jobs.baskets import Baskets, Block
from spark_jobs.job import Context, Job, Made, main
from spark_jobs.kernels.compiled import I32, I64
from spark_jobs.kernels.cooccurrence import count_block
from spark_jobs.session_cuts import Rule as Cuts
from spark_jobs.session_cuts import resolve_rule as resolve_cuts
from spark_jobs.sql import cooccurrence as sql
from spark_jobs.task_files import arrow_schema, write_by_tasks

Counting = Literal["set", "multiset", "window"]

COOC = TABLES["cooc"]
MAX_EXACT_PAIRS = 200_000_000  # so many different pairs one process can hold, and draw negatives that met in no session at all
AUTO_MIN_COUNT_CLICKS = 10_000_000  # from here on most pairs that met once met by chance
BLOCKS_PER_CORE = 3  # each block reads all sessions again: few, but enough that no core waits long for the last
CLICKS_PER_BLOCK = 100_000_000  # bounds what one task holds: about 10 bytes a click of the sessions that have an item of its block
ROWS_PER_GROUP = 1_000_000
ANY = 2**62


@dataclass(frozen=True)
class Rule:
    """What counts as meeting.

    set: a session counts once for each two different items in it. multiset: n_i * n_j times. window: once if they are clicked within
    `window` positions of each other. Sessions of more than `max_session_items` distinct items are cut into chunks of that many, in
    order of first click (set and multiset; a window needs no bound).
    max_dt_s: only clicks at most so many seconds apart count, a session once for each two items, or each two clicks if multiset.
    """

    counting: Counting
    window: int
    max_session_items: int
    max_dt_s: int | None = None


@dataclass(frozen=True)
class Keeping:
    """Which pairs stay, and what they weigh: those that met min_count times; of each item the `top`; weight = count * (1 + beta * same)."""

    min_count: int
    top: int
    beta: float
    drop_other: bool


def resolve_rule(settings: Cooc, *, has_clock: bool, session_kind: str, max_dt_s: int | None = None) -> Rule:
    """The rule for this data; `auto` counts sets where sessions mean something: cut by a clock or given by the source."""
    auto: Counting = "set" if has_clock or session_kind == "given" else "window"
    counting = auto if settings.count == "auto" else settings.count
    return Rule(counting, settings.window, settings.max_session_items, max_dt_s)


def resolve_keeping(settings: Cooc, *, train_clicks: int) -> Keeping:
    """What stays; `auto` drops pairs that met once where there are many clicks."""
    auto = 2 if train_clicks >= AUTO_MIN_COUNT_CLICKS else 1
    min_count = auto if settings.min_count == "auto" else settings.min_count
    return Keeping(min_count, settings.top, settings.beta, settings.other_category == "drop")


# ---- the compiled engine -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Categories:
    """What is known of item i: values[starts[i]:starts[i + 1]], real ids only: unknown never equals unknown."""

    starts: I64
    values: I32


def categories_of(uris: Sequence[str], name: str | None, *, num_items: int) -> Categories:
    """One field of item_feat, an id or a list of ids; of no field, nothing is known."""
    if name is None:
        return Categories(np.zeros(num_items + 2, np.int64), np.empty(0, np.int32))
    idx, values = [], []
    for uri in uris:
        filesystem, path = open_root(uri)
        with filesystem.open_input_file(path) as handle:
            table = pq.ParquetFile(handle).read(columns=["idx", name], use_threads=False).combine_chunks()
        column, at = table[name].combine_chunks(), table["idx"].to_numpy()
        if pa.types.is_list(column.type):
            at, column = np.repeat(at, np.diff(column.offsets.to_numpy())), column.flatten()
        known = column.to_numpy() >= FIRST_ID
        idx.append(at[known])
        values.append(column.to_numpy()[known])
    item, value = np.concatenate(idx), np.concatenate(values)
    starts = np.concatenate(([0], np.cumsum(np.bincount(item, minlength=num_items + 1))))
    return Categories(starts, value[np.argsort(item, kind="stable")])


def count_pairs(found: Baskets, block: Block, rule: Rule, keeping: Keeping, categories: Categories) -> tuple[pa.RecordBatch, I64]:
    """(rows of cooc for the items of the block, the counts of the kernel)."""
    near = rule.counting == "window" or rule.max_dt_s is not None
    counting = (2 if near else 0) + (rule.counting == "multiset")
    window = rule.window if rule.counting == "window" else ANY
    max_dt_s = ANY if rule.max_dt_s is None else rule.max_dt_s
    *columns, counts = count_block(
        found.item, found.times, found.ends, found.ts, block.num_items, block.number, block.of,
        counting, window, max_dt_s,
        categories.starts, categories.values, keeping.beta, keeping.drop_other, keeping.min_count, keeping.top,
    )  # fmt: skip
    schema = arrow_schema(COOC)
    return pa.RecordBatch.from_arrays([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema), counts


def num_blocks(session_items: int, mean_items: float, *, cores: int) -> int:
    """A few for each core, or as many as bound what a task holds: the sessions that have an item of its block."""
    return max(1, min(BLOCKS_PER_CORE * cores, session_items // 100_000), int(session_items * mean_items / CLICKS_PER_BLOCK))


def compiled(context: Context, rule: Rule, keeping: Keeping, cuts: Cuts, category: str | None) -> Made:
    """The table, a task for each block of items; each reads the sessions from the shared storage, so nothing is shuffled."""
    counted, num_items = context.manifests["sessions"].counters, context.manifests["item_feat"].rows
    blocks = num_blocks(counted["session_items"], counted["mean_session_items"], cores=context.spark.sparkContext.defaultParallelism)
    sessions, events, features = context.files("sessions"), context.files("events"), context.files("item_feat")

    def build(number: int, counts: Counter[str]) -> Iterator[pa.RecordBatch]:
        block = Block(number, blocks, num_items)
        if rule.max_dt_s is not None:
            chunks_of = None if rule.counting == "window" else rule.max_session_items
            found = baskets.clicks_of_events(events, block, cuts, chunks_of=chunks_of)
        elif rule.counting == "window":
            found = baskets.clicks_of_sessions(sessions, block)
        else:
            found = baskets.of_sessions(sessions, block, max_items=rule.max_session_items)
        rows, kept = count_pairs(found, block, rule, keeping, categories_of(features, category, num_items=num_items))
        counts.update(dict(zip(COUNTERS, kept.tolist(), strict=True)))
        # Every block sees all sessions: what was lost between chunks is counted in one of them.
        counts.update(sessions_chunked=int(found.lost[0]) * (number == 0), pairs_lost_by_chunking=int(found.lost[1]) * (number == 0))
        yield from (rows.slice(at, ROWS_PER_GROUP) for at in range(0, rows.num_rows, ROWS_PER_GROUP))

    made = write_by_tasks(context, COOC, range(blocks), build)
    context.counters.update(made.counts)
    return made


COUNTERS = ("pairs", "meetings", "pairs_below_min_count", "pairs_of_other_category", "items_with_neighbours", "rows_beyond_top")

# ---- the same by plain Spark SQL -----------------------------------------------------------------------------------


def by_sql(context: Context, tables: Mapping[str, DataFrame], rule: Rule, keeping: Keeping, cuts: Cuts, category: str | None) -> Made:
    """The table by joins and groups, slower."""
    options: dict[str, Any] = {"counting": rule.counting, "window": rule.window, "max_session_items": rule.max_session_items}
    if rule.max_dt_s is None:
        pairs = sql.count_pairs(tables["sessions"], **options).persist()
    else:
        pairs = sql.count_close_pairs(tables["events"], cuts, **options, max_dt_s=rule.max_dt_s).persist()
    categories = tables["item_feat"].select("idx", F.col(category).alias("category")) if category else None
    frequent = pairs.where(F.col("count") >= keeping.min_count)
    weighed = sql.weigh(frequent, categories, beta=keeping.beta, filter_categories=keeping.drop_other)
    lost = sql.count_chunking(tables["sessions"], counting=rule.counting, max_session_items=rule.max_session_items)
    context.counters.update(lost | ({} if rule.max_dt_s is None else {"pairs_lost_by_chunking": 0}))
    context.counters.update(sql.count_kept(pairs, weighed, min_count=keeping.min_count, top=keeping.top))
    return sql.strongest(weighed, top=keeping.top)


# ---- the job -------------------------------------------------------------------------------------------------------


def category_field(settings: Cooc, registry: Registry) -> str | None:
    """The item field to compare.

    Raises:
        SettingsError: it is a text field, or not among the fields that item_feat holds.
    """
    name = settings.category_field
    known = [field.name for field in registry.item if field.name != "item_id"]
    if name is not None and name not in known:
        fault = Fault(f"{name!r} is not among the encoded item fields", f"these are: {', '.join(known) or 'none'}", "see model.fields.item")
        raise SettingsError("cooc.category_field", [fault])
    return name


def negatives_of(counted: Mapping[str, int]) -> str:
    """How items that met in no session are known: `exact` where all pairs can be held, else `stored`: those in no row of cooc.

    Source: MicRec 3.5, "all items that have not co-occurred with d_i in any session".
    """
    return "exact" if counted["pairs"] <= MAX_EXACT_PAIRS else "stored"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Made]:
    """The job: count, drop rare pairs, weigh, keep the strongest."""
    settings, facts, session = context.settings.cooc, context.facts, context.settings.session
    clock, counters = bool(facts["has_clock"]), context.counters
    rule = resolve_rule(settings, has_clock=clock, session_kind=str(facts["session_kind"]), max_dt_s=session.pair_max_dt_s)
    keeping = resolve_keeping(settings, train_clicks=context.manifests["sessions"].counters["session_items"])
    cuts = resolve_cuts(session, has_clock=clock, has_sessions=bool(facts["has_sessions"]))
    counters.update(counting=rule.counting, min_count=keeping.min_count)
    name = category_field(settings, context.registry)
    if settings.engine == "compiled":
        made = compiled(context, rule, keeping, cuts, name)
    else:
        made = by_sql(context, tables, rule, keeping, cuts, name)
    counters["negatives"] = negatives_of(counters)
    return {"cooc": made}


JOB = Job(name="cooccurrence", transform=transform, doc="Count how often two items met in a session.")

if __name__ == "__main__":
    sys.exit(main(JOB))
