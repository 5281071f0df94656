"""How a training ends that cannot go on, and what it says before it begins."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conf.command import Request
from conf.errors import BadDataError, LockedError, NotReadyError, TrainingError, UsageError
from conf.settings import Settings, load
from conf.storage import Store
from tests.trainer import tiny
from tests.trainer.planted import DS, World, planted_settings, publish, rows_of_tables, world
from tests.trainer.trained import command
from trainer.checkpoints import INDEX, work_folder
from trainer.encoders import build_encoder
from trainer.plan import memory
from trainer.process import start_backend
from trainer.train import run

Day = Callable[..., tuple[Settings, World]]
Asked = Callable[..., Request]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # Petastorm; silenced outside of pytest


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


@pytest.mark.parametrize(
    ("launcher", "variable", "told"),
    [
        ("single", "HOROVOD_SIZE", "started by horovodrun with 2 workers   set trainer.launcher: horovod"),
        ("single", "WORLD_SIZE", "started by torchrun with 2 workers   set trainer.launcher: ddp"),
        ("horovod", "WORLD_SIZE", "started by torchrun with 2 workers   set trainer.launcher: ddp"),
        ("spark-torch", "HOROVOD_SIZE", "trainer.launcher is spark-torch   started by horovodrun"),
        ("ddp", "NO_MATTER", "trainer.launcher is ddp   started by plain Python   start it by trichannel train or torchrun"),
    ],
)
def test_a_launcher_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, launcher: str, variable: str, told: str) -> None:
    for name in ("HOROVOD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "2")
    with pytest.raises(UsageError, match=told):
        start_backend(launcher, torch.device("cpu"))


def test_one_process_is_one_process_whoever_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")  # as some clusters set it for every job
    assert start_backend("single", torch.device("cpu")).size == 1


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


@pytest.mark.parametrize(
    ("tables", "extra", "how"),
    [("adam", 3 * 16, "Adam and gradient"), ("rowwise_adagrad", 1, "row-wise Adagrad"), ("sparse_adam", 2 * 16, "SparseAdam")],
)
def test_the_plan_counts_what_an_optimiser_keeps_of_a_table(tables: str, extra: int, how: str) -> None:
    given = tiny.settings({"model.dim": 16, "trainer.optimizer": {"tables": tables}})
    encoder = build_encoder(given, given.registry(), tiny.catalogue(given), {**tiny.VOCAB, "item_id": 2**17})
    (line,) = (line for line in memory(encoder, given) if "embed.item_id" in line)
    assert line == f"  embed.item_id.weight: 131072 x 16, weights 8.0 MB, {how} {extra / 2:.1f} MB"


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
