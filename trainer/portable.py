"""The two towers as files for other runtimes, ONNX or TorchScript, with the features of the day's items inside.

user.onnx, item.onnx (or .pt): inputs and outputs as of `UserTower` and `ItemTower`, any number of rows. Vectors are in encoder space,
not normalised: what compares by cosine must do that.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from conf.command import Request
from conf.errors import Fault, UsageError
from trainer.catalogue import padded
from trainer.encoders import Encoder
from trainer.export import load
from trainer.tables import read_table

_ROWS = 127  # of the example that a tower is traced with: no other size is that, or torch takes it for the same one; files take any number


class UserTower(nn.Module):
    """hist int64[B, L] (item_idx, oldest first, 0 at the end), hist_len int64[B], then each user field -> float32[B, K, D].

    A field is int64[B], or int64[B, M] where it is multi-valued: ids of its vocabulary.
    """

    def __init__(self, encoder: Encoder, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.fields = encoder, fields

    def forward(self, hist: Tensor, hist_len: Tensor, *fields: Tensor) -> Tensor:
        """See the class."""
        given = {f"user.{name}": ids for name, ids in zip(self.fields, fields, strict=True)}
        return self.encoder.user({"hist": hist, "hist_len": hist_len, **given})


class ItemTower(nn.Module):
    """item_idx int64[n] -> float32[n, D]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, item_idx: Tensor) -> Tensor:
        """See the class."""
        return self.encoder.item(item_idx)


Towers = Mapping[str, tuple[nn.Module, Mapping[str, Tensor], str]]
"""name -> (module, example inputs by name, name of the output)"""


def export_day(asked: Request, kind: str, folder: Path) -> list[Path]:
    """Write the towers of the day's current model, for the items of its day; returns the files.

    Raises:
        UsageError: unknown kind, or ONNX is not installed. NotReadyError: no model is committed for the day.
    """
    if kind not in KINDS:
        raise UsageError("--format", [Fault(f"unknown format {kind!r}", f"known: {', '.join(KINDS)}")])
    files = {
        name: asked.store.files_of(manifest)
        for name, manifest in asked.store.manifests(("model", "item_feat", "user_feat"), asked.ds, asked.settings).items()
    }
    towers = load(next(file for file in files["model"] if file.endswith("/model.pt")), read_table(files["item_feat"]))
    registry = towers.settings.registry()
    users = read_table(files["user_feat"], [field.name for field in registry.user if field.role == "multi"])
    widths = {field.name: padded(users[field.name]).shape[1] if field.role == "multi" else None for field in registry.user}
    return write(towers_of(towers.encoder, history=towers.settings.model.history, fields=widths), folder, kind)


def towers_of(encoder: Encoder, *, history: int, fields: Mapping[str, int | None]) -> Towers:
    """Both towers with an example of what they take; fields: user fields in order, and how many values of a multi-valued one."""
    users = {"hist": torch.ones(_ROWS, history, dtype=torch.int64), "hist_len": torch.arange(_ROWS) % (history + 1)}
    users |= {name: torch.ones((_ROWS,) if width is None else (_ROWS, width), dtype=torch.int64) for name, width in fields.items()}
    items = {"item_idx": torch.ones(_ROWS, dtype=torch.int64)}
    return {"user": (UserTower(encoder, tuple(fields)), users, "vectors"), "item": (ItemTower(encoder), items, "vectors")}


def write(towers: Towers, folder: Path, kind: str) -> list[Path]:
    """Write both towers; returns the files. Raises UsageError where ONNX is not installed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [KINDS[kind](module.eval(), example, output, folder / name) for name, (module, example, output) in towers.items()]


def _onnx(module: nn.Module, example: Mapping[str, Tensor], output: str, stem: Path) -> Path:
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it, and says so late)
    except ImportError as error:
        raise UsageError("--format onnx", [Fault("ONNX is not installed", str(error), "pip install 'trichannel[export]'")]) from error
    rows = {0: torch.export.Dim("rows")}
    shapes: dict[str, object] = dict.fromkeys(example, rows)
    if isinstance(module, UserTower):
        shapes = dict.fromkeys(("hist", "hist_len"), rows) | {"fields": tuple(rows for _ in module.fields)}
    file = stem.with_suffix(".onnx")
    torch.onnx.export(
        module,
        tuple(example.values()),
        str(file),
        input_names=list(example),
        output_names=[output],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    return file


def _torchscript(module: nn.Module, example: Mapping[str, Tensor], output: str, stem: Path) -> Path:
    file = stem.with_suffix(".pt")
    torch.jit.trace(module, tuple(example.values()), check_trace=False).save(str(file))  # type: ignore[no-untyped-call]
    return file


KINDS: dict[str, Callable[[nn.Module, Mapping[str, Tensor], str, Path], Path]] = {"onnx": _onnx, "torchscript": _torchscript}
