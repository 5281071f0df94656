"""The whole command in one process: what it publishes, and that it learns."""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

from conf.command import Request
from conf.files import hash_file
from conf.settings import Settings
from conf.storage import Store
from tests.trainer.planted import DS, World, planted_settings, publish, world
from tests.trainer.trained import metrics, model, with_trainer
from trainer import diagnostics
from trainer.checkpoints import work_folder
from trainer.deferred import deferred_init, materialize_module
from trainer.export import read_model
from trainer.projection import joint_space
from trainer.train import run

Day = Callable[..., tuple[Settings, World]]
Asked = Callable[..., Request]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm; silenced outside of pytest


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
    (worker,) = manifest.counters["balance"]["workers"]
    assert (worker["rows"], worker["trained"]) == (trained, manifest.counters["steps_per_epoch"] * 48)
    assert manifest.inputs["samples"].startswith("main/2026-01-31/tables ")

    assert shown.out.startswith(f"published train ds={DS} run=r1 ")
    assert len(shown.out.splitlines()) == 1
    counters = manifest.counters
    told = f" epochs=2 best_epoch={counters['best_epoch']} valid_recall@10={counters['recall@10']:.4f} folder={store.folder_of(manifest)}"
    assert shown.out.endswith(f" model={manifest.facts['model_id']}{told}\n")
    events = [json.loads(line)["event"] for line in shown.err.splitlines()]
    assert events == ["begin", "epoch", "epoch", "stage"]
    status = store.read_status("r1")
    assert status is not None
    assert (status["status"], status["exit_code"], status["stages"][0]["stage"]) == ("ok", 0, "train")
    assert not Path(work_folder(store, DS)).exists()

    epochs = metrics(settings, "epoch")
    assert [line["epoch"] for line in epochs] == [0, 1]
    assert {"loss", "logistic.loss", "mic.uv", "mic.uu", "mic.vv", "grad_norm", "recall@10", "steps"} <= set(epochs[0])
    assert {"grad_norm.dense", "grad_norm.tables", "watch.ui_align", "watch.uu_uniform", "watch.ii_uniform", "watch.mic.uv.pos"} <= set(
        epochs[0]
    )
    assert manifest.counters["collapsed_epochs"] == 0
    steps = metrics(settings, "step")
    assert sum(line["step"] == manifest.counters["steps_per_epoch"] * 2 for line in steps) == 1
    assert all("watch.ui_align" in line for line in steps)

    # the same again: nothing to do; forced: the same model to the last digit of its hash
    assert run(asked(settings, "r2")) == 0
    assert capsys.readouterr().out.startswith(f"up to date train ds={DS} run=r1")
    assert run(asked(settings, "r3", force=True)) == 0
    assert model(settings).run_id == "r3"
    assert model(settings).content_hash == manifest.content_hash


def test_a_collapse_is_told(day: Day, asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "COLLAPSED", -7.9)  # so that any model has collapsed
    settings, _ = day(trainer={"epochs": 2})
    run(asked(settings))
    told = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "collapse"]
    assert [(line["epoch"], line["side"]) for line in told] == [(0, "users"), (0, "items"), (1, "users"), (1, "items")]
    assert model(settings).counters["collapsed_epochs"] == 2


def test_petastorm_and_arrow_train_the_same_model(day: Day, asked: Asked) -> None:
    settings, _ = day(trainer={"batches": "petastorm", "epochs": 1})
    run(asked(settings, "r1"))
    by_petastorm = model(settings).content_hash
    run(asked(with_trainer(settings, batches="arrow"), "r2"))
    assert (model(settings).run_id, model(settings).content_hash) == ("r2", by_petastorm)


@pytest.mark.parametrize("tables", ["adam", "rowwise_adagrad", "sparse_adam"])
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


def test_a_training_clips_its_gradients(day: Day, asked: Asked) -> None:
    settings, _ = day(trainer={"epochs": 1, "optimizer": {"lr": 0.01, "clip": 1e-12}})  # far below Adam's eps: nothing moves
    run(asked(settings))
    (still,) = metrics(settings, "epoch")
    run(asked(with_trainer(settings, optimizer={"lr": 0.01}), "r2"))
    (moved,) = metrics(settings, "epoch")
    assert still["loss"] > moved["loss"] + 0.02
    assert still["grad_norm"] > 0.01  # as it was before


def test_negatives_know_the_users_train_items_if_asked(day: Day, asked: Asked) -> None:
    settings, _ = day(trainer={"epochs": 1})
    run(asked(settings, "r1"))
    by_history = model(settings).content_hash
    knowing = settings.model_dump(mode="json")
    knowing["base"]["known_clicks"] = "train"
    settings = Settings.model_validate(knowing)
    run(asked(settings, "r2"))
    assert model(settings).run_id == "r2"
    assert model(settings).content_hash != by_history  # users have more train items than fit in a history


def test_without_validation_rows_the_last_epoch_is_taken(tmp_path: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    settings = planted_settings(tmp_path / "root", trainer={"epochs": 3, "patience": 1})
    publish(settings, world(num_valid=0))
    run(asked(settings))
    assert " epochs=3 best_epoch=none valid_recall@10=none folder=" in capsys.readouterr().out
    counters = model(settings).counters
    assert (counters["epochs"], counters["best_epoch"], counters["recall@10"]) == (3, None, None)
    assert all("recall@10" not in line for line in metrics(settings))


def test_patience_ends_the_training_and_the_best_epoch_is_taken(day: Day, asked: Asked) -> None:
    # a learning rate that destroys what the first epochs learned
    settings, _ = day(objectives={"mic": {}}, trainer={"epochs": 30, "patience": 2, "optimizer": {"lr": 0.3}})
    run(asked(settings))
    recalls = [line["recall@10"] for line in metrics(settings, "epoch")]
    counters = model(settings).counters
    assert counters["epochs"] == len(recalls) < 30
    assert counters["best_epoch"] == int(np.argmax(recalls)) == len(recalls) - 3
    # an equal training that ends with the best epoch has the same weights, those of the joint space among them
    best = model(settings).content_hash
    run(asked(with_trainer(settings, epochs=counters["best_epoch"] + 1), "r2"))
    assert model(settings).content_hash == best


@pytest.mark.parametrize("validated", [True, False])
def test_the_way_into_the_joint_space_is_published_as_trained(validated: bool, tmp_path: Path, asked: Asked) -> None:
    settings = planted_settings(tmp_path / "root", objectives={"mic": {"uu": 0}}, trainer={"epochs": 2})
    publish(settings, world() if validated else world(num_valid=0))
    run(asked(settings))
    store = Store.of(settings)
    joint = read_model(next(file for file in store.files_of(model(settings)) if file.endswith("model.pt")))["joint"]
    fresh = deferred_init(joint_space, "mlp", settings.model.dim)
    materialize_module(fresh, seed=settings.trainer.seed)
    assert set(joint) == set(fresh.state_dict())
    for name, weight in fresh.state_dict().items():
        assert joint[name].shape == weight.shape
    assert not any(torch.equal(joint[f"user.{name}"], joint[f"item.{name}"]) for name in ("0.weight", "2.weight"))
    assert all(joint[f"{side}.2.bias"].abs().max() > 1e-4 for side in ("user", "item"))  # biases begin at 0


class Terminal(io.StringIO):
    """A stderr that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_progress_bar(day: Day, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _ = day(trainer={"epochs": 2})
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.tqdm", partial(tqdm, mininterval=0, miniters=1))  # every step is drawn
    run(asked(settings))
    epochs = metrics(settings, "epoch")
    first, second = (terminal.getvalue().rpartition(f"epoch {number}:")[2] for number in (0, 1))
    assert "25/25 [" in first
    assert f", loss={epochs[0]['loss']:.4f}]" in first
    assert f", loss={epochs[1]['loss']:.4f}, best recall@10={epochs[0]['recall@10']:.4f}]" in second
