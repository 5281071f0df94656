"""Executors killed while an index is built and while it is searched: the tables are those of a run in one process."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from conf.yaml_text import to_yaml
from tests.cluster.applications import ended, parallelism, start
from tests.cluster.retrieval_jobs import JOBS
from tests.cluster.standalone import Cluster
from tests.cluster.test_same_tables import executor_of, hanging, watch
from tests.event_log import tasks
from tests.retrieval.day import publish_day

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_killed_executors_cost_only_their_tasks(cluster: Cluster, tmp_path: Path) -> None:
    day = publish_day(tmp_path / "root", index={"factory": "Flat", "shards": 4})
    (tmp_path / "day.yaml").write_text(to_yaml(day.settings))
    for name in ("quiet", "killed"):
        shutil.copytree(tmp_path / "root", tmp_path / name / "root")
    whole = {"script": "retrieval_jobs.py", "jobs": JOBS}
    conf = [*parallelism(1), "spark.ui.enabled=false"]
    quiet = ended(*start(cluster, tmp_path / "day.yaml", tmp_path / "quiet", master="local[2]", conf=conf, **whole))

    (tmp_path / "slow").mkdir()
    for name in ("index", "candidates"):
        (tmp_path / "slow" / name).touch()
    conf, more = [*parallelism(4), "spark.ui.enabled=false"], {"HANG": str(tmp_path / "slow")}
    run, process = start(cluster, tmp_path / "day.yaml", tmp_path / "killed", master=cluster.master, conf=conf, more=more, **whole)
    try:
        for name in ("index", "candidates"):
            for _ in watch(process, f"a task of {name}", run):
                worker = hanging(tmp_path / "slow", name)
                if worker is not None:
                    executor_of(worker).kill()
                    break
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    ended(run, process)
    assert len({task.executor for task in tasks(run.log) if task.reason == "ExecutorLostFailure"}) == 2
    assert run.contents() == quiet.contents()
    assert run.strays() == {}
