"""Every table of the data jobs holds the same rows however they were computed: partitions, engine, cluster, lost and doubled tasks.

A run is one Spark application over all data jobs. The log is small, but cut into as many files and tasks as a large one.
"""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.cluster.applications import DS, Run, ended, parallelism, start, write_log
from tests.cluster.standalone import Cluster, free_port
from tests.event_log import made_good, tasks

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WRITTEN_BY_TASKS = ("sessions", "cooc", "samples")
SQL = [f"{section}.engine=sql" for section in ("session", "cooc", "samples")]


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
        """Whoever runs a task of a stage that is half done and has more for it; None = there is no such stage now."""
        try:
            (application,) = self._get("")
            for stage in self._get(f"/{application['id']}/stages?status=active"):
                if 0 < stage["numCompleteTasks"] < stage["numTasks"] - stage["numActiveTasks"] - 1:
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


def hang(cluster: Cluster, folder: Path, names: Sequence[str]) -> list[str]:
    """Spark settings by which the first attempt to write each of these tables hangs; see slow_writes/sitecustomize.py."""
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    python_path = f"{Path(__file__).with_name('slow_writes')}:{cluster.environment['PYTHONPATH']}"
    return [f"spark.executorEnv.SLOW_WRITES={folder}", f"spark.executorEnv.PYTHONPATH={python_path}"]


def hanging(folder: Path, name: str) -> psutil.Process | None:
    """The Python worker that hangs as it writes the table."""
    for path in folder.glob(f"{name}.*"):
        return psutil.Process(int(path.suffix[1:]))
    return None


def executor_of(worker: psutil.Process) -> psutil.Process:
    return next(parent for parent in worker.parents() if "--executor-id" in parent.cmdline())


def test_killed_executors_cost_only_their_tasks(cluster: Cluster, config: Path, quiet: Run, tmp_path: Path) -> None:
    """Two of them: one as Spark shuffles for the events, one as a task of ours writes a file of co-occurrences."""
    port, slow = free_port(), tmp_path / "slow"
    conf = [*parallelism(16), "spark.ui.enabled=true", f"spark.ui.port={port}", *hang(cluster, slow, ["cooc"])]
    run, process = start(cluster, config, tmp_path, master=cluster.master, conf=conf)
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
    attempts = tasks(run.log)
    gone = [task for task in attempts if task.reason == "ExecutorLostFailure"]
    assert len({task.executor for task in gone}) == 2
    assert all(made_good(attempts, task) for task in gone)
    assert run.contents() == quiet.contents()
    assert run.counters() == quiet.counters()
    assert run.strays() == {}


def test_speculation_leaves_the_files_of_the_winners_only(cluster: Cluster, config: Path, quiet: Run, tmp_path: Path) -> None:
    """The first attempt to write each table hangs; its twin on the other host wins."""
    slow = tmp_path / "slow"
    eager = {"quantile": 0.2, "multiplier": 1.2, "minTaskRuntime": "50ms", "interval": "50ms"}
    conf = [*parallelism(16), "spark.ui.enabled=false", "spark.speculation=true", *hang(cluster, slow, WRITTEN_BY_TASKS)]
    conf += [f"spark.speculation.{name}={value}" for name, value in eager.items()]
    made = ended(*start(cluster, config, tmp_path, master=cluster.master, conf=conf))
    assert {path.name.split(".")[0] for path in slow.iterdir() if path.suffix} == set(WRITTEN_BY_TASKS)
    attempts = tasks(made.log)
    overtaken = [task for task in attempts if not task.speculative and task.reason == "TaskKilled"]
    won = {(task.stage, task.index) for task in attempts if task.speculative and task.reason == "Success"}
    assert len([task for task in overtaken if (task.stage, task.index) in won]) >= len(WRITTEN_BY_TASKS)
    assert made.contents() == quiet.contents()
    assert made.counters() == quiet.counters()
    assert made.strays() == {}
