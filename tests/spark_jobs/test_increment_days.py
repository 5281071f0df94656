"""Two days through the real jobs: what goes on from yesterday's counts equals a full recount by either engine, or says why it recounts."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

import spark_jobs.cooccurrence as cooccurrence
from conf.command import Log, Request
from conf.manifest import Manifest
from conf.storage import MAIN
from spark_jobs import events, sessions, vocabulary
from spark_jobs.job import run_job
from tests.spark_jobs.small_logs import DAY_S, START_S, Click, publish_log, random_log, settings_of

pytestmark = pytest.mark.slow  # two days of four jobs, and each way of counting on both

DAYS = ("2026-01-30", "2026-01-31")
OLD = [*random_log(71, users=20, items=12, clicks=240, days=6), Click("u00", "i00", START_S + 3 * DAY_S - 300)]
# The window moves on by a day and a half, so that sessions are cut at its boundary; new users and items come.
NEW = [
    replace(c, user=f"u{int(c.user[1:]) + 9:02}", item=f"i{int(c.item[1:]) + 4:02}", ts=c.ts + 6 * DAY_S)
    for c in random_log(72, clicks=60, days=1)
]
LOGS = dict(zip(DAYS, (OLD, [*(c for c in OLD if c.ts >= START_S + DAY_S + 3000), *NEW]), strict=True))
HOW = {"counted", "counted_because", "sessions_new", "sessions_gone", "pair_blocks"}  # what a recount says otherwise


@dataclass
class World:
    """Two days in a folder of its own; cooccurrence is run on them with these settings."""

    spark: object
    root: Path
    names: Iterator[str]

    def request(self, ds: str, **sections: object) -> Request:
        cooc = {"category_field": "category", "top": 4, "keep_pairs": True, "increment": True, **sections.pop("cooc", {})}
        shared = {"vocabulary": {"previous_ds": "latest"}, "session": {"kind": "gap"}, "split": {"kind": "last_k", "k": 1}, **sections}
        settings = settings_of(storage={"root": str(self.root)}, cooc=cooc, **shared)
        return Request("test", settings, (), ds, MAIN, next(self.names), force=True, break_lock=False, dry_run=False, log=Log())

    def run(self, module, ds: str, **sections: object) -> dict[str, Manifest]:
        asked = self.request(ds, **sections)
        record = run_job(module.JOB, self.spark, asked).record
        return {table: asked.store.load_manifest(table, record) for table in record.tables}

    def count(self, ds: str, **sections: object) -> dict[str, Manifest]:
        return self.run(cooccurrence, ds, **sections)

    def why(self, ds: str = DAYS[1], **sections: object) -> str:
        """Why all sessions of the day are counted; they are those that a recount counts."""
        made = self.count(ds, **sections)
        assert made["cooc"].counters["counted"] == "recount"
        assert not {"sessions_new", "sessions_gone"} & made["cooc"].counters.keys()
        return made["cooc"].counters["counted_because"]


def run_ids() -> Iterator[str]:
    return (f"run{n:03}" for n in count())


@pytest.fixture(scope="module")
def encoded(spark, tmp_path_factory) -> Path:
    """Both days up to their sessions, numbers kept."""
    world = World(spark, tmp_path_factory.mktemp("days"), run_ids())
    for ds, log in LOGS.items():
        publish_log(spark, world.request(ds), log)
        for module in (vocabulary, events, sessions):
            world.run(module, ds)
    return world.root


@pytest.fixture
def world(spark, encoded, tmp_path, monkeypatch) -> World:
    shutil.copytree(encoded, tmp_path / "root")
    monkeypatch.setattr(cooccurrence, "num_blocks", lambda *_args, **_sizes: 3)
    names = run_ids()
    return World(spark, tmp_path / "root", (f"own-{name}" for name in names))


def contents(made: dict[str, Manifest]) -> dict[str, object]:
    counters = {name: value for name, value in made["cooc"].counters.items() if name not in HOW}
    return {table: manifest.content_hash for table, manifest in made.items()} | {"counters": counters}


@pytest.mark.parametrize(
    "chosen",
    [
        {"cooc": {"count": "set", "max_session_items": 3}},
        {"cooc": {"count": "multiset", "min_count": 2, "other_category": "drop"}},
        {"cooc": {"count": "window", "window": 2}},
    ],
    ids=lambda chosen: chosen["cooc"]["count"],
)
def test_going_on_equals_counting_all(world, chosen):
    first = world.count(DAYS[0], **chosen)
    assert first["cooc"].counters["counted_because"].startswith("no earlier day has pairs")
    gone_on = world.count(DAYS[1], **chosen)
    counters = gone_on["cooc"].counters
    assert (counters["counted"], counters["counted_because"], counters["pair_blocks"]) == ("increment", f"since {DAYS[0]}", 3)
    num = world.request(DAYS[1]).store.manifest("sessions", DAYS[1], world.request(DAYS[1]).settings).rows
    assert 0 < counters["sessions_new"] < num
    assert 0 < counters["sessions_gone"] < num
    for engine in ("compiled", "sql"):
        recounted = world.count(DAYS[1], **{"cooc": {**chosen["cooc"], "increment": False, "engine": engine}})
        assert recounted["cooc"].counters["counted"] == "recount"
        assert contents(recounted) == contents(gone_on), engine
    assert contents(first)["cooc_pairs"] != contents(gone_on)["cooc_pairs"]
    assert gone_on["cooc_pairs"].inputs["cooc_pairs"] == first["cooc_pairs"].identity


def test_pairs_are_all_that_met_in_both_directions(world, spark):
    made = world.count(DAYS[0], cooc={"count": "set"})
    store = world.request(DAYS[0]).store
    rows = [tuple(row) for row in spark.read.parquet(*store.files_of(made["cooc_pairs"])).collect()]
    of_sessions = [
        set(row["items"])
        for row in spark.read.parquet(*store.files_of(store.manifest("sessions", DAYS[0], world.request(DAYS[0]).settings))).collect()
    ]
    met = {(i, j) for items in of_sessions for i in items for j in items if i != j}
    assert sorted(rows) == [(i, j, sum({i, j} <= items for items in of_sessions)) for i, j in sorted(met)]
    assert made["cooc"].counters["pairs"] * 2 == len(rows) > made["cooc"].rows
    for file in store.files_of(made["cooc_pairs"]):
        own = [tuple(row) for row in spark.read.parquet(file).collect()]
        assert own == sorted(own)
        assert len({item_i % 3 for item_i, _, _ in own}) == 1


def test_too_many_pairs_leave_the_table_empty_by_either_engine(world, monkeypatch):
    plenty = world.count(DAYS[0])["cooc"].counters["pairs"]
    monkeypatch.setattr(cooccurrence, "MAX_EXACT_PAIRS", plenty)
    assert world.count(DAYS[0])["cooc"].counters["negatives"] == "exact"
    monkeypatch.setattr(cooccurrence, "MAX_EXACT_PAIRS", plenty - 1)
    for engine in ("sql", "compiled"):
        made = world.count(DAYS[0], cooc={"engine": engine})
        assert made["cooc"].counters["negatives"] == "stored"
        assert (made["cooc_pairs"].rows, made["cooc"].counters["pairs"]) == (0, plenty)
    assert world.why() == f"{DAYS[0]} has too many pairs, and kept none"


def broken(world: World) -> None:
    asked = world.request(DAYS[0])
    shutil.rmtree(asked.store.folder_of(asked.store.manifest("sessions", DAYS[0], asked.settings)))


def numbered_again(world: World) -> None:
    """Yesterday's numbers are others now, though of one epoch with today's: its counts are by the old ones."""
    for ds in DAYS:
        world.run(vocabulary, ds)
    for module in (events, sessions):
        world.run(module, DAYS[1])


def in_two_files(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "num_files", lambda _: 2)
        world.run(events, DAYS[1])
    world.run(sessions, DAYS[1])


def nothing(_: World) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "happens", "today", "why"),
    [
        ({}, nothing, {"cooc": {"engine": "sql"}}, "cooc.engine: sql"),
        ({}, nothing, {"session": {"kind": "gap", "pair_max_dt_s": 600}}, "pairs within session.pair_max_dt_s"),
        ({"cooc": {"keep_pairs": False, "increment": False}}, nothing, {}, "no earlier day has pairs"),
        ({}, nothing, {"vocabulary": {"previous_ds": "2026-01-29"}}, "no earlier day has pairs"),
        ({}, nothing, {"cooc": {"max_session_items": 3}}, "2026-01-30 counted by other rules: max_session_items 3, was 50"),
        ({"cooc": {"engine": "sql"}}, nothing, {}, "the pairs of 2026-01-30 are not in blocks of items"),
        ({}, broken, {}, "the sessions of 2026-01-30 are gone: manifest.json is missing"),
        ({}, numbered_again, {}, "items are not numbered as on 2026-01-30"),
        ({}, in_two_files, {}, "sessions are in 2 files, on 2026-01-30 in 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_counted_anew(world, before, happens: Callable[[World], None], today, why):
    world.count(DAYS[0], **before)
    happens(world)
    assert world.why(**today).startswith(why)
