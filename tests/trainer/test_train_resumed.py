"""A training that was cut goes on as if it had not been; a refit follows the choice of the epoch."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.command import Request
from conf.errors import UsageError
from conf.settings import Settings
from conf.storage import Store
from conf.tables import TRAIN
from tests.trainer.planted import DS, World, planted_settings, publish, rows_of_tables
from tests.trainer.trained import command, metrics, model, with_trainer
from trainer import fit
from trainer.checkpoints import INDEX, work_folder
from trainer.loop import Loop
from trainer.train import run

Day = Callable[..., tuple[Settings, World]]
Asked = Callable[..., Request]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm; silenced outside of pytest


def test_refit_trains_anew_on_train_and_valid_for_the_chosen_epochs(tmp_path: Path, asked: Asked) -> None:
    settings = planted_settings(tmp_path / "refit", split={"refit": True}, trainer={"epochs": 3})
    made = publish(settings)
    run(asked(settings))
    counters = model(settings).counters
    assert counters["refit_rows"] == sum(map(len, made.clicks)) == counters["train_rows"] + counters["valid_rows"]
    epochs = counters["best_epoch"] + 1
    assert [line["epoch"] for line in metrics(settings, "refit_epoch")] == list(range(epochs))
    # the same clicks, all of them given as train rows, for as many epochs
    plain = planted_settings(tmp_path / "plain", trainer={"epochs": epochs})
    tables = rows_of_tables(made, plain)
    for row in tables["samples"]["samples"]:
        row["split"] = TRAIN
    publish(plain, made, tables=tables)
    run(asked(plain))
    assert model(plain).content_hash == model(settings).content_hash
    assert model(plain).counters["refit_rows"] == 0


def test_a_refit_that_was_cut_resumes_with_the_same_model(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = (planted_settings(tmp_path / name, split={"refit": True}) for name in ("whole", "cut"))
    for settings in (whole, cut):
        publish(settings)
    run(asked(whole))
    step, taken = Loop.step, []

    def fails_in_refit(self: Loop, *given: Any, **watch: Any) -> Any:
        taken.append(given)
        if len(taken) == 2 * steps + 3:  # the first epochs are two
            raise RuntimeError("cut")
        return step(self, *given, **watch)

    steps = model(whole).counters["steps_per_epoch"]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", fails_in_refit)
        with pytest.raises(RuntimeError, match="cut"):
            run(asked(cut, "r1"))
    run(asked(cut, "r2"), resume=True)
    assert model(cut).content_hash == model(whole).content_hash


def kill_at(settings: Settings, folder: Path, saves: int) -> dict[str, int]:
    """Train in another process, kill -9 it after so many checkpoints; the epoch and step of the last one."""
    index = Path(work_folder(Store.of(settings), DS)) / INDEX
    process = subprocess.Popen(command(settings, folder), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seen: set[str] = set()
    while len(seen) < saves:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
        if index.exists():
            seen.add(json.loads(index.read_text())["kept"][0]["state"]["name"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = index.parent / json.loads(index.read_text())["kept"][0]["state"]["name"]
    progress: dict[str, int] = torch.load(newest, weights_only=True)["progress"]
    return progress


def epochs_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs, without what is watched at every LOG_STEPS only: the process that is killed has another one."""
    return [{k: v for k, v in line.items() if not k.startswith("watch.")} for line in lines if line["kind"] == "epoch"]


@pytest.mark.parametrize("saves", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_a_killed_training_resumes_with_the_same_losses(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, saves: int) -> None:
    monkeypatch.setattr(fit, "LOG_STEPS", 1)  # a line for every step
    values: dict[str, object] = {"epochs": 3, "checkpoint_steps": 5, "batch": 24}
    whole = planted_settings(tmp_path / "whole", trainer=values, model={"dim": 16, "hidden": [32], "history": 5, "dropout": 0.3})
    publish(whole)
    run(asked(whole))

    cut = Settings.model_validate(whole.model_dump(mode="json") | {"storage": {"root": str(tmp_path / "cut")}})
    publish(cut)
    progress = kill_at(cut, tmp_path, saves)
    assert progress["epoch"] < 3
    assert Store.of(cut).current("train", DS) is None
    # resumed with the other source, and the lock of the dead process taken over
    run(asked(with_trainer(cut, batches="petastorm"), "r2"), resume=True)
    assert model(cut).content_hash == model(whole).content_hash
    before, after = metrics(whole), metrics(cut)
    assert epochs_of(after) == epochs_of(before)
    # the killed process wrote one line for 50 steps; from the checkpoint on there is one for every step again
    later = {line["step"]: line["loss"] for line in after if line["kind"] == "step"}
    done = progress["epoch"] * max(line["step"] for line in before) // 3 + progress["step"]
    assert all(later[line["step"]] == line["loss"] for line in before if line["kind"] == "step" and line["step"] > done + 50)


ROOT = Path(__file__).resolve().parents[2]
MINING: dict[str, object] = {"refresh_steps": 7, "clusters": 4, "min_similarity": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("mining", [None, MINING], ids=["plain", "mined"])
@pytest.mark.parametrize("seed", range(2))
def test_a_training_killed_before_a_random_step_resumes_bit_for_bit(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, seed: int, mining: dict[str, object] | None
) -> None:
    """Weights, and every line of the metrics, are those of a training that nobody killed."""
    monkeypatch.setattr(fit, "LOG_STEPS", 1)
    model_values: dict[str, object] = {"dim": 16, "hidden": [32], "history": 5, "dropout": 0.3}
    given = planted_settings(tmp_path / "whole", trainer={"epochs": 3, "checkpoint_steps": 5}, objectives={"mic": {}}, model=model_values)
    whole = Settings.model_validate(given.model_dump(mode="json") | {"mining": mining})
    cut = Settings.model_validate(whole.model_dump(mode="json") | {"storage": {"root": str(tmp_path / "cut")}})
    for settings in (whole, cut):
        publish(settings)
    run(asked(whole))
    steps = model(whole).counters["steps_per_epoch"]
    inside = [step for step in range(steps, 3 * steps) if step % steps]  # the first search is that of the second epoch
    killed_at = random.Random(seed).choice(inside)
    words = command(cut, tmp_path)
    words[1:3] = [str(Path(__file__).with_name("killed_at.py"))]
    environment = os.environ | {"KILL_AT": str(killed_at), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert Store.of(cut).current("train", DS) is None
    run(asked(cut, "r2"), resume=True)
    assert model(cut).content_hash == model(whole).content_hash, killed_at
    assert metrics(cut) == metrics(whole), killed_at


def test_resume_without_a_checkpoint_begins_anew(day: Day, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    settings, _ = day(trainer={"epochs": 1})
    assert run(asked(settings), resume=True) == 0
    assert "beginning anew" in capsys.readouterr().err


def test_resume_after_the_last_epoch_only_publishes(day: Day, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = day()
    with monkeypatch.context() as patch:
        patch.setattr("trainer.publish.write_torch", failing(OSError("gone")))
        with pytest.raises(OSError, match="gone"):
            run(asked(settings, "r1"))
    assert Store.of(settings).current("train", DS) is None
    lines = len(json.loads((Path(work_folder(Store.of(settings), DS)) / INDEX).read_text())["kept"])
    assert lines == 2
    monkeypatch.setattr("trainer.loop.Loop.step", failing(AssertionError("no step is left to take")))
    run(asked(settings, "r2"), resume=True)
    assert model(settings).run_id == "r2"
    assert len(metrics(settings, "epoch")) == 2


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def test_resume_with_other_settings_is_refused(day: Day, asked: Asked, tmp_path: Path) -> None:
    settings, _ = day(trainer={"checkpoint_steps": 2})
    kill_at(settings, tmp_path, 1)
    with pytest.raises(UsageError, match="other settings or inputs"):
        run(asked(with_trainer(settings, seed=9)), resume=True)
