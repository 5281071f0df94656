"""The whole training cut and taken up by as many workers and by others, with tables divided over the workers and with whole ones."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conf.command import Request
from conf.launchers import LAUNCHERS
from conf.settings import Settings
from conf.storage import Store
from tests.trainer.planted import planted_settings, publish
from tests.trainer.trained import command, model
from trainer.export import read_model
from trainer.loop import Loop
from trainer.train import run

Asked = Callable[..., Request]
ROOT = Path(__file__).resolve().parents[2]
FIELDS = ["user_id", "item_id", "tags"]


def settings_of(root: Path, **trainer: object) -> Settings:
    values: dict[str, object] = {"optimizer": {"lr": 0.01, "tables": "rowwise_adagrad"}, "sharded_tables": FIELDS, "checkpoint_steps": 5}
    return planted_settings(root, trainer=values | {"epochs": 1, **trainer}, objectives={"mic": {}})


def weights(settings: Settings, variant: str = "main") -> dict[str, Tensor]:
    files = Store.of(settings, variant).files_of(model(settings, variant))
    return dict(read_model(next(file for file in files if file.endswith("model.pt")))["weights"])


def assert_alike(got: dict[str, Tensor], want: dict[str, Tensor], atol: float) -> None:
    assert got.keys() == want.keys()
    for name, values in want.items():
        torch.testing.assert_close(got[name], values, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def test_one_worker_cuts_and_publishes_tables_whole(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, whole, cut = (
        settings_of(tmp_path / name, **({"sharded_tables": []} if name == "plain" else {})) for name in ("plain", "whole", "cut")
    )
    for settings in (plain, whole, cut):
        publish(settings)
    for settings in (plain, whole):
        run(asked(settings))
    assert_alike(weights(whole), weights(plain), 1e-4)
    step = Loop.step

    def fails(self: Loop, batch: Any, number: int, **watch: Any) -> Any:
        if number == 12:
            raise RuntimeError("cut")
        return step(self, batch, number, **watch)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", fails)
        with pytest.raises(RuntimeError, match="cut"):
            run(asked(cut, "r1"))
    run(asked(cut, "r2"), resume=True)
    assert_alike(weights(cut), weights(whole), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "sharded"), [("ddp", FIELDS), ("horovod", FIELDS), ("horovod", [])], ids=["ddp", "horovod", "whole"])
def test_workers_cut_and_go_on_with_another_number(tmp_path: Path, launcher: str, sharded: list[str]) -> None:
    """A checkpoint of one number of workers serves another, with tables divided over them and with whole ones."""
    if launcher == "horovod":
        pytest.importorskip("horovod.torch", reason="Horovod is not installed; scripts/build_horovod makes it")
    settings = settings_of(tmp_path / "root", launcher=launcher, workers=2, sharded_tables=sharded)
    publish(settings)
    assert train(settings, tmp_path, launcher, 2, "uncut") == 0
    uncut = weights(settings, "uncut")
    cut = str(Path(__file__).with_name("cut_step.py"))
    for before, after, atol in ((2, 2, 0), (2, 3, 1e-3), (2, 1, 1e-3), (1, 2, 1e-3)):
        variant = f"from{before}to{after}"
        assert train(settings, tmp_path, launcher, before, variant, script=(cut,)) != 0
        assert train(settings, tmp_path, launcher, after, variant, "--resume") == 0
        assert_alike(weights(settings, variant), uncut, atol)


def train(
    settings: Settings,
    folder: Path,
    launcher: str,
    workers: int,
    variant: str,
    *options: str,
    script: tuple[str, ...] = ("-m", "trainer.train"),
) -> int:
    """The exit code."""
    start = [word for word in LAUNCHERS[launcher].words(workers) if word not in ("python", "-m", "trainer.train")]
    asked = command(settings, folder / variant, "--variant", variant, *options)[3:]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    python = [sys.executable] * (launcher == "horovod")  # torchrun starts its own
    done = subprocess.run(
        [*start, *python, *script, *asked], cwd=ROOT, env=environment | {"CUT_BEFORE": "12"}, capture_output=True, timeout=300, check=False
    )
    return done.returncode
