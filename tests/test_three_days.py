"""Three days of real grocery baskets: with warm start each goes on from the one before, a bad one is refused, a rollback is a rollback;
without it they are the same tables in whatever order they are made.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.jobs import JOBS
from conf.settings import Settings, load
from conf.storage import Store

DAYS = ("2017-12-28", "2017-12-29", "2017-12-30")
WARM = ("vocabulary.previous_ds=latest", "trainer.warm_start=true")
SMALL = (
    "split.kind=production", "source.catalogue=clicked", "source.train_days=60",
    "model.dim=16", "model.hidden=[32]", "trainer.epochs=1", "trainer.launcher=single", "trainer.workers=1", "trainer.valid_users=200",
    "channels.top=50", "merge.top=50", "evaluation.baselines=[]", "publish.delta=true", "gates.drift.min_days=2",
)  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """The log's settings file, the root of its tables, and how days follow each other."""

    config: Path
    root: Path
    days: tuple[str, ...] = WARM

    @property
    def settings(self) -> Settings:
        return load(str(self.config), self.sets)

    @property
    def sets(self) -> list[str]:
        return [f"storage.root={self.root}", *self.days, *SMALL]

    @property
    def store(self) -> Store:
        return Store.of(self.settings)

    def trichannel(self, *words: str) -> subprocess.CompletedProcess[str]:
        sets = [word for setting in self.sets for word in ("--set", setting)]
        command = [sys.executable, "-m", "spark_jobs.cli", words[0], "--config", str(self.config), *sets, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)

    def well(self, *words: str) -> str:
        """stdout of a command that must end well."""
        done = self.trichannel(*words)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def rows(self, table: str, ds: str) -> list[dict[str, object]]:
        files = self.store.files_of(self.store.manifest(table, ds, self.settings))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def shop(shared_data: Path, tmp_path: Path) -> Shop:
    made = Shop(tmp_path / "journey.yaml", tmp_path / "root")
    command = [sys.executable, "-m", "spark_jobs.cli", "init", "--from", str(shared_data / "completejourney"), "--out", str(made.config)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def thinned(shop: Shop, folder: Path) -> str:
    """The log with one click of four: what a broken export looks like."""
    source = Path(shop.settings.source.path)
    head, *clicks = source.read_text().splitlines(keepends=True)
    (folder / source.name).write_text("".join([head, *clicks[::4]]))
    return f"source.path={folder / source.name}"


@pytest.mark.slow
def test_three_days_with_warm_start_a_refused_one_and_a_rollback(shop: Shop, tmp_path: Path) -> None:
    store, (first, second, third) = shop.store, DAYS
    lines = shop.well("backfill", "--start", first, "--end", second, "--max-parallel", "2", "--run-id", "b").splitlines()
    assert [line.split()[2] for line in lines] == [f"ds={first}", f"ds={second}"]

    bad = shop.trichannel("run", "--ds", third, "--run-id", "bad", "--set", thinned(shop, tmp_path))
    assert bad.returncode == 4, bad.stderr[-3000:]
    assert "unlike the last days" in bad.stderr
    assert "clicks per user: " in bad.stderr
    assert store.read_status("bad")["exit_code"] == 4
    assert (store.days("candidates"), store.days("ingest")) == ([first, second], [first, second])  # the day before stays current
    assert shop.well("path", "candidates", "--ds", second).strip() == store.folder_of(store.manifest("candidates", second, shop.settings))

    line = shop.well("run", "--ds", third, "--run-id", "good").splitlines()[-1]
    assert f"published candidates ds={third}" in line
    assert f"recall@50_of_{second}=0." in line
    for before, ds in pairwise(DAYS):
        goes_on(shop, before, ds)
        scored_and_loaded(shop, before, ds)

    again = shop.well("candidates", "--ds", third, "--run-id", "again", "--force")
    assert "published candidates" in again
    served = shop.rows("candidates", third)
    assert {row["run_id"] for row in served} == {"again"}
    assert "run=good" in shop.well("rollback", "candidates", "--ds", third, "--to", "good")
    back = shop.rows("candidates", third)
    assert {row["run_id"] for row in back} == {"good"}
    assert lists(back) == lists(served)


@pytest.mark.slow
def test_without_warm_start_any_order_of_days_gives_the_same_tables(shop: Shop, tmp_path: Path) -> None:
    forth, back = (replace(shop, root=tmp_path / name, days=()) for name in ("forth", "back"))
    forth.well("backfill", "--start", DAYS[0], "--end", DAYS[-1], "--run-id", "forth", "--until", "candidates")
    for ds in reversed(DAYS):
        back.well("run", "--ds", ds, "--run-id", f"back.{ds}", "--until", "candidates")
    for ds in DAYS:
        assert contents(forth, ds) == contents(back, ds)
    assert {"item_index", "cooc", "samples", "model", "index", "candidates"} <= set(contents(back, DAYS[0]))
    assert len({contents(back, ds)["candidates"] for ds in DAYS}) == len(DAYS)


def contents(shop: Shop, ds: str) -> dict[str, str]:
    """Content hash of each table of the day."""
    records = [record for job in JOBS if (record := shop.store.current(job, ds)) is not None]
    return {name: shop.store.manifest(name, ds, shop.settings).content_hash for record in records for name in record.tables}


def lists(rows: list[dict[str, object]]) -> set[tuple[object, ...]]:
    return {(row["user_key"], row["rank"], row["item_key"]) for row in rows}


def goes_on(shop: Shop, before: str, ds: str) -> None:
    """Numbers of the day before stay what they were, and the model began with its weights."""
    old, new = ({row["key"]: row["idx"] for row in shop.rows("item_index", day)} for day in (before, ds))
    assert old.items() <= new.items()
    model = shop.store.manifest("model", ds, shop.settings)
    assert model.inputs["model"].startswith(f"main/{before}/")


def scored_and_loaded(shop: Shop, before: str, ds: str) -> None:
    """The lists of the day before were scored on the clicks since; applied to them, the delta gives those of the day."""
    scored = {row["candidates_ds"] for row in shop.rows("metrics_yesterday", ds)}
    assert scored == {before}
    report = Path(shop.store.folder_of(shop.store.manifest("report", ds, shop.settings))) / "report.json"
    assert json.loads(report.read_text())["yesterday"]["candidates_ds"] == before
    served = by_user(shop.rows("candidates", before))
    for row in shop.rows("candidates_delta", ds):
        served[row["user_key"]] = row["item_keys"]
    assert {user: items for user, items in served.items() if items} == by_user(shop.rows("candidates", ds))


def by_user(rows: list[dict[str, object]]) -> dict[object, list[object]]:
    found: dict[object, list[object]] = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        found.setdefault(row["user_key"], []).append(row["item_key"])
    return found
