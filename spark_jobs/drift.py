"""Input drift: a day whose log is unlike that of the last days is refused before it is published, not found in the lists a week later.

Three measures: clicks per user, the share of clicked items that the day before did not know, and for each field the share of users or
items without a value. Each is compared with its own range over the last committed days of `ingest` in this variant that were made by
the same settings of the source (its paths aside). The measures of every day stand in its manifest, for the days to come.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.errors import Fault, GateError
from conf.fields import Field
from conf.last_days import last_days
from conf.manifest import Manifest
from conf.sections.evaluation import Drift
from conf.sections.source import Source
from spark_jobs.job import Context

Measures = Mapping[str, float]  # "clicks_per_user", "new_items", "nulls.<users|items>.<field>"


def check_drift(context: Context, clicked_items: DataFrame, users: DataFrame, items: DataFrame) -> None:
    """Measure the day, compare it with the last days, and put both into counters["drift"].

    What takes a pass of Spark (new items, nulls) is measured from the second day on, when there is something to compare with.

    Raises:
        GateError: a measure lies outside its limit; every such measure with its range and the setting to change.
    """
    limits = context.settings.gates.drift
    if limits.days == 0:
        return
    shape = settings_of(context.settings.source)
    manifests, damaged = last_days(context.store, "ingest", "clicks", context.ds, limits.days)
    comparable = [manifest for manifest in manifests if manifest.counters.get("drift", {}).get("settings") == shape]
    counters = context.counters
    measures = {"clicks_per_user": round(counters["clicks"] / counters["users_with_clicks"], 6)}
    if comparable:
        measures["new_items"] = new_items(context, clicked_items, comparable[0]) / counters["items_with_clicks"]
        measures |= null_shares(users, "users", context.registry.source_fields("user"))
        measures |= null_shares(items, "items", context.registry.source_fields("item"))
    earlier = {manifest.ds: manifest.counters["drift"]["measures"] for manifest in reversed(comparable)}
    none = undecided(measures, earlier, limits)
    counters["drift"] = {
        "measures": measures,
        "compared_days": list(earlier),
        "damaged_days": damaged,
        "no_verdict": {name: f"{days} of at least {limits.min_days} earlier days" for name, days in none.items()},
        "settings": shape,
    }
    faults = list(strayed(measures, earlier, limits))
    if faults:
        raise GateError(f"source {context.settings.source.kind}, ds={context.ds}: unlike the last days", faults)


def settings_of(source: Source) -> str:
    """16 hex digits over the settings that shape the measures: which files are read, and by default up to which day, do not."""
    shaping = source.model_dump(mode="json", exclude={"path", "attributes", "default_ds", "erasure"})
    for side in ("users", "items"):
        del shaping[side]["path"]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


# ---- measures --------------------------------------------------------------------------------------------------------


def new_items(context: Context, clicked_items: DataFrame, before: Manifest) -> int:
    """Clicked items that the table `items` of the earlier day lacks."""
    record = context.store.current("ingest", before.ds)
    assert record is not None
    known = context.spark.read.parquet(*context.store.files_of(context.store.load_manifest("items", record)))
    return clicked_items.join(known.select("item_key"), "item_key", how="left_anti").count()


def null_shares(table: DataFrame, name: str, fields: tuple[Field, ...]) -> dict[str, float]:
    """nulls.<name>.<field> -> share of rows without a value; an empty list is none."""
    if not fields:
        return {}
    row = table.agg(F.count("*").alias("rows"), *[F.count(F.when(_is_known(field), 1)).alias(field.name) for field in fields]).first()
    assert row is not None
    return {f"nulls.{name}.{field.name}": round(1 - row[field.name] / row["rows"], 6) if row["rows"] else 0.0 for field in fields}


def _is_known(field: Field) -> Column:
    return F.size(field.name) > 0 if field.role == "multi" else F.col(field.name).isNotNull()


# ---- verdict ---------------------------------------------------------------------------------------------------------


def limit_of(name: str, limits: Drift) -> tuple[str, float | None]:
    """The setting that a measure answers to, and its value."""
    key = name.split(".")[0]
    return f"gates.drift.{key}", getattr(limits, key)


def undecided(measures: Measures, earlier: Mapping[str, Measures], limits: Drift) -> dict[str, int]:
    """Measures with a limit that too few earlier days have -> how many days have them."""
    days = {name: sum(name in day for day in earlier.values()) for name in measures}
    return {name: num for name, num in days.items() if num < limits.min_days and limit_of(name, limits)[1] is not None}


def strayed(measures: Measures, earlier: Mapping[str, Measures], limits: Drift) -> Iterator[Fault]:
    """One fault for each measure outside the range of the last days, widened by its limit.

    clicks_per_user may stray in both directions, by a share of the range's ends. The shares of new items and nulls may rise, by so much.
    """
    none = undecided(measures, earlier, limits)
    for name, value in measures.items():
        setting, limit = limit_of(name, limits)
        if limit is None or name in none:
            continue
        values = [day[name] for day in earlier.values() if name in day]
        low, high = min(values), max(values)
        relative = name == "clicks_per_user"
        if (value > high * (1 + limit) or value < low * (1 - limit)) if relative else value > high + limit:
            days = f"{len(values)} days from {min(earlier)} to {max(earlier)}: {_shown(name, low)} to {_shown(name, high)}"
            fix = f"mend the data; if it is right: --set {setting}=null (it is {limit:g})"
            yield Fault(f"{_words(name)}: {_shown(name, value)}", days, fix)


def _words(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind == "nulls":
        side, _, field = rest.partition(".")
        return f"{side} without {field}"
    return {"clicks_per_user": "clicks per user", "new_items": "clicked items that the day before did not know"}[kind]


def _shown(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "clicks_per_user" else f"{value:.1%}"
