"""A real Spark job killed at chosen moments: the old tables stay whole, the rerun gives the content of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from conf.command import Request, parse, request
from spark_jobs.job import run_job
from tests.faults.publishing import publish
from tests.faults.spark_events_job import DS, ROWS, events_job, publish_inputs

MOMENTS = ("writing", "manifest", "pointer", "published")
SPARK = {"spark.master": "local[2]", "spark.ui.enabled": "false", "spark.driver.memory": "600m", "spark.sql.shuffle.partitions": "2"}
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # short lives: no time for the optimising compiler


@dataclass
class Killed:
    """A run that is, or will be, killed. family: its process and the Spark it started, once known."""

    root: Path
    process: subprocess.Popen
    family: list[psutil.Process]

    def ask(self, run_id: str) -> Request:
        return request(parse("events", "", ["--config", str(self.root) + ".yaml", "--ds", DS, "--run-id", run_id, "--log-format", "text"]))


def _start(folder: Path, moment: str) -> Killed:
    root = folder / moment
    (folder / f"{moment}.yaml").write_text(f"storage: {{root: '{root}'}}\n")
    options = " ".join(f"--conf {key}={value}" for key, value in SPARK.items())
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell", "SPARK_LOCAL_IP": "127.0.0.1", "JAVA_TOOL_OPTIONS": JAVA}
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    killed = Killed(root, None, [])
    asked = killed.ask("r1")
    publish_inputs(asked.store, asked.settings)
    publish(asked.store, asked.settings, "r0", "old")
    command = [sys.executable, "-m", "tests.faults.spark_events_job", moment, str(root), *asked.arguments()]
    with open(folder / f"{moment}.log", "w") as log:
        killed.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    return killed


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory):
    """Every moment that is asked for at once: most of the time is Spark's start."""
    folder = tmp_path_factory.mktemp("killed")
    params = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    asked = {each["moment"] for each in params if "moment" in each}
    runs = {moment: _start(folder, moment) for moment in (*MOMENTS, "slow") if moment in asked | {"slow"}}
    yield runs
    for run in runs.values():
        run.process.kill()
        run.process.wait()
        for process in run.family:
            if process.is_running():
                process.kill()


@pytest.fixture(scope="module")
def undisturbed(spark, tmp_path_factory):
    """The content of a run that nobody killed: table -> content hash."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "root.yaml").write_text(f"storage: {{root: '{folder}/root'}}\n")
    asked = Killed(folder / "root", None, []).ask("r1")
    publish_inputs(asked.store, asked.settings)
    return run_job(events_job(), spark, asked).record.tables


def _runs_seen(asked: Request) -> dict[str, str]:
    return {table: m.run_id for table, m in asked.store.manifests(("events", "user_state"), DS, asked.settings).items()}


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[pytest.mark.slow] * (m != "pointer")) for m in MOMENTS])
def test_killed_job_leaves_old_or_new_tables_whole_and_its_rerun_the_same_content(spark, killed, undisturbed, moment):
    run = killed[moment]
    assert run.process.wait(timeout=240) == -signal.SIGKILL, (run.root.parent / f"{moment}.log").read_text()
    asked = run.ask("r1")
    lock = run.root / "main" / "_locks" / "events" / f"ds={DS}.json"
    assert lock.exists()
    assert asked.store.read_status("r1")["status"] == "running"
    seen = "r1" if moment == "published" else "r0"
    assert _runs_seen(asked) == {"events": seen, "user_state": seen}

    # at once, under the same run id: the Spark of the killed one may still be running
    again = run_job(events_job(), spark, asked)
    assert again.skipped == (moment == "published")
    assert again.record.tables == undisturbed
    assert _runs_seen(asked) == {"events": "r1", "user_state": "r1"}
    for table, manifest in asked.store.manifests(("events", "user_state"), DS, asked.settings).items():
        assert spark.read.parquet(*asked.store.files_of(manifest)).count() == ROWS, table
        assert len({entry.name.split("-")[1] for entry in manifest.files}) == 1, "files of two attempts"
    if moment != "published":
        assert not lock.exists()


def test_terminated_job_ends_with_143_gives_its_lock_back_and_says_so_in_its_status(killed):
    run = killed["slow"]
    deadline = time.monotonic() + 240
    while not list(run.root.glob("main/*/ds=*/run=r1/_temporary/0/_temporary/*")):
        assert time.monotonic() < deadline, "it never began to write"
        assert run.process.poll() is None, (run.root.parent / "slow.log").read_text()
        time.sleep(0.05)
    run.family += psutil.Process(run.process.pid).children(recursive=True)
    assert run.family, "no Spark under the job"
    run.process.terminate()
    assert run.process.wait(timeout=60) == 143
    asked = run.ask("r1")
    assert not (run.root / "main" / "_locks" / "events" / f"ds={DS}.json").exists()
    status = asked.store.read_status("r1")
    assert (status["status"], status["exit_code"]) == ("failed", 143)
    assert [(stage["stage"], stage["status"]) for stage in status["stages"]] == [("events", "failed")]
    assert _runs_seen(asked) == {"events": "r0", "user_state": "r0"}
    _, alive = psutil.wait_procs(run.family, timeout=60)
    assert not alive, "Spark outlived the job"
