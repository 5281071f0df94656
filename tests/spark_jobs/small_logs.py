"""Small click logs, and slow, obvious twins of what the data jobs promise about them."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession

from conf.sections.data import Split
from conf.settings import Settings
from conf.tables import TABLES, resolve
from spark_jobs.job import Job, RunResult, run_job, spark_schema

DAY_S = 86_400
START_S = 1_767_225_600  # 2026-01-01 UTC


@dataclass(frozen=True)
class Click:
    user: str
    item: str
    ts: int
    seq: int = 0
    kind: str = "click"
    weight: float = 1.0
    session: str | None = None
    split: int | None = None

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.ts, UTC).date().isoformat()

    @property
    def place(self) -> tuple[int, int, str, str]:
        return self.ts, self.seq, self.item, self.kind


def random_log(seed: int, *, users: int = 12, items: int = 15, clicks: int = 160, days: int = 6) -> list[Click]:
    """Uneven activity and popularity; times and seq tie often, down to clicks that differ in nothing but the item."""
    draw = random.Random(seed)
    return list(
        {
            click.user + str(click.place): click
            for click in (
                Click(
                    user=f"u{int(users * draw.random() ** 2):02}",
                    item=f"i{int(items * draw.random() ** 2):02}",
                    ts=START_S + draw.randrange(days) * DAY_S + draw.choice([0, 600, 3600, 4000, 9000, 20_000]),
                    seq=draw.randrange(3),
                    kind=draw.choice(["click", "click", "buy"]),
                    session=draw.choice([None, "s1", "s2", "s3"]),
                )
                for _ in range(clicks)
            )
        }.values()
    )


def clicks_df(spark: SparkSession, log: Iterable[Click]) -> DataFrame:
    rows = [(c.user, c.item, c.ts, c.seq, c.kind, c.weight, c.session, c.day) for c in log]
    return spark.createDataFrame(rows, spark_schema(TABLES["clicks"]))


def histories(log: Iterable[Click]) -> dict[str, list[Click]]:
    """Each user's clicks in total order."""
    found = defaultdict(list)
    for click in log:
        found[click.user].append(click)
    return {user: sorted(clicks, key=lambda c: c.place) for user, clicks in found.items()}


def slow_split(log: list[Click], split: Split, user_hash: Callable[[str], int] | None = None) -> list[Click]:
    """The log in order, with splits: user by user, click by click."""
    users, found = histories(log), []
    days = sorted({c.day for c in log})
    last = datetime.fromisoformat(days[-1]).toordinal()
    grown = sorted((u for u, clicks in users.items() if len(clicks) >= 5), key=lambda u: (user_hash(u), u)) if user_hash else []
    for user, clicks in users.items():
        n = len(clicks)
        for position, click in enumerate(clicks):
            code = 0
            if split.kind == "last_k" and n >= 2 * split.k + 1:
                code = 2 if position >= n - split.k else 1 if position >= n - 2 * split.k else 0
            if split.kind == "temporal":
                age = last - datetime.fromisoformat(click.day).toordinal()
                code = 2 if age < split.test_days else 1 if age == split.test_days else 0
            if split.kind == "production" and split.refit:
                code = int(click.day == days[-1])
            if split.kind == "user":
                if n < 5:
                    code = 3
                elif grown.index(user) >= len(grown) * 8 // 10:
                    late = 2 if grown.index(user) >= len(grown) * 9 // 10 else 1
                    code = late if position >= n * 8 // 10 else 3
            found.append(replace(click, split=code))
    return found


@contextmanager
def shuffle_partitions(spark: SparkSession, num: int) -> Iterator[None]:
    """Another number of shuffle partitions, not merged again by adaptive execution."""
    changed = {"spark.sql.shuffle.partitions": str(num), "spark.sql.adaptive.coalescePartitions.enabled": "false"}
    before = {name: spark.conf.get(name) for name in changed}
    for name, value in changed.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


def settings_of(**sections: Mapping[str, object]) -> Settings:
    """Settings of a log with two user fields and two item fields."""
    fields = {"user": {"city": "single", "hobbies": "multi"}, "item": {"category": "single", "tags": "multi"}}
    source = {"kind": "generic", "path": "unused", "fields": fields, "user_id_min_count": 2, **sections.pop("source", {})}
    return Settings.model_validate({"source": source, "model": {"history": 5}, **sections})


def entities(log: list[Click]) -> tuple[list[tuple], list[tuple]]:
    """Rows of `users` (key, city, hobbies) and `items` (key, publish_ts, eligible, category, tags), one unclicked of each."""
    users = sorted({c.user for c in log} | {"u-silent"})
    items = sorted({c.item for c in log} | {"i-cold"})
    cities, hobbies = ["Ulm", "Oslo", None], [[], ["chess"], ["chess", "tea", "chess"]]
    categories, tags = ["a", "b", "b", None], [["x", "y"], ["y"], [], ["z", "y"]]
    return (
        [(user, cities[n % 3], hobbies[n % 3]) for n, user in enumerate(users)],
        [(item, None, n % 5 > 0, categories[n % 4], tags[n % 4]) for n, item in enumerate(items)],
    )


def publish_log(
    spark: SparkSession, asked, log: list[Click], *, has_clock: bool = True, publish_ts: Mapping[str, int] | None = None
) -> RunResult:
    """What ingest would publish for this log. publish_ts: of items, by key."""

    def transform(context, _):
        context.facts.update(has_clock=has_clock, user_key_type="string", item_key_type="string")
        shape = context.settings.shape()
        schema = {name: spark_schema(resolve(name, context.registry, shape)) for name in ("users", "items", "rejects")}
        users, items = entities(log)
        items = [(key, (publish_ts or {}).get(key), *rest) for key, _, *rest in items]
        return {
            "clicks": clicks_df(spark, log),
            "users": spark.createDataFrame(users, schema["users"]),
            "items": spark.createDataFrame(items, schema["items"]),
            "rejects": spark.createDataFrame([], schema["rejects"]),
        }

    return run_job(Job("ingest", transform), spark, asked)
