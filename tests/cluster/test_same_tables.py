"""Every table of the data jobs holds the same rows however they were computed: partitions, engine, cluster, lost and doubled tasks.

A run is one Spark application over all data jobs. The log is small, but cut into as many files and tasks as a large one.
"""

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from conf import jobs
from conf.settings import Settings, load
from conf.storage import Store
from tests.cluster.standalone import REPOSITORY, Cluster, free_port
from tests.event_log import Task, made_good, settings_of_log, tasks

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DS, FIRST_TS = "2026-01-31", 1_768_953_600  # 2026-01-21T00:00:00Z: the log lasts eleven days
WRITTEN_BY_TASKS = ("sessions", "cooc", "samples")
SQL = [f"{section}.engine=sql" for section in ("session", "cooc", "samples")]


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


@dataclass(frozen=True)
class Run:
    """One application that ran, or runs. log: folder of its event log; process: the driver's, None once it ended."""

    settings: Settings
    folder: Path

    @property
    def store(self) -> Store:
        return Store.of(self.settings)

    @property
    def log(self) -> Path:
        return self.folder / "events"

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(name for job in jobs.stages(self.settings) if job in DATA_JOBS for name in jobs.outputs(job, self.settings))

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


DATA_JOBS = ("ingest", "vocabulary", "events", "sessions", "cooccurrence", "samples")


def start(
    cluster: Cluster, config: Path, folder: Path, *, master: str, conf: Sequence[str] = (), sets: Sequence[str] = ()
) -> tuple[Run, subprocess.Popen]:
    """An application that runs the data jobs, in a process group of its own."""
    sets = [f"storage.root={folder / 'root'}", *sets]
    run = Run(load(str(config), sets), folder)
    adaptive = "spark.sql.adaptive.coalescePartitions.enabled=false"  # it would merge small partitions again
    submit = cluster.submit(master=master, conf=[adaptive, *settings_of_log(run.log), *conf])
    words = [word for value in sets for word in ("--set", value)]
    script = str(REPOSITORY / "tests" / "cluster" / "data_jobs.py")
    command = [*submit, script, "--config", str(config), "--ds", DS, "--run-id", "r1", *words]
    with (folder / "driver.log").open("w") as log:
        process = subprocess.Popen(command, env=cluster.environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
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


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def quiet(cluster: Cluster, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that all others must equal: one process, one partition."""
    folder = tmp_path_factory.mktemp("quiet")
    conf = [*parallelism(1), "spark.ui.enabled=false"]
    made = ended(*start(cluster, config, folder, master="local[2]", conf=conf))
    assert {task.reason for task in tasks(made.log)} == {"Success"}
    counters = made.counters()
    # the log has what makes the order matter, and its tables are made by more than one task
    assert counters["clicks"]["duplicates"] > 1000
    assert sum(counters["clicks"]["rejected"].values()) > 200
    assert counters["events"]["users_beyond_max_user_clicks"] == 2
    assert counters["cooc"]["sessions_chunked"] > 100
    for name in ("events", *WRITTEN_BY_TASKS):
        assert len(made.store.manifest(name, DS, made.settings).files) >= 4, name
    return made


@pytest.mark.parametrize(
    ("partitions", "where", "sets"),
    [(4, "local", []), (64, "local", SQL), (4, "cluster", [])],
    ids=["4", "64-sql", "4-cluster"],
)
def test_any_partitioning_engine_and_cluster(
    cluster: Cluster, config: Path, quiet: Run, tmp_path: Path, partitions: int, where: str, sets: list[str]
) -> None:
    master = "local[2]" if where == "local" else cluster.master
    conf = [*parallelism(partitions), "spark.ui.enabled=false"]
    made = ended(*start(cluster, config, tmp_path, master=master, conf=conf, sets=sets))
    assert made.contents() == quiet.contents()
    assert made.counters() == quiet.counters()
    if where == "cluster":
        assert {task.executor for task in tasks(made.log)} == {"0", "1"}


# ---- lost executors --------------------------------------------------------------------------------------------------


class Interface:
    """Spark's own status pages, of the application that runs now."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1/applications"

    def _get(self, path: str) -> list[dict]:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return json.load(answer)

    def busy_executor(self) -> str | None:
        """Whoever runs a task of a stage that is half done; None = there is no such stage now."""
        try:
            (application,) = self._get("")
            for stage in self._get(f"/{application['id']}/stages?status=active"):
                if 0 < stage["numCompleteTasks"] < stage["numTasks"]:
                    attempts = self._get(f"/{application['id']}/stages/{stage['stageId']}/{stage['attemptId']}/taskList?length=200")
                    for task in attempts:
                        if task["status"] == "RUNNING":
                            return str(task["executorId"])
        except (OSError, ValueError):  # not there yet, or the stage is gone already
            return None
        return None


def watch(process: subprocess.Popen, what: str, run: Run, seconds: float = 300) -> Iterator[None]:
    """Go on until the caller has seen what it waits for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before {what}:\n" + (run.folder / "driver.log").read_text()[-6000:]
        yield
        time.sleep(0.02)
    raise AssertionError(f"never {what}")


def is_running(run: Run, job: str) -> bool:
    """Whether the job holds its lock."""
    return Path(run.settings.storage.root, "main", "_locks", job, f"ds={DS}.json").exists()


def kill_a_busy_executor(cluster: Cluster, interface: Interface, run: Run, process: subprocess.Popen, job: str) -> None:
    """kill -9 of an executor in the middle of a stage of the job."""
    for _ in watch(process, f"{job} was in the middle of a stage", run):
        busy = interface.busy_executor() if is_running(run, job) else None
        executors = cluster.executors() if busy else {}
        if busy in executors and is_running(run, job):
            executors[busy].kill()
            return


def hang(folder: Path, names: Sequence[str]) -> list[str]:
    """Spark settings by which the first attempt to write each of these tables hangs; see slow_writes/sitecustomize.py."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return [f"spark.executorEnv.SLOW_WRITES={folder}"]


def hanging(folder: Path, name: str) -> psutil.Process | None:
    """The Python worker that hangs as it writes the table."""
    for path in folder.glob(f"{name}.*"):
        return psutil.Process(int(path.suffix[1:]))
    return None


def executor_of(worker: psutil.Process) -> psutil.Process:
    return next(parent for parent in worker.parents() if "--executor-id" in parent.cmdline())


def lost(log: Path) -> list[Task]:
    return [task for task in tasks(log) if task.reason == "ExecutorLostFailure"]


def test_killed_executors_cost_only_their_tasks(cluster: Cluster, config: Path, quiet: Run, tmp_path: Path) -> None:
    """Two of them: one as Spark shuffles for the events, one as a task of ours writes a file of co-occurrences."""
    port, slow = free_port(), tmp_path / "slow"
    python_path = f"{REPOSITORY / 'tests' / 'cluster' / 'slow_writes'}:{cluster.environment['PYTHONPATH']}"
    conf = [*parallelism(16), "spark.ui.enabled=true", f"spark.ui.port={port}", f"spark.executorEnv.PYTHONPATH={python_path}"]
    run, process = start(cluster, config, tmp_path, master=cluster.master, conf=[*conf, *hang(slow, ["cooc"])])
    try:
        kill_a_busy_executor(cluster, Interface(port), run, process, "events")
        for _ in watch(process, "an attempt to write cooc", run):
            worker = hanging(slow, "cooc")
            if worker is not None:
                executor_of(worker).kill()
                break
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    ended(run, process)
    attempts, gone = tasks(run.log), lost(run.log)
    assert len({task.executor for task in gone}) == 2
    assert all(made_good(attempts, task) for task in gone)
    assert run.contents() == quiet.contents()
    assert run.counters() == quiet.counters()
    assert run.strays() == {}


def test_speculation_leaves_the_files_of_the_winners_only(cluster: Cluster, config: Path, quiet: Run, tmp_path: Path) -> None:
    """The first attempt to write each table hangs; its twin on the other host wins."""
    slow = tmp_path / "slow"
    python_path = f"{REPOSITORY / 'tests' / 'cluster' / 'slow_writes'}:{cluster.environment['PYTHONPATH']}"
    eager = {"quantile": 0.2, "multiplier": 1.2, "minTaskRuntime": "50ms", "interval": "50ms"}
    conf = [*parallelism(16), "spark.ui.enabled=false", f"spark.executorEnv.PYTHONPATH={python_path}", "spark.speculation=true"]
    conf += [f"spark.speculation.{name}={value}" for name, value in eager.items()]
    made = ended(*start(cluster, config, tmp_path, master=cluster.master, conf=[*conf, *hang(slow, WRITTEN_BY_TASKS)]))
    assert {path.name.split(".")[0] for path in slow.iterdir() if path.suffix} == set(WRITTEN_BY_TASKS)
    attempts = tasks(made.log)
    overtaken = [task for task in attempts if not task.speculative and task.reason == "TaskKilled"]
    won = {(task.stage, task.index) for task in attempts if task.speculative and task.reason == "Success"}
    assert len([task for task in overtaken if (task.stage, task.index) in won]) >= len(WRITTEN_BY_TASKS)
    assert made.contents() == quiet.contents()
    assert made.counters() == quiet.counters()
    assert made.strays() == {}
