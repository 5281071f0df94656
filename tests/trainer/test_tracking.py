"""A training as MLflow keeps it, in a real store in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Day
from tests.trainer.trained import metrics, model
from trainer.tracking import flat, numbers, tracked
from trainer.train import run


def test_flat() -> None:
    assert dict(flat({"a": {"b": 1, "c": [2, 3]}, "d": None})) == {"a.b": "1", "a.c": "[2, 3]", "d": "None"}


def test_numbers() -> None:
    values = {"stage": "train", "epoch": 1, "step": 9, "loss": 0.5, "steps": 3, "recall@50": 0.25, "none": None}
    assert numbers(values) == {"loss": 0.5, "steps": 3.0, "recall at 50": 0.25}


def test_without_a_place_the_log_is_the_log(day: Day) -> None:
    settings, _ = day()
    with tracked(None, settings, "r", print) as log:
        assert log is print


@pytest.mark.filterwarnings("ignore")  # of MLflow about its own stores
def test_a_run_holds_settings_measures_and_the_model(day: Day, asked: Callable[..., Any], tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; extra 'mlflow'")
    uri = f"sqlite:///{tmp_path}/runs.db"
    settings, _ = day(trainer={"epochs": 2, "mlflow": {"uri": uri, "experiment": "towers"}})
    run(asked(settings))
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("towers").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.encoder"] == "dssm"
    assert found.data.params["trainer.optimizer.lr"] == "0.01"
    assert found.data.tags["model"] == model(settings).facts["model_id"]
    history = client.get_metric_history(found.info.run_id, "recall at 10")
    assert [kept.value for kept in history] == pytest.approx([line["recall@10"] for line in metrics(settings, "epoch")])
