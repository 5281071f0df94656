"""sessions -> cooc: how often two items met, kept for the strongest pairs of each item.

Source: MicRec 3.5 ("any two items in a session have one co-occurrence relation") and 4.1 (pairs of one category count more).
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, SettingsError
from conf.fields import Registry
from conf.jobs import JOBS
from conf.sections.data import Cooc
from spark_jobs import baskets
from spark_jobs.baskets import Block
from spark_jobs.increment import Base, find_base
from spark_jobs.job import Context, Job, Made, main
from spark_jobs.pair_counts import COOC, COOC_PAIRS, Counting, Keeping, Rule, categories_of, count_pairs
from spark_jobs.session_cuts import Rule as Cuts
from spark_jobs.session_cuts import resolve_rule as resolve_cuts
from spark_jobs.sql import cooccurrence as sql
from spark_jobs.task_files import write_by_tasks, write_tables_by_tasks

MAX_EXACT_PAIRS = 200_000_000  # so many different pairs one process can hold, and draw negatives that met in no session at all
AUTO_MIN_COUNT_CLICKS = 10_000_000  # from here on most pairs that met once met by chance
BLOCKS_PER_CORE = 2  # each block reads all sessions again: few, but enough that no core waits long for the last
CLICKS_PER_BLOCK = 100_000_000  # bounds what one task holds: about 10 bytes a click of the sessions that have an item of its block
ROWS_PER_GROUP = 1_000_000


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


def num_blocks(session_items: int, mean_items: float, *, cores: int) -> int:
    """A few for each core, or as many as bound what a task holds: the sessions that have an item of its block."""
    return max(1, min(BLOCKS_PER_CORE * cores, session_items // 100_000), least_blocks(session_items, mean_items))


def least_blocks(session_items: int, mean_items: float) -> int:
    """So many bound what a task holds."""
    return int(session_items * mean_items / CLICKS_PER_BLOCK)


def compiled(context: Context, rule: Rule, keeping: Keeping, cuts: Cuts, category: str | None, base: Base | None) -> dict[str, Made]:
    """The tables, a task for each block of items; each reads the sessions from the shared storage, so nothing is shuffled.

    base: counts of an earlier day that those of today differ from by the sessions that came and went; None = all are counted.
    """
    counted, num_items = context.manifests["sessions"].counters, context.manifests["item_feat"].rows
    blocks = num_blocks(counted["session_items"], counted["mean_session_items"], cores=context.spark.sparkContext.defaultParallelism)
    blocks = base.blocks if base else blocks
    sessions, events, features = context.files("sessions"), context.files("events"), context.files("item_feat")
    all_pairs, most = context.settings.cooc.keep_pairs, MAX_EXACT_PAIRS

    def build(number: int, counts: Counter[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        block, since = Block(number, blocks, num_items), None
        if base is not None:
            found, since = base.changes(sessions, block, rule, counts)
        elif rule.max_dt_s is not None:
            chunks_of = None if rule.counting == "window" else rule.max_session_items
            found = baskets.clicks_of_events(events, block, cuts, chunks_of=chunks_of)
        elif rule.counting == "window":
            found = baskets.clicks_of_sessions(sessions, block)
        else:
            found = baskets.of_sessions(sessions, block, max_items=rule.max_session_items)
        lost = found.lost - since.gone.lost if since else found.lost
        # Every block sees all sessions: what was lost between chunks is counted in one of them.
        counts.update(sessions_chunked=int(lost[0]) * (number == 0), pairs_lost_by_chunking=int(lost[1]) * (number == 0))
        parts, num_pairs, categories = list[pa.RecordBatch](), 0, categories_of(features, category, num_items=num_items)
        for part in count_pairs(found, block, rule, keeping, categories, since=since, all_pairs=all_pairs):
            counts.update(part.counts)
            parts.append(part.rows)
            num_pairs += part.pairs.num_rows
            if part.pairs.num_rows and num_pairs <= 2 * most:  # a block of more can only be of a table that stays empty
                yield COOC_PAIRS.name, part.pairs
        rows = pa.Table.from_batches(parts).combine_chunks()
        yield from ((COOC.name, batch) for batch in rows.to_batches(max_chunksize=ROWS_PER_GROUP))

    made = write_tables_by_tasks(context, (COOC, COOC_PAIRS) if all_pairs else (COOC,), range(blocks), build)
    counts = Counter(made[COOC.name].counts)
    counts.update(base.lost if base else {})
    context.counters.update(counts)
    if all_pairs:
        context.counters["pair_blocks"] = blocks
    if all_pairs and negatives_of(counts) == "stored":
        made[COOC_PAIRS.name] = write_by_tasks(context, COOC_PAIRS, [0], lambda _number, _counts: iter(()))
    return dict(made)


# ---- the same by plain Spark SQL -----------------------------------------------------------------------------------


def by_sql(
    context: Context, tables: Mapping[str, DataFrame], rule: Rule, keeping: Keeping, cuts: Cuts, category: str | None
) -> dict[str, Made]:
    """The tables by joins and groups, slower."""
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
    made: dict[str, Made] = {COOC.name: sql.strongest(weighed, top=keeping.top)}
    if context.settings.cooc.keep_pairs:
        exact = negatives_of(context.counters) == "exact"
        made[COOC_PAIRS.name] = sql.both_ways(pairs if exact else pairs.limit(0))
    return made


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

    Where `cooc.keep_pairs` is set, table cooc_pairs holds all of them, or none.

    Source: MicRec 3.5, "all items that have not co-occurred with d_i in any session".
    """
    return "exact" if counted["pairs"] <= MAX_EXACT_PAIRS else "stored"


def transform(context: Context, tables: Mapping[str, DataFrame]) -> dict[str, Made]:
    """The job: count, all sessions or those that changed, drop rare pairs, weigh, keep the strongest."""
    settings, facts, session = context.settings.cooc, context.facts, context.settings.session
    clock, counters = bool(facts["has_clock"]), context.counters
    rule = resolve_rule(settings, has_clock=clock, session_kind=str(facts["session_kind"]), max_dt_s=session.pair_max_dt_s)
    counted = context.manifests["sessions"].counters
    keeping = resolve_keeping(settings, train_clicks=counted["session_items"])
    cuts = resolve_cuts(session, has_clock=clock, has_sessions=bool(facts["has_sessions"]))
    base = find_base(context, rule, least_blocks=least_blocks(counted["session_items"], counted["mean_session_items"]))
    counters.update(
        counting=rule.counting, min_count=keeping.min_count, counted_by=asdict(rule) | {"code": JOBS["cooccurrence"].code},
        counted="recount" if isinstance(base, str) else "increment", counted_because=base if isinstance(base, str) else f"since {base.day}",
    )  # fmt: skip
    name = category_field(settings, context.registry)
    if settings.engine == "compiled":
        made = compiled(context, rule, keeping, cuts, name, None if isinstance(base, str) else base)
    else:
        made = by_sql(context, tables, rule, keeping, cuts, name)
    counters["negatives"] = negatives_of(counters)
    return made


JOB = Job(name="cooccurrence", transform=transform, doc="Count how often two items met in a session.")

if __name__ == "__main__":
    sys.exit(main(JOB))
