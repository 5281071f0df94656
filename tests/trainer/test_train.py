"""The whole command in one process: what it publishes, that it learns, that it resumes, and how it ends when it cannot go on."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conf.command import Request
from conf.errors import BadDataError, LockedError, NotReadyError, TrainingError, UsageError
from conf.files import hash_file
from conf.settings import Settings, load
from conf.storage import Manifest, Store
from conf.tables import TRAIN
from tests.trainer.planted import DS, World, planted_settings, publish, rows_of_tables, world
from trainer import fit
from trainer.checkpoints import INDEX, work_folder
from trainer.loop import Loop
from trainer.train import run, start_backend

Day = Callable[..., tuple[Settings, World]]
Asked = Callable[..., Request]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm; silenced outside of pytest


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def model(settings: Settings) -> Manifest:
    return Store.of(settings).manifest("model", DS, settings)


def metrics(settings: Settings, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    store = Store.of(settings)
    file = next(f for f in store.files_of(model(settings)) if f.endswith("metrics.jsonl"))
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_s"} for line in lines if kind in (None, line["kind"])]


def with_trainer(settings: Settings, **values: object) -> Settings:
    data = settings.model_dump(mode="json")
    data["trainer"] |= values
    return Settings.model_validate(data)


def popularity_recall(made: World, at: int) -> float:
    """Recall of the items most clicked in train."""
    counts = np.zeros(len(made.item_topic))
    for clicks in made.clicks:
        np.add.at(counts, clicks[: -made.num_valid], 1)
    best = set(np.argsort(-counts[1:], kind="stable")[:at] + 1)
    return float(np.mean([len(best & set(clicks[-2:])) / len(set(clicks[-2:])) for clicks in made.clicks]))


# ---- what it publishes -----------------------------------------------------------------------------------------------


def test_a_training_publishes_a_model(day: Day, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    settings, made = day(objectives={"mic": {}})
    assert run(asked(settings, "r1")) == 0
    shown = capsys.readouterr()
    manifest, store = model(settings), Store.of(settings)
    assert [f.name for f in manifest.files] == ["metrics.jsonl", "model.pt"]
    for entry in manifest.files:
        assert hash_file(store.fs, f"{store.folder_of(manifest)}/{entry.name}") == (entry.bytes, entry.sha256)
    assert manifest.content_hash == f"0:{manifest.facts['model_id'].removeprefix('dssm-')}"
    assert manifest.facts["has_clock"] is False  # facts of the inputs travel on
    trained = sum(len(clicks) - 2 for clicks in made.clicks)
    assert manifest.counters["train_rows"] == trained
    assert manifest.counters["dropped_rows_per_epoch"] == trained - manifest.counters["steps_per_epoch"] * 48
    assert manifest.inputs["samples"].startswith("main/2026-01-31/tables ")

    assert shown.out.startswith(f"published train ds={DS} run=r1 ")
    assert len(shown.out.splitlines()) == 1
    events = [json.loads(line)["event"] for line in shown.err.splitlines()]
    assert events == ["begin", "epoch", "epoch", "stage"]
    status = store.read_status("r1")
    assert status is not None
    assert (status["status"], status["exit_code"], status["stages"][0]["stage"]) == ("ok", 0, "train")
    assert not Path(work_folder(store, DS)).exists()

    epochs = metrics(settings, "epoch")
    assert [line["epoch"] for line in epochs] == [0, 1]
    assert {"loss", "logistic.loss", "mic.uv", "mic.uu", "mic.vv", "grad_norm", "recall@10", "steps"} <= set(epochs[0])
    steps = metrics(settings, "step")
    assert sum(line["step"] == manifest.counters["steps_per_epoch"] * 2 for line in steps) == 1

    # the same again: nothing to do; forced: the same model to the last digit of its hash
    assert run(asked(settings, "r2")) == 0
    assert capsys.readouterr().out.startswith(f"up to date train ds={DS} run=r1")
    assert run(asked(settings, "r3", force=True)) == 0
    assert model(settings).run_id == "r3"
    assert model(settings).content_hash == manifest.content_hash


def test_petastorm_and_arrow_train_the_same_model(day: Day, asked: Asked) -> None:
    settings, _ = day(trainer={"batches": "petastorm", "epochs": 1})
    run(asked(settings, "r1"))
    by_petastorm = model(settings).content_hash
    run(asked(with_trainer(settings, batches="arrow"), "r2"))
    assert (model(settings).run_id, model(settings).content_hash) == ("r2", by_petastorm)


@pytest.mark.parametrize("tables", ["adam", "rowwise_adagrad"])
def test_planted_tastes_are_learned(day: Day, asked: Asked, tables: str) -> None:
    trainer = {"epochs": 6, "valid_at": 20, "optimizer": {"lr": 0.01, "tables": tables}}
    settings, made = day(trainer=trainer, objectives={"mic": {}}, channels={"seen": "none"})
    run(asked(settings))
    best = model(settings).counters["recall@20"]
    # a topic has 20 of the 80 items and nine tenths of its users' clicks: an oracle reaches 0.9 with 20 guesses, popularity about 0.3
    assert popularity_recall(made, 20) < 0.4
    assert best > 0.75
    losses = [line["loss"] for line in metrics(settings, "epoch")]
    assert losses[-1] < losses[0]


def test_without_validation_rows_the_last_epoch_is_taken(tmp_path: Path, asked: Asked) -> None:
    settings = planted_settings(tmp_path / "root", trainer={"epochs": 3, "patience": 1})
    publish(settings, world(num_valid=0))
    run(asked(settings))
    counters = model(settings).counters
    assert (counters["epochs"], counters["best_epoch"], counters["recall@10"]) == (3, None, None)
    assert all("recall@10" not in line for line in metrics(settings))


def test_patience_ends_the_training_and_the_best_epoch_is_taken(day: Day, asked: Asked) -> None:
    # a learning rate that destroys what the first epochs learned
    settings, _ = day(trainer={"epochs": 30, "patience": 2, "optimizer": {"lr": 0.3}})
    run(asked(settings))
    recalls = [line["recall@10"] for line in metrics(settings, "epoch")]
    counters = model(settings).counters
    assert counters["epochs"] == len(recalls) < 30
    assert counters["best_epoch"] == int(np.argmax(recalls)) == len(recalls) - 3
    # an equal training that ends with the best epoch has the same weights
    best = model(settings).content_hash
    run(asked(with_trainer(settings, epochs=counters["best_epoch"] + 1), "r2"))
    assert model(settings).content_hash == best


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

    def fails_in_refit(self: Loop, *given: Any) -> Any:
        taken.append(given)
        if len(taken) == 2 * steps + 3:  # the first epochs are two
            raise RuntimeError("cut")
        return step(self, *given)

    steps = model(whole).counters["steps_per_epoch"]
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", fails_in_refit)
        with pytest.raises(RuntimeError, match="cut"):
            run(asked(cut, "r1"))
    run(asked(cut, "r2"), resume=True)
    assert model(cut).content_hash == model(whole).content_hash


class Terminal(io.StringIO):
    """A stderr that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_progress_bar(day: Day, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = day(trainer={"epochs": 1})
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run(asked(settings))
    assert "epoch 0:" in terminal.getvalue()
    assert "/25 [" in terminal.getvalue()


# ---- resuming --------------------------------------------------------------------------------------------------------


def command(settings: Settings, folder: Path, *options: str) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return [sys.executable, "-m", "trainer.train", "--config", str(config), "--ds", DS, *options]


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


@pytest.mark.parametrize("saves", [1, 6])
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
    assert [line for line in after if line["kind"] == "epoch"] == [line for line in before if line["kind"] == "epoch"]
    # the killed process wrote one line for 50 steps; from the checkpoint on there is one for every step again
    later = {line["step"]: line["loss"] for line in after if line["kind"] == "step"}
    done = progress["epoch"] * max(line["step"] for line in before) // 3 + progress["step"]
    assert all(later[line["step"]] == line["loss"] for line in before if line["kind"] == "step" and line["step"] > done + 50)


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


# ---- when it cannot go on --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path, asked: Asked) -> None:
    settings = planted_settings(tmp_path / "root", trainer={"checkpoint_steps": 1})
    made = world()
    tables = rows_of_tables(made, settings)
    bad = next(row for row in tables["samples"]["samples"] if row["split"] == 0)
    bad["weight"] = float("inf")
    publish(settings, made, tables=tables)
    with pytest.raises(TrainingError, match="not finite") as caught:
        run(asked(settings, "r1"))
    assert caught.value.exit_code == 7
    store = Store.of(settings)
    assert store.current("train", DS) is None
    status = store.read_status("r1")
    assert status is not None
    assert (status["status"], status["exit_code"]) == ("failed", 7)
    work = Path(work_folder(store, DS))
    number = int(caught.value.where.removeprefix("step "))
    dumped = torch.load(work / f"bad-step-{number}-rank-0.dump", weights_only=True)
    assert bad["sample_id"] in dumped["batch"]["sample_id"].tolist()
    # the last good checkpoint: all steps before this one, every weight finite
    kept = torch.load(work / json.loads((work / INDEX).read_text())["kept"][0]["state"]["name"], weights_only=True)
    assert kept["progress"]["step"] == number
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["model"]["encoder"].values())


def test_a_batch_larger_than_the_data_is_a_setting_to_mend(day: Day, asked: Asked) -> None:
    settings, _ = day(trainer={"batch": 6000})
    with pytest.raises(UsageError, match="only 1200 train rows"):
        run(asked(settings))


def test_missing_tables_are_named(tmp_path: Path, asked: Asked) -> None:
    with pytest.raises(NotReadyError, match="vocab_tags") as caught:
        run(asked(planted_settings(tmp_path / "root")))
    assert caught.value.exit_code == 3


def test_a_second_training_of_the_day_is_locked_out(day: Day, asked: Asked) -> None:
    settings, _ = day()
    with Store.of(settings).publication("train", DS, "other", settings), pytest.raises(LockedError) as caught:
        run(asked(settings))
    assert caught.value.exit_code == 5


def test_a_damaged_table_is_named_and_nothing_is_published(day: Day, asked: Asked) -> None:
    settings, _ = day()
    store = Store.of(settings)
    file = Path(store.files_of(store.manifest("item_feat", DS, settings))[0])
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(BadDataError, match="cannot be read"):
        run(asked(settings))
    assert store.current("train", DS) is None


def test_a_launcher_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    with pytest.raises(UsageError, match="started by horovodrun with 2 workers"):
        start_backend("single")


def test_dry_run_prints_the_plan_and_changes_nothing(day: Day, tmp_path: Path) -> None:
    settings, made = day(trainer={"launcher": "horovod", "workers": 3}, objectives={"mic": {"uu": 0.5}})
    before = sorted(str(p) for p in (tmp_path / "root").rglob("*"))
    done = subprocess.run(command(settings, tmp_path, "--dry-run"), capture_output=True, text=True, check=True)
    trained = sum(len(clicks) - 2 for clicks in made.clicks)
    assert done.stdout.splitlines()[0].startswith("horovodrun -np 3 --gloo python -m trainer.train --config ")
    assert "losses: 0.7 logistic + 0.3 mic (uv 1, uu 0.5, vv 1)" in done.stdout
    assert f"rows: {trained} train, 120 valid" in done.stdout
    assert f"steps: {trained // 6 // 8} an epoch of 48 rows" in done.stdout
    assert "workers: 3, each 16 rows a step" in done.stdout
    assert "embed.item_id.weight: 84 x 16" in done.stdout
    assert sorted(str(p) for p in (tmp_path / "root").rglob("*")) == before


def test_the_plan_of_tables_that_are_not_there(tmp_path: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(asked(planted_settings(tmp_path / "root", trainer={"launcher": "horovod"}), dry_run=True)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("horovodrun -np 1 --gloo python -m trainer.train ")
    assert "table samples is not there yet" in shown


def test_production_is_planned_where_its_root_cannot_be_reached(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load("production")
    assert run(asked(settings, dry_run=True)) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"horovodrun -np {settings.trainer.workers} --gloo python -m trainer.train ")
    assert "not known" in shown


def test_the_command_is_quiet_and_prints_no_library_warnings(day: Day, tmp_path: Path) -> None:
    settings, _ = day(trainer={"batches": "petastorm", "epochs": 1})
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    done = subprocess.run(command(settings, tmp_path, "--run-id", "r1"), capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("published train ")
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["begin", "epoch", "stage"]
