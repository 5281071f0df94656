"""A model that goes on from the day before: what it keeps, what is new, and when it begins cold."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.command import Log, Request
from conf.errors import UsageError
from conf.settings import Settings
from conf.storage import MAIN, Manifest, Store
from tests.trainer.planted import DS, planted_settings, publish, world
from trainer.export import read_model
from trainer.train import run

NEXT = "2026-02-01"
Train = Callable[..., tuple[Manifest, dict[str, Any]]]


def settings(root: Path, **sections: Any) -> Settings:
    # so small a learning rate that what a training begins with can be read from what it ends with
    trainer = {"epochs": 1, "warm_start": True, "optimizer": {"lr": 1e-12}, **sections.pop("trainer", {})}
    return planted_settings(root, vocabulary={"previous_ds": "latest"}, trainer=trainer, **sections)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    runs = count()

    def trained(ds: str, **sections: Any) -> tuple[Manifest, dict[str, Any]]:
        given = settings(tmp_path, **sections)
        run(
            Request("test", given, (), ds, MAIN, f"r{next(runs)}", force=True, break_lock=False, dry_run=False, log=Log("json", run_id="r"))
        )
        store = Store.of(given)
        manifest = store.manifest("model", ds, given)
        return manifest, read_model(next(file for file in store.files_of(manifest) if file.endswith("model.pt")))

    return trained


def two_days(root: Path, *, since: str = "2026-01-01/r0") -> None:
    """Ten more users and eight more items on the second day, in numbers that go on since a run."""
    publish(settings(root), world(), ds=DS, epoch="2026-01-01/r0")
    publish(settings(root), world(users=70, items=88), ds=NEXT, epoch=since)


def test_old_rows_are_kept_and_new_rows_are_fresh(train: Train, tmp_path: Path) -> None:
    two_days(tmp_path)
    learned = {"optimizer": {"lr": 0.01}}
    _, first = train(DS, trainer=learned)
    manifest, second = train(NEXT)
    _, cold = train(NEXT, trainer={"warm_start": False})
    assert manifest.counters["warm_start"] == first["model_id"]
    assert "main/2026-01-31/" in manifest.inputs["model"]
    for name, old in first["weights"].items():
        kept, fresh = second["weights"][name], cold["weights"][name]
        torch.testing.assert_close(kept[: len(old)], old, rtol=0, atol=1e-6)
        torch.testing.assert_close(kept[len(old) :], fresh[len(old) :], rtol=0, atol=1e-6)
        assert old.abs().max() == 0 or not torch.allclose(old, fresh[: len(old)], atol=1e-4), f"{name} has not learned"
    assert [len(second["weights"][f"embed.{name}.weight"]) for name in ("user_id", "item_id", "gender")] == [74, 92, 6]


def test_the_first_day_begins_cold(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_days(tmp_path)
    manifest, _ = train(DS)
    assert manifest.counters["warm_start"] is None
    assert "there is no earlier model" in next(line for line in capsys.readouterr().err.splitlines() if '"cold"' in line)


def test_ids_numbered_anew_begin_cold(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_days(tmp_path, since="2026-02-01/r1")
    train(DS)
    manifest, _ = train(NEXT)
    assert manifest.counters["warm_start"] is None
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"cold"' in line]
    assert lines[-1]["reason"] == "ids are numbered anew"


def test_another_model_is_refused_with_every_difference(train: Train, tmp_path: Path) -> None:
    two_days(tmp_path)
    train(DS)
    with pytest.raises(UsageError) as refused:
        train(NEXT, model={"dim": 8, "hidden": [32, 32], "history": 5, "dropout": 0.0})
    text = str(refused.value)
    assert "embed.item_id.weight was (84, 16), now (92, 8)" in text
    assert "item_tower.4.weight is not in the earlier model" in text
    assert "trainer.warm_start: false" in text


def test_it_needs_ids_that_stay(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set vocabulary\.previous_ds: latest"):
        planted_settings(tmp_path, trainer={"warm_start": True})
