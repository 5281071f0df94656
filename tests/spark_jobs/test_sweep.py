"""A study of real trainings on planted tables: it varies what it should, goes on after a kill, and touches nobody else's model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.command import Log, Request
from conf.errors import SettingsError, UsageError
from conf.settings import load
from conf.storage import MAIN, Store
from spark_jobs.sweep import Choices, Range, read_space, sweep, table
from tests.trainer.planted import DS, planted_settings, publish

optuna = pytest.importorskip("optuna", reason="Optuna is not installed; extra 'sweep'")


def asked(folder: Path, **sections: Any) -> Request:
    given = planted_settings(folder / "root", trainer={"epochs": 1}, **sections)
    config = folder / "day.yaml"
    config.write_text(yaml.safe_dump(given.model_dump(mode="json")))
    return Request(str(config), load(str(config)), (), DS, MAIN, "r1", force=False, break_lock=False, dry_run=False, log=Log("json"))


def space_of(folder: Path, text: str) -> str:
    file = folder / "space.yaml"
    file.write_text(text)
    return str(file)


def test_space(tmp_path: Path) -> None:
    file = space_of(tmp_path, "trainer.optimizer.lr: {low: 0.001, high: 0.1, log: true}\nmodel.dim: [8, 16]\n")
    assert read_space(file, asked(tmp_path)) == {"trainer.optimizer.lr": Range(0.001, 0.1, log=True), "model.dim": Choices((8, 16))}


def test_every_fault_of_a_space_at_once(tmp_path: Path) -> None:
    wrong = ["model.history: [5, 10]", "trainer.optimizer.lrr: [0.1]", "model.dim: {low: 9, high: 3}", "model.dropout: 0.1"]
    text = "\n".join([*wrong, "report.sample_users: [1, 2]"])
    with pytest.raises(SettingsError) as refused:
        read_space(space_of(tmp_path, text), asked(tmp_path))
    text = str(refused.value)
    assert "model.history: shapes what job samples makes" in text
    assert "lrr" in text
    assert "low 9 and high 3 are not two numbers in that order" in text
    assert "model.dropout: found 0.1; want a list of values" in text
    assert "report.sample_users: has no part in the training" in text
    assert len(refused.value.faults) == 5


@pytest.mark.slow  # each trial is a process of its own
def test_a_study_trains_compares_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    day = asked(tmp_path)
    publish(day.settings)
    space = read_space(space_of(tmp_path, "trainer.optimizer.lr: [0.000001, 0.02]\nmodel.hidden: [[32], [16, 16]]\n"), day)
    assert sweep(day, space, name="first", trials=3) == 0
    out = capfd.readouterr().out
    assert len(out.splitlines()) == 5
    assert "best trial=" in out
    assert "lr=0.02" in out.splitlines()[1] or "lr=1.0e-06" in out
    assert Store.of(day.settings).current("train", DS) is None  # production's model is not touched
    journal = tmp_path / "root" / "_sweeps" / "first.journal"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=f"first {DS}", storage=storage)
    study.ask({"trainer.optimizer.lr": optuna.distributions.CategoricalDistribution([0, 1])})  # as a kill would leave it: begun, never told
    sweep(day, space, name="first", trials=4)
    lines = capfd.readouterr().out.splitlines()
    assert sum(line.split()[0] == "fail" for line in lines) == 1
    assert sum(line.lstrip()[0].isdigit() for line in lines) == 4
    sweep(day, space, name="first", trials=4)  # nothing left to do
    assert capfd.readouterr().out.splitlines() == lines


def test_table_puts_the_best_first_and_says_why_a_trial_has_no_result() -> None:
    rows = [
        (0.1, 0, "complete", {"set": "model.dim=8", "seconds": 3.0}),
        (None, 1, "pruned", {"set": "model.dim=5", "why": "heads do not divide it"}),
        (0.25, 2, "complete", {"set": "model.dim=16", "seconds": 4.0}),
    ]
    assert table(rows, at=50).splitlines() == [
        "recall@50   trial  seconds  settings",
        "    0.2500      2      4.0  model.dim=16",
        "    0.1000      0      3.0  model.dim=8",
        "    pruned      1           model.dim=5   (heads do not divide it)",
        "best trial=2 recall@50=0.2500 --set model.dim=16",
    ]


def test_it_has_variants_of_its_own(tmp_path: Path) -> None:
    from dataclasses import replace

    day = replace(asked(tmp_path), variant="other")
    with pytest.raises(UsageError, match="every trial has a variant of its own"):
        sweep(day, {"model.dim": Choices((8,))}, name="s", trials=1)
