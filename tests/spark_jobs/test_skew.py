"""A skewed and dirty log: what each task reads and writes stays bounded, and what was left out is counted and shown.

One user has half of all clicks, twenty bots have a third; one item is in every session of people, one session holds 1,500 items; 600
clicks have one time; every fourth row is there twice; some times are milliseconds, some of the year 2100; one day is empty. The sizes
are a fiftieth to a thousandth of what a large log would have, and so are the limits.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from conf.settings import Settings, load
from conf.storage import Manifest, Store
from spark_jobs.funnel import STEPS, funnel
from spark_jobs.sources import raw as milliseconds
from tests.cluster.data_jobs import EVENTS_PER_FILE
from tests.event_log import Task, settings_of_log, tasks

pytestmark = pytest.mark.slow

DS, START_S, DAY_S = "2026-01-31", 1_769_299_200, 86_400  # 2026-01-25T00:00:00Z
YEAR_2100, EMPTY_DAY = 4_105_900_800, "2026-01-28"
MAX_USER_CLICKS, MAX_SESSION_ITEMS, TOP, PARTITIONS = 400, 10, 30, 8
HEAVY, BOTS, BOT_CLICKS, LONG_SESSION = 60_000, 20, 2_000, 1_500
REPOSITORY = Path(__file__).resolve().parents[2]


MILLISECONDS, FUTURE, TWICE = 300, 100, 40_000


def clicks_of_log() -> list[tuple[str, str, int]]:
    """The good ones, none of them twice; those of people in visits that begin at the home page. Nobody clicks on the fourth day."""
    draw = random.Random(5)
    rows = [("heavy", f"i{draw.randrange(3000)}", START_S + 4 * n) for n in range(HEAVY)]
    rows += [(f"bot{bot}", f"i{draw.randrange(3000)}", START_S + 120 * n + bot) for bot in range(BOTS) for n in range(BOT_CLICKS)]
    rows += [("reader", f"i{n}", START_S + n) for n in range(LONG_SESSION)]
    rows += [("tied", f"i{n}", START_S) for n in range(600)]
    for user in range(450):
        for visit in range(8):
            start = START_S + DAY_S * (0, 1, 2, 4, 5, 6, 5, 6)[visit] + 40_000 * (visit > 5) + draw.randrange(20_000)
            rows.append((f"u{user}", "home", start))
            rows += [(f"u{user}", f"i{int(3000 * draw.random() ** 2)}", start + 60 * n) for n in range(1, 5)]
    return sorted(set(rows))


def log_rows() -> list[str]:
    """The lines of the log, in no order."""
    draw, clicks = random.Random(6), clicks_of_log()
    rows = [*clicks, *draw.choices(clicks, k=TWICE)]
    rows += [(user, item, 1000 * ts) for user, item, ts in draw.choices(clicks, k=MILLISECONDS)]
    rows += [(user, item, YEAR_2100) for user, item, _ in draw.choices(clicks, k=FUTURE)]
    draw.shuffle(rows)
    return [f"{user},{item},{ts}" for user, item, ts in rows]


@dataclass(frozen=True)
class Made:
    """A run of the data jobs. ended: the tasks of each job, as Spark's event log has them."""

    settings: Settings
    ended: Mapping[str, list[Task]]

    def manifest(self, table: str) -> Manifest:
        return Store.of(self.settings).manifest(table, DS, self.settings)

    def counters(self, table: str) -> dict[str, Any]:
        return dict(self.manifest(table).counters)

    def column(self, table: str, name: str) -> list[Any]:
        return pq.read_table(Store.of(self.settings).files_of(self.manifest(table)), columns=[name])[name].to_pylist()

    def shown(self) -> dict[str, int]:
        """What the report says was left out or cut: note -> rows."""
        steps = funnel({step.table: self.manifest(step.table) for step in STEPS if step.table != "sem_nn"})
        return {note["what"]: note["rows"] for step in steps for note in step["notes"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("skew")
    rows = log_rows()
    (folder / "log").mkdir()
    for part in range(PARTITIONS):
        (folder / "log" / f"{part}.csv").write_text("\n".join(["user_key,item_key,ts", *rows[part::PARTITIONS]]) + "\n")
    sections = {
        "storage": {"root": str(folder / "root")},
        "source": {"kind": "generic", "path": str(folder / "log")},
        "session": {"max_user_clicks": MAX_USER_CLICKS},
        "cooc": {"max_session_items": MAX_SESSION_ITEMS, "top": TOP},
    }
    (folder / "day.yaml").write_text(yaml.safe_dump(sections))
    conf = ["spark.master=local[2]", "spark.ui.enabled=false", "spark.sql.adaptive.coalescePartitions.enabled=false"]
    conf += [f"spark.{name}={PARTITIONS}" for name in ("default.parallelism", "sql.shuffle.partitions")]
    conf += ["spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1", *settings_of_log(folder / "events")]
    options = " ".join(f"--conf {setting}" for setting in conf)
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell", "SPARK_LOCAL_IP": "127.0.0.1"}
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    command = [sys.executable, "-m", "tests.cluster.data_jobs", "--config", str(folder / "day.yaml"), "--ds", DS]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    ran = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"job"')]
    ended = tasks(folder / "events")
    by_job = {job["job"]: [task for task in ended if job["began_ms"] <= task.launched_ms <= job["ended_ms"]] for job in ran}
    return Made(load(str(folder / "day.yaml")), by_job)


def test_what_was_left_out_is_counted_and_shown(made: Made) -> None:
    clicks = clicks_of_log()
    counted, events, pairs, shown = made.counters("clicks"), made.counters("events"), made.counters("cooc"), made.shown()
    assert (counted["clicks"], counted["duplicates"], counted["dropped"]) == (len(clicks), TWICE, {"after ds": FUTURE})
    assert counted["rejected"] == {milliseconds.MILLISECONDS: MILLISECONDS}
    assert shown["duplicates left out"] == TWICE
    assert shown["left out: after ds"] == FUTURE
    assert shown[f"refused: {milliseconds.MILLISECONDS}"] == MILLISECONDS
    over = [n - MAX_USER_CLICKS for n in Counter(user for user, _, _ in clicks).values() if n > MAX_USER_CLICKS]
    assert len(over) == events["users_beyond_max_user_clicks"] == BOTS + 3
    assert sum(over) == events["clicks_beyond_max_user_clicks"]
    assert shown["clicks left out: beyond the most recent that are kept of one user"] == sum(over)
    assert shown["long sessions were cut into chunks"] == pairs["sessions_chunked"] >= 3
    assert shown["pairs lost between chunks"] == pairs["pairs_lost_by_chunking"] > 0
    assert shown["neighbours left out: beyond the strongest of an item"] == pairs["rows_beyond_top"] > 0
    days = set(made.column("clicks", "day"))
    assert max(days) <= DS
    assert EMPTY_DAY not in days


def test_no_task_of_ingest_or_vocabulary_reads_more_than_its_share(made: Made) -> None:
    """Twice an even share, and less than the one user has: clicks are moved by what makes a duplicate, users as counts."""
    counted = made.counters("clicks")
    assert max(task.rows_in for task in made.ended["ingest"]) <= 2 * counted["raw_rows"] / PARTITIONS < HEAVY
    assert max(task.rows_in for task in made.ended["vocabulary"]) <= 2 * counted["clicks"] / PARTITIONS < HEAVY


def test_no_task_of_events_reads_all_clicks_of_the_heavy_user(made: Made) -> None:
    """They are cut in parts before they are moved together."""
    assert max(task.rows_in for task in made.ended["events"]) <= 2 * made.counters("clicks")["clicks"] / PARTITIONS < HEAVY
    assert max(file.rows for file in made.manifest("events").files) <= EVENTS_PER_FILE


def test_of_each_user_the_most_recent_clicks_are_kept(made: Made) -> None:
    clicks = defaultdict(list)
    for user, _, ts in clicks_of_log():
        clicks[user].append(ts)
    user_of = dict(zip(made.column("user_index", "idx"), made.column("user_index", "key"), strict=True))
    kept = defaultdict(list)
    for idx, ts in zip(made.column("events", "user_idx"), made.column("events", "ts"), strict=True):
        kept[user_of[idx]].append(ts)
    assert kept == {user: sorted(times)[-MAX_USER_CLICKS:] for user, times in clicks.items()}
    assert made.counters("events")["clicks_read"] == made.counters("clicks")["clicks"]


def test_jobs_behind_the_cut_read_and_write_bounded_files(made: Made) -> None:
    """They walk files of events, a task each; no session and no history is longer than what is kept of a user."""
    most = max(file.rows for file in made.manifest("events").files)
    for table in ("sessions", "samples"):
        files = made.manifest(table).files
        assert len(files) == len(made.manifest("events").files)
        assert max(file.rows for file in files) <= most
    sizes = made.column("sessions", "num_items")
    assert max(sizes) == MAX_USER_CLICKS  # the long session, the heavy user's, and the bots'


def test_the_work_of_a_block_of_pairs_is_bounded(made: Made) -> None:
    """A task walks the baskets that hold its items: at most so many clicks as these have, times the items of a basket."""
    counted, files = made.counters("cooc"), made.manifest("cooc").files
    sessions = made.column("sessions", "items")
    assert len(files) >= 3
    clicks_on = Counter(item for items in sessions for item in set(items))
    blocks = len(files)
    walked: dict[int, int] = defaultdict(int)
    for items in sessions:
        distinct = list(dict.fromkeys(items))
        for start in range(0, len(distinct), MAX_SESSION_ITEMS):
            basket = distinct[start : start + MAX_SESSION_ITEMS]
            for item in basket:
                walked[item % blocks] += len(basket)
    clicks_of_block: dict[int, int] = defaultdict(int)
    for item, clicks in clicks_on.items():
        clicks_of_block[item % blocks] += clicks
    assert all(work <= MAX_SESSION_ITEMS * clicks_of_block[block] for block, work in walked.items())
    # the item of every session: its block is the largest, and still no more than all sessions are long
    everywhere, visits = clicks_on.most_common(1)[0]
    assert visits >= 450 * 8
    assert max(walked.values()) <= walked[everywhere % blocks] <= made.counters("sessions")["session_items"] * MAX_SESSION_ITEMS
    assert 2 * counted["meetings"] == sum(walked.values()) - sum(clicks_on.values())
    # without the cut into baskets
    uncut = sum(len(set(items)) * (len(set(items)) - 1) // 2 for items in sessions)
    assert counted["pairs_lost_by_chunking"] == uncut - counted["meetings"] > 5 * counted["meetings"]
    items_of_block = Counter(item % blocks for item in clicks_on)
    assert max(file.rows for file in files) <= TOP * max(items_of_block.values())
