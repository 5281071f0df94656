"""The data funnel: how many rows each stage kept, and what it left out and why, from the counters in the manifests."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from conf.jobs import producer
from conf.last_days import last_days
from conf.storage import Manifest, Store


@dataclass(frozen=True)
class Step:
    """One bar.

    rows: a counter of the table's manifest, "" = the rows of the table. notes: counter -> what it counts, shown if not 0; a counter
    {reason: rows} makes one note a reason. bar: whether its number can be compared with clicks. under: the counter that holds them all.
    """

    label: str
    table: str
    rows: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    bar: bool = True
    under: str = ""

    def counters(self, manifest: Manifest) -> Mapping[str, Any]:
        """Those that rows and notes name."""
        return manifest.counters.get(self.under, {}) if self.under else manifest.counters


STEPS: Final = (
    Step("raw rows", "clicks", "raw_rows", notes={"rejected": "refused", "dropped": "left out"}),
    Step(
        "clicks",
        "clicks",
        notes={
            "duplicates": "duplicates left out",
            "inactive": "left out: users or items with too few clicks",
            "late_clicks": "of days before the window: they came late",
            "erased_rows": "of erased users, taken out later",
        },
    ),
    Step(
        "events",
        "events",
        notes={
            "clicks_beyond_max_user_clicks": "clicks left out: beyond the most recent that are kept of one user",
            "train_events": "for training",
            "valid_events": "held out to choose the model (valid)",
            "test_events": "held out to score the lists (test)",
            "context_events": "only the history of held-out users",
            "cut_in_tie_users": "users are cut between clicks of equal time",
        },
    ),
    Step(
        "sessions",
        "sessions",
        notes={
            "singleton_sessions": "hold a single click: nothing met in them",
            "sessions_cut_by_the_split": "would have gone on in held-out clicks",
        },
    ),
    Step(
        "co-occurring pairs",
        "cooc",
        "pairs",
        notes={
            "sessions_chunked": "long sessions were cut into chunks",
            "pairs_lost_by_chunking": "pairs lost between chunks",
            "pairs_below_min_count": "pairs left out: met too rarely",
            "rows_beyond_top": "neighbours left out: beyond the strongest of an item",
        },
        bar=False,
    ),
    Step(
        "items with semantic neighbours",
        "sem_nn",
        "items_with_neighbours",
        notes={"items_without_direction": "left out: nothing in their text or vector to compare by"},
        bar=False,
    ),
    Step("training samples", "samples", "train_samples", notes={"train_events_only_history": "train events serve as history only"}),
    Step("validation samples", "samples", "valid_samples"),
    Step("rows of an epoch", "model", "train_rows", notes={"dropped_rows_per_epoch": "left out of each epoch: too few for a whole batch"}),
    Step(
        "items to recommend",
        "index",
        "indexed",
        notes={
            "not_eligible": "left out: not eligible",
            "nothing_known": "left out: no field has a known value",
            "blocked": "left out: on the blocklist",
        },
        bar=False,
        under="index_items",
    ),
    Step(
        "users with candidates",
        "candidates",
        "users",
        notes={"fallback_users": "have no history: they are given what is popular"},
        bar=False,
        under="candidates",
    ),
)


# what a line of the days before shows: label -> (table, counter; "" = its rows); a counter by reason or table is summed or looked into
DAYS: Final[Mapping[str, tuple[str, str]]] = {
    "raw rows": ("clicks", "raw_rows"),
    "refused": ("clicks", "rejected"),
    "left out": ("clicks", "dropped"),
    "duplicates": ("clicks", "duplicates"),
    "clicks": ("clicks", ""),
    "training samples": ("samples", "train_samples"),
    "users served": ("candidates", "users"),
}


def funnel(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The steps whose table the day makes and whose number is known, each {label, rows, bar, notes: [{what, rows}]}."""
    found = []
    for step in STEPS:
        manifest = manifests.get(step.table)
        if manifest is None:
            continue
        counters = step.counters(manifest)
        rows = counters.get(step.rows) if step.rows else manifest.rows
        if rows is not None:
            found.append({"label": step.label, "rows": int(rows), "bar": step.bar, "notes": list(_notes(step, counters))})
    return found


def _notes(step: Step, counters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, what in step.notes.items():
        value = counters.get(name, 0)
        for text, rows in ((f"{what}: {reason}", rows) for reason, rows in value.items()) if isinstance(value, dict) else [(what, value)]:
            if rows:
                yield {"what": text, "rows": int(rows)}


def recent_days(store: Store, ds: str, manifests: Mapping[str, Manifest], *, num: int) -> list[dict[str, Any]]:
    """The day and up to `num` days before it of this variant, newest first, each {ds, rows: {label: number or None}}.

    A number is None where the day did not publish it, or what it published is damaged.
    """
    found: dict[str, dict[str, Manifest]] = {ds: dict(manifests)}
    for table in dict.fromkeys(table for table, _ in DAYS.values()):
        earlier, damaged = last_days(store, producer(table), table, ds, num)
        for day in damaged:
            found.setdefault(day, {})
        for manifest in earlier:
            found.setdefault(manifest.ds, {})[table] = manifest
    days = sorted(found, reverse=True)[: num + 1]
    return [{"ds": day, "rows": {label: _rows(found[day].get(table), name) for label, (table, name) in DAYS.items()}} for day in days]


def _rows(manifest: Manifest | None, counter: str) -> int | None:
    if manifest is None:
        return None
    if not counter:
        return manifest.rows
    own = manifest.counters.get(manifest.table)  # candidates counts under its own name; of ingest `clicks` is a number itself
    value = (own if isinstance(own, dict) else manifest.counters).get(counter)
    return sum(value.values()) if isinstance(value, dict) else value
