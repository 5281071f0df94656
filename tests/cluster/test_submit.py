"""Every stage alone, as the README says it, on a Spark standalone cluster whose Python does not have the project installed.

The cluster is a master and two workers on loopback. Their Python has the dependencies but not the project: that arrives by
--py-files, and the trainer finds it in the same zip on PYTHONPATH.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest

from conf import jobs
from tests.tiny_day import DS, TinyDay

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class Cluster:
    master: str
    python: Path
    package: Path
    environment: dict[str, str]
    folder: Path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _bare_python(folder: Path) -> Path:
    """A Python that sees the installed packages through PYTHONPATH: .pth files, and with them editable installs, do not count there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([sys.executable, str(REPOSITORY / "scripts" / "package"), "zip"], cwd=REPOSITORY, check=True)
    python = _bare_python(folder / "bare")
    port, web = _free_port(), _free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYSPARK_", "SPARK_", "PYTHON"))}
    environment = kept | {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": str(python),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "SPARK_WORKER_DIR": str(folder / "work"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    spark_class, master = str(SPARK_HOME / "bin" / "spark-class"), f"spark://127.0.0.1:{port}"
    ports = ["--host", "127.0.0.1", "--port", str(port), "--webui-port", str(web)]
    commands = [[spark_class, "org.apache.spark.deploy.master.Master", *ports]]
    worker = [spark_class, "org.apache.spark.deploy.worker.Worker", master, "-c", "1", "-m", "2g", "--host", "127.0.0.1"]
    commands += [[*worker, "--webui-port", str(_free_port())] for _ in range(2)]
    log = (folder / "daemons.log").open("w")
    daemons = [subprocess.Popen(c, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True) for c in commands]
    try:
        deadline = time.monotonic() + 60
        while (folder / "daemons.log").read_text().count("Successfully registered with master") < 2:
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()[-3000:]
            time.sleep(0.3)
        yield Cluster(master, python, REPOSITORY / "dist" / "trichannel.zip", environment, folder)
    finally:
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
        log.close()


def test_the_cluster_python_has_no_project(cluster: Cluster) -> None:
    code = "import pyspark, torch, faiss\ntry:\n import spark_jobs\nexcept ImportError:\n print('bare')"
    command = [str(cluster.python), "-c", code]
    done = subprocess.run(command, env=cluster.environment, cwd=cluster.folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "bare"


def run_stage(cluster: Cluster, job: str, day: TinyDay, *more: str) -> None:
    """The stage by the README's line; asserts that it published."""
    module = REPOSITORY / (jobs.module_of(job).replace(".", "/") + ".py")
    environment = dict(cluster.environment)
    if job == "train":
        environment["PYTHONPATH"] = f"{cluster.package}:{environment['PYTHONPATH']}"
        horovodrun = str(Path(sys.executable).with_name("horovodrun"))
        command = [horovodrun, "-np", "2", "--gloo", str(cluster.python), "-m", "trainer.train", *day.arguments, *more]
    else:
        submit = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", cluster.master, "--executor-memory", "1g"]
        submit += ["--conf", "spark.ui.enabled=false", "--conf", "spark.sql.shuffle.partitions=2"]
        # three JVMs on a test machine of two cores: what each compiles, it hardly ever runs again
        for side in ("driver", "executor"):
            submit += ["--conf", f"spark.{side}.extraJavaOptions=-XX:TieredStopAtLevel=1 -Xss8m"]
        command = [*submit, "--py-files", str(cluster.package), str(module), *day.arguments, *more]
    done = subprocess.run(command, env=environment, cwd=cluster.folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{job}:\n{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert f"published {job} ds={DS}" in done.stdout, done.stdout[-2000:]
    for table in jobs.outputs(job, day.settings):
        day.store.manifest(table, DS, day.settings)


@pytest.mark.parametrize("job", ["train", "cooccurrence", "candidates"])
def test_stages_whose_executors_need_the_project(cluster: Cluster, tiny_day: TinyDay, job: str) -> None:
    """Functions of ours in Spark's Python workers, FAISS and kernels there, two training workers; all stages are in the slow test."""
    day = TinyDay(cluster.folder / f"copy-{job}")
    shutil.copytree(tiny_day.root, day.root)
    run_stage(cluster, job, day, "--force", "--run-id", "cluster")
    table = jobs.outputs(job, day.settings)[0]
    manifests = (made.store.manifest(table, DS, made.settings) for made in (day, tiny_day))
    hashes = [manifest.content_hash for manifest in manifests]
    assert hashes[0] == hashes[1], f"{table} is not what one process made of the same tables"


def test_each_stage_alone(cluster: Cluster) -> None:
    day = TinyDay(cluster.folder / "root")
    for job in jobs.stages(day.settings):
        run_stage(cluster, job, day)
    run_stage(cluster, "semantics", day, "--set", "semantics.kind=tfidf")
    report = day.store.files_of(day.store.manifest("report", DS, day.settings))
    assert any(path.endswith("report.html") for path in report)
