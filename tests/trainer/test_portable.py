"""The towers as files for other runtimes give what the encoder gives, for any number of rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conf.errors import UsageError
from tests.trainer import tiny
from tests.trainer.conftest import Day
from trainer.encoders import ENCODERS, Encoder
from trainer.portable import export_day, towers_of, write
from trainer.train import run

Run = Callable[..., Tensor]

each_encoder = pytest.mark.parametrize(
    "name", [name if name == "dssm" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(ENCODERS)]
)


def written(name: str, folder: Path, kind: str) -> tuple[Encoder, list[Path]]:
    encoder = tiny.encoder(tiny.settings(tiny.by_encoder(name))).eval()
    fields = {key[5:]: None if ids.dim() == 1 else ids.shape[1] for key, ids in tiny.batch().items() if key.startswith("user.")}
    return encoder, write(towers_of(encoder, history=tiny.LENGTH, fields=fields), folder, kind)


def compare(encoder: Encoder, user: Run, item: Run) -> None:
    for num in (1, 2, 13):
        rows = tiny.rows_of(tiny.batch(), list(range(num)))
        given = {key.removeprefix("user."): ids for key, ids in rows.items() if key in ("hist", "hist_len") or key.startswith("user.")}
        with torch.no_grad():
            torch.testing.assert_close(user(**given), encoder.user(rows), rtol=0, atol=1e-5)
            torch.testing.assert_close(item(item_idx=rows["item_idx"]), encoder.item(rows["item_idx"]), rtol=0, atol=1e-5)


@each_encoder
@pytest.mark.filterwarnings("ignore")  # of torch's tracer, which will not have it that shapes are known
def test_torchscript(name: str, tmp_path: Path) -> None:
    encoder, files = written(name, tmp_path, "torchscript")

    def of(file: Path) -> Run:
        tower = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
        return lambda **given: tower(*given.values())

    compare(encoder, *map(of, files))


@each_encoder
@pytest.mark.filterwarnings("ignore")  # of torch's exporter
def test_onnx(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX is not installed; extra 'export'")
    pytest.importorskip("onnxscript", reason="ONNX is not installed; extra 'export'")
    encoder, files = written(name, tmp_path, "onnx")

    def of(file: Path) -> Run:
        session: Any = runtime.InferenceSession(str(file))
        return lambda **given: torch.from_numpy(session.run(None, {key: ids.numpy() for key, ids in given.items()})[0])

    compare(encoder, *map(of, files))


@pytest.mark.filterwarnings("ignore")
def test_the_model_of_a_day(day: Day, asked: Callable[..., Any], tmp_path: Path) -> None:
    settings, _ = day(trainer={"epochs": 1})
    run(asked(settings))
    files = export_day(asked(settings), "torchscript", tmp_path / "out")
    assert [file.name for file in files] == ["user.pt", "item.pt"]
    item = torch.jit.load(str(files[1]))  # type: ignore[no-untyped-call]
    assert item(torch.arange(1, 81)).shape == (80, 16)


def test_unknown_format(day: Day, asked: Callable[..., Any], tmp_path: Path) -> None:
    settings, _ = day()
    with pytest.raises(UsageError, match="unknown format 'pmml'   known: onnx, torchscript"):
        export_day(asked(settings), "pmml", tmp_path)
