"""Lists unlike those of the last days are refused before they are published: the day before stays current.

Seven measures, each compared with its own range over the last committed days of `candidates` in this variant that were made by equal
settings of channels and merge. The measures of every day stand in its manifest, for the days to come.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from conf.errors import Fault, GateError
from conf.last_days import last_days
from conf.sections.evaluation import Lists
from retrieval.candidate_rows import Tally
from spark_jobs.job import Context

Measures = Mapping[str, float]

COUNTER: Final = "gate"
_WORDS: Final = {
    "users": "users",
    "items_per_user": "items a user",
    "coverage": "share of the recommendable items that stand in any list",
    "fallback": "share of users without history",
    "channels_per_user": "channels with a list, a user",
    "index_recall": "recall of the index against exact search",
    "valid_recall": "recall of the model on valid clicks",
}


def check_lists(context: Context, tally: Tally) -> None:
    """Measure the lists, compare them with those of the last days, and put both into counters["gate"].

    Raises:
        GateError: a measure lies outside its limit; every such measure with its range and the setting to change.
    """
    limits = context.settings.gates.lists
    if limits.days == 0:
        return
    shape = context.settings.section_hash(("channels", "merge"))
    manifests, damaged = last_days(context.store, "candidates", "candidates", context.ds, limits.days)
    earlier = {
        manifest.ds: manifest.counters[COUNTER]["measures"]
        for manifest in reversed(manifests)
        if manifest.counters.get(COUNTER, {}).get("settings") == shape
    }
    index = context.manifests["index"].counters
    measures = measure(tally, indexed=index["index_items"]["indexed"])
    measures["index_recall"] = min(one["recall"] for one in index["index"].values())
    if context.facts.get("valid_recall") is not None:
        measures["valid_recall"] = context.facts["valid_recall"]
    found = {"measures": measures, "compared_days": list(earlier), "damaged_days": damaged, "settings": shape}
    context.counters[COUNTER] = found
    faults = list(strayed(measures, earlier, limits))
    if faults:
        raise GateError(f"candidates, ds={context.ds}: unlike those of the last days", faults)


def measure(tally: Tally, *, indexed: int) -> dict[str, float]:
    """users, items_per_user, channels_per_user, fallback and coverage (of `indexed` items), to six digits."""
    sums = {"items_per_user": tally.items, "channels_per_user": tally.lists, "fallback": tally.fallback}
    means = {name: round(value / tally.users, 6) for name, value in sums.items()}
    return {"users": float(tally.users), **means, "coverage": round(tally.num_listed / indexed, 6)}


def strayed(measures: Measures, earlier: Mapping[str, Measures], limits: Lists) -> Iterator[Fault]:
    """One fault for each measure outside the range of the last days, widened by its limit; none where too few days have it.

    fallback may rise by so much above the most of those days; every other measure may fall by such a share below the least.
    """
    for name, value in measures.items():
        limit: float | None = getattr(limits, name)
        values = [day[name] for day in earlier.values() if name in day]
        if limit is None or len(values) < limits.min_days:
            continue
        low, high = min(values), max(values)
        if value > high + limit if name == "fallback" else value < low * (1 - limit):
            days = f"{len(values)} days from {min(earlier)} to {max(earlier)}: {low:g} to {high:g}"
            fix = f"look at channels and model of the day; if it is right: --set gates.lists.{name}=null (it is {limit:g})"
            yield Fault(f"{_WORDS[name]}: {value:g}", days, fix)
