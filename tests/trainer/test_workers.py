"""The whole training under horovodrun and torchrun: the same for 1, 2 and 3 workers, and an orderly end when a worker is lost or fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from conf.launchers import LAUNCHERS
from conf.settings import Settings
from conf.storage import Manifest, Store
from tests.trainer.planted import DS, planted_settings, publish, rows_of_tables, world
from trainer.checkpoints import INDEX, work_folder

ROOT = Path(__file__).resolve().parents[2]
HORIZON_S = 60  # a lost worker must have ended the others by then


RANK = {"horovod": "HOROVOD_RANK", "ddp": "RANK"}  # the variable that tells a worker its number
SLOW_DDP = ["horovod", pytest.param("ddp", marks=pytest.mark.slow)]


def settings_of(root: Path, launcher: str = "horovod", **trainer: object) -> Settings:
    if launcher == "horovod":
        pytest.importorskip("horovod.torch", reason="Horovod is not installed; scripts/build_horovod makes it")
    values: dict[str, object] = {"launcher": launcher, "workers": 2, "batches": "petastorm", "epochs": 1}
    return planted_settings(root, trainer=values | trainer, objectives={"mic": {}})


class Launched:
    """A horovodrun or torchrun of trainer.train, and the workers it started."""

    def __init__(
        self, settings: Settings, folder: Path, workers: int, *options: str, script: tuple[str, ...] = ("-m", "trainer.train")
    ) -> None:
        self.config = folder / f"config-{workers}.yaml"
        self.config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        self.launcher = settings.trainer.launcher
        start = [word for word in LAUNCHERS[self.launcher].words(workers) if word not in ("python", "-m", "trainer.train")]
        python = [sys.executable] * (self.launcher == "horovod")  # torchrun starts its own
        command = [*start, *python, *script, "--config", str(self.config), "--ds", DS, *options]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10"}
        self.output = folder / f"output-{workers}.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def workers(self) -> dict[str, psutil.Process]:
        """Rank -> process."""
        found = {}
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if process.name().startswith("python") and "-np" not in words and str(self.config) in words:
                    found[process.environ()[RANK[self.launcher]]] = process
            except (psutil.Error, KeyError):
                continue
        return found

    def wait_for(self, words: str, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def ended(self, timeout_s: float) -> int:
        """The exit code, once the launcher and every worker are gone."""
        deadline = time.monotonic() + timeout_s
        code = self.process.wait(timeout_s)
        while self.workers():
            assert time.monotonic() < deadline, f"left behind: {self.workers()}\n{self.text}"
            time.sleep(0.1)
        return code

    def kill_all(self) -> None:
        for process in (self.process, *self.workers().values()):
            try:
                process.kill()
            except (psutil.Error, OSError):
                continue
        self.process.wait()


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """launch(settings, workers, *options) -> Launched; whatever is left is ended after the test."""
    started: list[Launched] = []

    def start(settings: Settings, workers: int = 2, *options: str, **named: Any) -> Launched:
        started.append(Launched(settings, tmp_path, workers, *options, **named))
        return started[-1]

    yield start
    for launched in started:
        launched.kill_all()


def model_of(settings: Settings, variant: str) -> tuple[Manifest, list[dict[str, Any]]]:
    store = Store.of(settings, variant)
    manifest = store.manifest("model", DS, settings)
    file = next(f for f in store.files_of(manifest) if f.endswith("metrics.jsonl"))
    return manifest, [json.loads(line) for line in Path(file).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "tables"), [("horovod", "adam"), ("horovod", "rowwise_adagrad"), ("ddp", "rowwise_adagrad")])
def test_one_two_and_three_workers_train_alike(tmp_path: Path, launch: Launch, launcher: str, tables: str) -> None:
    settings = settings_of(tmp_path / "root", launcher, optimizer={"lr": 0.01, "tables": tables})
    publish(settings, row_groups=((1, 7, 300), (11,), (500, 2, 400)))  # unequal, fewer than the streams of 3 workers would like
    curves, recalls = {}, {}
    for workers in (1, 2, 3):
        variant = f"w{workers}"
        launched = launch(settings, workers, "--variant", variant, script=(str(Path(__file__).with_name("every_step.py")),))
        assert launched.ended(180) == 0, launched.text
        manifest, lines = model_of(settings, variant)
        assert manifest.counters["workers"] == workers
        curves[workers] = [line for line in lines if line["kind"] == "step"]
        recalls[workers] = [line["recall@10"] for line in lines if line["kind"] == "epoch"]
        assert launched.text.count("published train") == 1
    assert len(curves[1]) == len(curves[2]) == len(curves[3]) >= 20
    for workers in (2, 3):
        for want, got in zip(curves[1], curves[workers], strict=True):
            for name in ("loss", "logistic.loss", "mic.uv", "mic.uu", "mic.vv", "grad_norm"):
                assert got[name] == pytest.approx(want[name], rel=1e-3), (workers, got["step"], name)
        assert recalls[workers] == pytest.approx(recalls[1], abs=0.02)


@pytest.mark.slow
def test_one_two_and_three_workers_mine_alike(tmp_path: Path, launch: Launch) -> None:
    """Weights differ by rounding, and a later search may then prefer another of two neighbours as near: losses are close, not equal."""
    plain = settings_of(tmp_path / "root", epochs=2, optimizer={"lr": 0.01})
    settings = Settings.model_validate(plain.model_dump(mode="json") | {"mining": {"refresh_steps": 10, "clusters": 4}})
    publish(settings, row_groups=((1, 7, 300), (11,), (500, 2, 400)))
    searches, curves = {}, {}
    for workers in (1, 2, 3):
        launched = launch(settings, workers, "--variant", f"w{workers}", script=(str(Path(__file__).with_name("every_step.py")),))
        assert launched.ended(180) == 0, launched.text
        _, lines = model_of(settings, f"w{workers}")
        searches[workers] = [line for line in lines if line["kind"] == "search"]
        curves[workers] = [line for line in lines if line["kind"] == "step"]
    assert len(searches[1]) == 3
    for workers in (2, 3):
        for want, got in zip(searches[1], searches[workers], strict=True):
            assert got["step"] == want["step"]
            for name in ("user.similarity", "item.similarity", "user.with_positive", "item.with_positive"):
                assert got[name] == pytest.approx(want[name], abs=0.02), (workers, name)
        for want, got in zip(curves[1], curves[workers], strict=True):
            # after the second search a change of the learning rate by 1e-7 moves the losses of one worker by 3 % as well
            apart = 1e-3 if got["step"] <= searches[1][1]["step"] else 0.05
            for name in ("loss", "mic.uu", "mic.vv"):
                assert got[name] == pytest.approx(want[name], rel=apart), (workers, got["step"], name)


def killed(
    launch: Launch, tmp_path: Path, launcher: str, do: Callable[[Launched], None], **trainer: object
) -> tuple[Settings, Launched, int]:
    """Start a training that would take minutes, do something to it after its second epoch, and wait for the end."""
    settings = settings_of(tmp_path / "root", launcher, epochs=500, patience=500, **trainer)
    publish(settings)
    launched = launch(settings, 2, "--run-id", "r1")
    launched.wait_for('"epoch": 1,')  # the end of the second epoch: the checkpoint of the first is there
    do(launched)
    code = launched.ended(HORIZON_S)
    store = Store.of(settings)
    assert store.current("train", DS) is None
    assert (Path(work_folder(store, DS)) / INDEX).exists()  # the last checkpoint stands
    return settings, launched, code


@pytest.mark.parametrize("launcher", SLOW_DDP)
def test_a_killed_worker_ends_the_other_and_the_training_resumes(tmp_path: Path, launch: Launch, launcher: str) -> None:
    settings, launched, code = killed(launch, tmp_path, launcher, lambda launched: launched.workers()["1"].kill())
    assert code != 0
    told = "Process name: 1\nExit code: 137" if launcher == "horovod" else "rank      : 1 (local_rank: 1)\n  exitcode  : -9"
    assert told in launched.text
    status = Store.of(settings).read_status("r1")
    assert status is not None
    assert status["status"] != "ok"
    again = launch(settings, 2, "--run-id", "r2", "--resume", "--set", "trainer.epochs=4")  # the dead run's lock is taken over
    assert again.ended(120) == 0, again.text
    assert '"event": "resume"' in again.text
    assert model_of(settings, "main")[0].run_id == "r2"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["horovod", "ddp"])
@pytest.mark.parametrize(
    "do",
    [
        lambda launched: launched.workers()["0"].kill(),
        lambda launched: launched.workers()["1"].send_signal(signal.SIGSTOP),
        lambda launched: launched.process.kill(),
        lambda launched: launched.process.terminate(),
    ],
    ids=["rank 0 killed", "rank 1 hangs", "launcher killed", "launcher terminated"],
)
def test_whatever_is_lost_nothing_stays_behind(tmp_path: Path, launch: Launch, launcher: str, do: Callable[[Launched], None]) -> None:
    assert killed(launch, tmp_path, launcher, do, watchdog_s=20)[2] != 0


@pytest.mark.parametrize("launcher", SLOW_DDP)
def test_a_bad_loss_on_one_worker_stops_all_at_the_same_step(tmp_path: Path, launch: Launch, launcher: str) -> None:
    settings = settings_of(tmp_path / "root", launcher)
    made = world()
    tables = rows_of_tables(made, settings)
    next(row for row in tables["samples"]["samples"] if row["split"] == 0)["weight"] = float("inf")
    publish(settings, made, tables=tables)
    launched = launch(settings)
    assert launched.ended(HORIZON_S) != 0
    dumped = sorted(path.name for path in Path(work_folder(Store.of(settings), DS)).glob("*.dump"))
    steps = {name.split("-")[2] for name in dumped}
    assert len(steps) == 1, launched.text
    assert f"step {steps.pop()}: 1 fault" in launched.text
    assert Store.of(settings).current("train", DS) is None


@pytest.mark.slow
def test_a_file_that_one_worker_cannot_read_ends_all(tmp_path: Path, launch: Launch) -> None:
    settings = settings_of(tmp_path / "root", epochs=500, patience=500)
    publish(settings)
    store = Store.of(settings)
    file = Path(store.files_of(store.manifest("samples", DS, settings))[1])
    launched = launch(settings)
    launched.wait_for('"event": "epoch"')
    size = file.stat().st_size
    file.write_bytes(bytes(size))
    assert launched.ended(HORIZON_S) != 0
    assert f"error[T601] {file}" in launched.text
    assert store.current("train", DS) is None


@pytest.mark.slow
def test_one_message_when_the_inputs_are_not_there(tmp_path: Path, launch: Launch) -> None:
    launched = launch(settings_of(tmp_path / "root"))
    assert launched.ended(HORIZON_S) != 0
    assert launched.text.count("error[T301]") == 1
    assert "Exit code: 3" in launched.text


@pytest.mark.slow
def test_workers_that_cannot_share_the_streams_are_refused(tmp_path: Path, launch: Launch) -> None:
    settings = settings_of(tmp_path / "root", streams=4)
    publish(settings)
    launched = launch(settings, 3)
    assert launched.ended(HORIZON_S) != 0
    assert "3 workers cannot share 4 streams equally" in launched.text
    assert "Exit code: 2" in launched.text
