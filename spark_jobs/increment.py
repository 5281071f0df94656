"""Counts that go on from those of an earlier day: which ones fit, and what of the sessions came and went since.

counts of today = those of the earlier day - those of the sessions that are gone + those of the sessions that are new. It is exact for
every way of counting that looks at one session at a time, whatever moved the window.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.jobs import JOBS
from conf.manifest import Manifest, Record
from conf.storage import Store
from spark_jobs.baskets import Baskets, Block, changes_of_sessions
from spark_jobs.context import Context
from spark_jobs.kernels.cooccurrence import Known
from spark_jobs.pair_counts import COOC_PAIRS, Rule, Since, known
from spark_jobs.task_files import arrow_schema, piece_of

LOST = ("sessions_chunked", "pairs_lost_by_chunking")


@dataclass(frozen=True)
class Base:
    """What was counted for an earlier day. pairs: of each block of items its file, where it has pairs; sessions: what they were counted in.

    lost: what was counted of all sessions.
    """

    day: str
    blocks: int
    pairs: Mapping[int, str]
    sessions: tuple[str, ...]
    lost: Mapping[str, int]

    def changes(self, sessions: Sequence[str], block: Block, rule: Rule, counts: Counter[str]) -> tuple[Baskets, Since]:
        """(new sessions that have an item of the block, its counts so far with those that are gone); counts both, in block 0."""
        max_items = None if rule.counting == "window" else rule.max_session_items
        found = changes_of_sessions(sessions, self.sessions, block, max_items=max_items)
        counts.update(sessions_new=found.num_new * (block.number == 0), sessions_gone=found.num_gone * (block.number == 0))
        return found.new, Since(known_of(self.pairs.get(block.number), block), found.gone, self.day)


def known_of(uri: str | None, block: Block) -> Known:
    """The counts in one file of cooc_pairs, or none; errors as `known_in`."""
    if uri is None:
        return known_in(arrow_schema(COOC_PAIRS).empty_table(), block)
    filesystem, path = open_root(uri)
    with filesystem.open_input_file(path) as handle:
        return known_in(pq.ParquetFile(handle).read(use_threads=False).combine_chunks(), block)


def known_in(pairs: pa.Table, block: Block) -> Known:
    """The counts by the items of the block.

    Raises:
        BadDataError: there are other rows than those of the block, sorted.
    """
    item_i, item_j, count = (pairs[name].to_numpy() for name in ("item_i", "item_j", "count"))
    both = np.concatenate([item_i[:1], item_i[-1:], item_j])
    # A compiled kernel does not look where it writes.
    fits = (item_i % block.of == block.number).all() and (np.diff(item_i) >= 0).all() and (count > 0).all()
    if not fits or (len(both) and not 0 < both.min() <= both.max() <= block.num_items):
        fix = "made by other means: run it again with --force, or this day with --set cooc.increment=false"
        fault = Fault(f"a file does not hold the pairs of block {block.number} of {block.of}, sorted", fix=fix)
        raise BadDataError("table cooc_pairs", [fault])
    num = block.num_items // block.of + 1
    return known(np.searchsorted(item_i // block.of, np.arange(num + 1)).astype(np.int64), item_j, count)


# ---- which counts fit ----------------------------------------------------------------------------------------------


def find_base(context: Context, rule: Rule, *, least_blocks: int) -> Base | str:
    """The counts that those of today can go on from, or why all sessions are counted anew. least_blocks: so many bound the memory."""
    settings, earlier = context.settings.cooc, context.previous.get("cooc_pairs")
    if not settings.increment:
        return "cooc.increment is off"
    if settings.engine == "sql":
        return "cooc.engine: sql counts all sessions"
    if rule.max_dt_s is not None:
        return "pairs within session.pair_max_dt_s are counted from events, and only sessions are compared"
    if earlier is None:
        return "no earlier day has pairs to go on from, or vocabulary.rebuild_every_days is due"
    return _unfit(context, rule, earlier, least_blocks) or _base(context, earlier)


def _unfit(context: Context, rule: Rule, earlier: Manifest, least_blocks: int) -> str | None:
    """Why these counts do not fit, from what their manifest says."""
    day, counted = earlier.ds, earlier.counters
    by = asdict(rule) | {"code": JOBS["cooccurrence"].code}
    differs = [
        f"{name} {value}, was {counted['counted_by'].get(name)}" for name, value in by.items() if value != counted["counted_by"].get(name)
    ]
    if differs:
        return f"{day} counted by other rules: {', '.join(differs)}"
    if counted["negatives"] != "exact":
        return f"{day} has too many pairs, and kept none"
    if "pair_blocks" not in counted:
        return f"the pairs of {day} are not in blocks of items: cooc.engine was sql"
    if counted["pair_blocks"] < least_blocks:
        return f"{day} has {counted['pair_blocks']} blocks of items, and {least_blocks} are needed to bound the memory"
    if not _descends(context, earlier):
        return f"items are not numbered as on {day}"
    return None


def _base(context: Context, earlier: Manifest) -> Base | str:
    store, day = context.store, earlier.ds
    try:
        sessions = store.files_of(_named(store, "sessions", earlier.inputs["sessions"]))
    except BadDataError as error:
        return f"the sessions of {day} are gone: {error.faults[0]}"
    if len(sessions) != len(context.files("sessions")):
        return f"sessions are in {len(context.files('sessions'))} files, on {day} in {len(sessions)}, so that users are not side by side"
    files = zip(earlier.files, store.files_of(earlier), strict=True)
    pairs = {piece_of(entry.name): uri for entry, uri in files if entry.rows}
    return Base(day, earlier.counters["pair_blocks"], pairs, tuple(sessions), {name: earlier.counters[name] for name in LOST})


def _descends(context: Context, earlier: Manifest) -> bool:
    """Whether today's item numbers go on from just those: an earlier day may have been numbered again since."""
    of_earlier, of_today = _run(earlier.inputs["item_feat"]), context.manifests["item_feat"]
    while f"{of_today.variant}/{of_today.ds}/{of_today.run_id}" != of_earlier:
        before = of_today.inputs.get("item_index")  # the vocabulary that it went on from
        if before is None or before.split("/")[1] < of_earlier.split("/")[1]:
            return False
        try:
            of_today = _named(context.store, "item_index", before)
        except BadDataError:
            return False  # the vocabulary between the two is gone, and with it what tells
    return True


def _run(identity: str) -> str:
    return identity.split(" ")[0]


def _named(store: Store, table: str, identity: str) -> Manifest:
    """The manifest of the run that another one names as its input. Raises BadDataError: it is gone, or damaged."""
    variant, ds, run_id = _run(identity).split("/")
    return store.load_manifest(table, Record("", variant, ds, run_id, "", {table: identity.split(" ")[1]}, {}, ""))
