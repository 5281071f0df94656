"""Every way to start a training makes the same model; two of them need neither Java nor Spark, Petastorm, Horovod or FAISS.

Those that start a Spark application run here on one machine; tests/cluster submits them to a cluster.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from conf.command import Log, Request
from conf.launchers import LAUNCHERS
from conf.sections.training import Trainer
from conf.settings import Settings
from conf.storage import MAIN, Store
from spark_jobs.launcher import train_command
from tests.trainer.bare_python import bare_python
from tests.trainer.planted import DS, planted_settings, publish
from tests.trainer.trained import command, metrics, model, with_trainer
from trainer.checkpoints import INDEX, work_folder

ROOT = Path(__file__).resolve().parents[2]
SPARK = sorted(name for name, launcher in LAUNCHERS.items() if launcher.on_spark)


def test_launchers_are_those_of_the_settings() -> None:
    assert set(LAUNCHERS) == set(get_args(Trainer.model_fields["launcher"].annotation))
    assert SPARK == ["horovod-spark", "spark-torch"]


Started = subprocess.Popen[str]


def start(words: list[str], environment: dict[str, str], cwd: Path = ROOT) -> Started:
    return subprocess.Popen(words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def published(process: Started) -> None:
    """Wait for the end of a training that must be a good one."""
    try:
        said = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    assert process.returncode == 0, f"{process.args}\n{said[-6000:]}"
    assert "published train " in said
    assert "Warning: `torch" not in said  # of what a next version will do otherwise


@pytest.mark.slow  # three trainings in processes of their own
def test_trains_where_five_packages_are(tmp_path: Path) -> None:
    """One process, and two under torchrun."""
    python, packages = bare_python(tmp_path)
    bare = {"PATH": "/nowhere", "PYTHONPATH": f"{packages}:{ROOT}", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    others = ["pyspark", "petastorm", "horovod", "faiss", "pandas", "numba", "psutil", "tqdm"]
    missing = f"import importlib.util as u; print([name for name in {others} if u.find_spec(name)])"
    assert subprocess.run([python, "-c", missing], env=bare, capture_output=True, text=True, check=True).stdout == "[]\n"
    alone = planted_settings(tmp_path / "root", trainer={"epochs": 1}, objectives={"mic": {}})
    publish(alone)
    ddp = with_trainer(alone, launcher="ddp", workers=2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # torchrun takes seconds to start its workers: meanwhile the other trains
    two = start([str(python), *torchrun, *command(ddp, tmp_path / "two", "--variant", "two")[1:]], bare)
    published(start([str(python), *command(alone, tmp_path / "one", "--variant", "one")[1:]], bare))
    published(two)
    assert model(ddp, "two").counters["workers"] == 2
    assert_alike(metrics(ddp, variant="two"), metrics(alone, variant="one"))


def assert_alike(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Two trainings of one curve."""
    for want, got in zip(wanted, found, strict=True):
        for name, value in want.items():
            near = value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=0.02 if name.startswith("recall") else 1e-6)
            assert got[name] == near, (name, want, got)


@pytest.mark.slow
def test_all_launchers_train_the_same_model(tmp_path: Path) -> None:
    """By the commands of `trichannel train`, two workers each; the sum of two numbers does not depend on who adds them."""
    pytest.importorskip("horovod.torch", reason="Horovod is not installed; scripts/build_horovod makes it")
    settings = planted_settings(tmp_path / "root", trainer={"workers": 2, "epochs": 1}, objectives={"mic": {}})
    publish(settings)
    made = {}
    for launcher in LAUNCHERS:
        published(start(train_words(with_trainer(settings, launcher=launcher), launcher, tmp_path), plain_environment()))
        made[launcher] = model(settings).content_hash
        if launcher == "single":
            alone = metrics(settings)
        assert_alike(metrics(settings), alone)
        assert model(settings).run_id == launcher
        assert model(settings).counters["workers"] == (1 if launcher == "single" else 2)
    del made["single"]  # alike, and not the same to the last digit
    assert len(set(made.values())) == 1, made


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def train_words(settings: Settings, run_id: str, folder: Path) -> list[str]:
    """The command of the pipeline for these settings."""
    words = command(settings, folder)
    config = words[words.index("--config") + 1]
    flags = {"force": True, "break_lock": False, "dry_run": False}
    return train_command(Request(config, settings, (), DS, MAIN, run_id, log=Log("json", run_id=run_id), **flags))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", SPARK)
def test_spark_application_tells_why_a_worker_failed(tmp_path: Path, launcher: str) -> None:
    settings = planted_settings(tmp_path / "root", trainer={"workers": 2, "launcher": launcher})  # no tables are there
    process = start(train_words(settings, "r1", tmp_path), plain_environment())
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 3, said[-6000:]
    assert "error[T701] job train" in said
    assert "samples is not there yet" in said


@pytest.mark.slow
@pytest.mark.parametrize("end", [psutil.Process.terminate, psutil.Process.kill], ids=["terminated", "killed"])
@pytest.mark.parametrize("launcher", SPARK)
def test_workers_end_with_the_spark_application(tmp_path: Path, launcher: str, end: Callable[[psutil.Process], None]) -> None:
    settings = planted_settings(tmp_path / "root", trainer={"workers": 2, "launcher": launcher, "epochs": 500, "patience": 500})
    publish(settings)
    process = start(train_words(settings, "r1", tmp_path), plain_environment())
    index = Path(work_folder(Store.of(settings), DS)) / INDEX
    family = []
    try:
        deadline = time.monotonic() + 120
        while not index.exists():  # the checkpoint of the first epoch
            assert process.poll() is None, process.communicate()[0][-6000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 4  # a JVM, Spark's Pythons, two workers
        end(psutil.Process(process.pid))
        process.communicate(timeout=60)
        _, left = psutil.wait_procs(family, timeout=60)
        assert not left
    finally:
        for one in (process, *family):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    assert Store.of(settings).current("train", DS) is None
