"""Every stage alone, as the README says it, on a Spark standalone cluster whose Python does not have the project installed.

The cluster is a master and two workers on loopback. Their Python has the dependencies but not the project: that arrives by
--py-files, and the trainer finds it in the same zip on PYTHONPATH.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf import jobs
from conf.launchers import LAUNCHERS
from tests.cluster.standalone import REPOSITORY, Cluster
from tests.tiny_day import DS, TinyDay
from tests.trainer.planted import planted_settings, publish
from tests.trainer.trained import command as train_command
from tests.trainer.trained import model

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


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
        submit = cluster.submit(conf=["spark.ui.enabled=false", "spark.sql.shuffle.partitions=2"])
        command = [*submit, str(module), *day.arguments, *more]
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


def test_a_training_in_tasks_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """By the line of operations.md: the workers find our packages in --py-files, and the settings come along."""
    made = {}
    for launcher in (name for name, one in LAUNCHERS.items() if one.on_spark):
        settings = planted_settings(tmp_path / launcher, trainer={"workers": 2, "epochs": 1, "launcher": launcher})
        publish(settings)
        submit = [*cluster.submit(conf=["spark.ui.enabled=false"]), str(REPOSITORY / "trainer" / "spark_launcher.py")]
        command = [*submit, *train_command(settings, tmp_path)[3:], "--run-id", "r1"]
        done = subprocess.run(
            command, env=cluster.environment, cwd=cluster.folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{launcher}:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        assert model(settings).counters["workers"] == 2
        made[launcher] = model(settings).content_hash
    assert len(made) == 2
    assert len(set(made.values())) == 1


def test_each_stage_alone(cluster: Cluster) -> None:
    day = TinyDay(cluster.folder / "root")
    for job in jobs.stages(day.settings):
        run_stage(cluster, job, day)
    run_stage(cluster, "semantics", day, "--set", "semantics.kind=tfidf")
    report = day.store.files_of(day.store.manifest("report", DS, day.settings))
    assert any(path.endswith("report.html") for path in report)
