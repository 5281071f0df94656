"""Jobs of a small day as one Spark application: its log, how it is started, what it made."""

import os
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from conf import jobs
from conf.settings import Settings, load
from conf.storage import Store
from tests.cluster.standalone import REPOSITORY, Cluster
from tests.event_log import settings_of_log

DS, FIRST_TS = "2026-01-31", 1_768_953_600  # 2026-01-21T00:00:00Z: the log lasts eleven days


def write_log(folder: Path) -> Path:
    """Four files of 8,000 clicks with what makes an order matter: ties, duplicates, refused rows; its settings.

    Two users have a thirtieth of all clicks each, more than are kept; sessions hold more items than are kept together.
    """
    draw, rows = random.Random(11), []
    for n in range(32_000):
        user = "bot" if n % 30 == 0 else f"u{int(900 * draw.random() ** 2)}"
        ts = FIRST_TS + draw.randrange(11) * 86_400 + draw.choice([0, 60, 600, 3600, 3660, 9000, 40_000])
        rows.append(f"{user},i{int(500 * draw.random() ** 2)},{ts * (1 if draw.random() < 0.99 else 1000)}")
        if draw.random() < 0.05:
            rows.append(rows[draw.randrange(len(rows))])
    (folder / "clicks").mkdir(parents=True)
    for part in range(4):
        (folder / "clicks" / f"{part}.csv").write_text("\n".join(["user_key,item_key,ts", *rows[part::4]]) + "\n")
    users = [f"u{n},{draw.choice(['Ulm', 'Oslo', ''])},{draw.choice(['tea', 'tea|chess', ''])}" for n in range(900)]
    items = [f"i{n},{draw.choice('abc')},{'|'.join(draw.sample('wxyz', 2))}" for n in range(520)]
    (folder / "users.csv").write_text("\n".join(["key,city,hobbies", *users]) + "\n")
    (folder / "items.csv").write_text("\n".join(["key,category,tags", *items]) + "\n")
    fields = {
        "user": {"city": "single", "hobbies": "multi"},
        "item": {"category": "single", "tags": "multi"},
    }
    paths = {"path": str(folder / "clicks"), "users": {"path": str(folder / "users.csv")}, "items": {"path": str(folder / "items.csv")}}
    settings = {
        "source": {"kind": "generic", **paths, "fields": fields},
        "split": {"kind": "user"},
        "session": {"kind": "gap", "max_user_clicks": 500},
        "cooc": {"category_field": "category", "top": 20, "max_session_items": 6},
        "samples": {"masks": {"draws": 2}},
        "gates": {"max_reject_share": 0.1},
    }
    (folder / "day.yaml").write_text(yaml.safe_dump(settings))
    return folder / "day.yaml"


DATA_JOBS = ("ingest", "vocabulary", "events", "sessions", "cooccurrence", "samples")


@dataclass(frozen=True)
class Run:
    """An application that ran, or runs. folder: holds its tables, its event log and what its driver said."""

    settings: Settings
    folder: Path
    jobs: tuple[str, ...] = DATA_JOBS

    @property
    def store(self) -> Store:
        return Store.of(self.settings)

    @property
    def log(self) -> Path:
        return self.folder / "events"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(name for job in jobs.stages(self.settings) if job in self.jobs for name in jobs.outputs(job, self.settings))

    def contents(self) -> dict[str, str]:
        return {name: self.store.manifest(name, DS, self.settings).content_hash for name in self.tables}

    def counters(self) -> dict[str, Mapping[str, object]]:
        return {name: self.store.manifest(name, DS, self.settings).counters for name in self.tables}

    def strays(self) -> dict[str, set[str]]:
        """Table -> what lies in its run folder and is neither in its manifest nor the manifest itself."""
        found = {}
        for name in self.tables:
            manifest = self.store.manifest(name, DS, self.settings)
            known = {entry.name for entry in manifest.files} | {"manifest.json", "_SUCCESS"}
            # Spark's and Hadoop's checksum files of a local disk belong to the files they are named after
            there = {path.name for path in Path(self.store.folder_of(manifest)).iterdir() if not path.name.endswith(".crc")}
            found[name] = there - known
        return {name: left for name, left in found.items() if left}


def start(
    cluster: Cluster,
    config: Path,
    folder: Path,
    *,
    master: str,
    conf: Sequence[str] = (),
    sets: Sequence[str] = (),
    script: str = "data_jobs.py",
    jobs: Sequence[str] = DATA_JOBS,
    more: Mapping[str, str] | None = None,
) -> tuple[Run, subprocess.Popen]:
    """An application that runs jobs, the data jobs by default, in a process group of its own. more: what else its environment holds."""
    sets = [f"storage.root={folder / 'root'}", *sets]
    run = Run(load(str(config), sets), folder, tuple(jobs))
    adaptive = "spark.sql.adaptive.coalescePartitions.enabled=false"  # it would merge small partitions again
    submit = cluster.submit(master=master, conf=[adaptive, *settings_of_log(run.log), *conf])
    words = [word for value in sets for word in ("--set", value)]
    path = str(REPOSITORY / "tests" / "cluster" / script)
    command = [*submit, path, "--config", str(config), "--ds", DS, "--run-id", "r1", *words]
    with (folder / "driver.log").open("w") as log:
        environment = cluster.environment | dict(more or {})
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    return run, process


def ended(run: Run, process: subprocess.Popen) -> Run:
    """The run, once it has ended well."""
    try:
        code = process.wait(420)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (run.folder / "driver.log").read_text()[-6000:]
    return run


def parallelism(num: int) -> list[str]:
    return [f"spark.default.parallelism={num}", f"spark.sql.shuffle.partitions={num}"]
