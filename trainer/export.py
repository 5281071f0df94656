"""The model file and how to load it: all that retrieval may import of the trainer.

`model.pt` is a dict of plain values and tensors, read with weights_only=True, so a crafted file cannot run code:
format, model_id, similarity, dim, interests, settings, fields, vocab_sizes, vocabularies, weights, joint.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import fs as pafs
from torch import Tensor, nn

from conf.errors import BadDataError, Fault
from conf.fields import Side
from conf.files import open_root
from conf.settings import Settings
from trainer.catalogue import Catalogue, padded
from trainer.deferred import deferred_init, is_deferred
from trainer.encoders import ENCODERS, Encoder
from trainer.projection import JOINT, joint_space

FORMAT = 1

_HASHED = 1 << 22
_CHUNK = 8192  # rows encoded at a time: bounds the memory of wide hidden layers

Vectors = npt.NDArray[np.float32]


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes and weights rounded to 1e-5.

    Not over the file, which also holds paths and settings: two runs of equal settings on equal tables give the same hash, and so the
    same model id in every table derived from it. Rounded as all model-derived tables are.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        for start in range(0, values.numel(), _HASHED):  # a large table is not copied whole
            rows = values.reshape(-1)[start : start + _HASHED]
            # int64, so that -0.0 and 0.0 are one
            rounded = (rows.double() * 1e5).round() if rows.is_floating_point() else rows
            digest.update(rounded.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_content(
    weights: Mapping[str, Tensor],
    encoder: Encoder,
    settings: Settings,
    *,
    vocab_sizes: Mapping[str, int],
    vocabularies: Mapping[str, str],
) -> dict[str, Any]:
    """What model.pt holds; its model_id is "<encoder>-<hash of the weights>".

    Args:
        weights: state dict of an encoder like `encoder`, and of the projections into the joint space, where there are any.
        vocab_sizes: field -> rows of its table. vocabularies: vocab table -> identity of the run it was built with.
    """
    registry = settings.registry()
    held = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    return {
        "format": FORMAT,
        "model_id": f"{settings.model.encoder}-{weights_hash(weights)}",
        "similarity": encoder.similarity,
        "dim": encoder.dim,
        "interests": encoder.interests,
        "settings": settings.model_dump(mode="json"),
        "fields": {side: [asdict(field) for field in getattr(registry, side)] for side in ("user", "item")},
        "vocab_sizes": dict(vocab_sizes),
        "vocabularies": dict(vocabularies),
        "weights": {name: tensor for name, tensor in held.items() if not name.startswith(JOINT)},
        "joint": {name.removeprefix(JOINT): tensor for name, tensor in held.items() if name.startswith(JOINT)},
    }


class Towers:
    """The trained encoder, in eval mode. Vectors are in encoder space, not normalised.

    similarity: "cosine" or "inner_product". dim: D. interests: K. vocabularies: vocab table -> identity of the run it was trained with.
    encoder: what the vectors come from. joint: the ways from there into MIC's joint space; None where that is encoder space.
    """

    def __init__(self, encoder: Encoder, content: Mapping[str, Any], joint: nn.ModuleDict | None = None) -> None:
        self.encoder, self.joint = encoder.eval(), joint
        self.settings = Settings.model_validate(content["settings"])
        self.model_id, self.vocabularies = str(content["model_id"]), dict(content["vocabularies"])
        self.similarity: str = encoder.similarity
        self.dim, self.interests = encoder.dim, encoder.interests
        self._fields, self._sizes = self.settings.registry().user, dict(content["vocab_sizes"])

    def encode_users(self, users: pa.RecordBatch | pa.Table) -> Vectors:
        """float32[B, K, D]. users: the user-field columns of user_feat, and items: list<int32>, oldest first; the last L are used.

        Raises:
            BadDataError: an id that the model's vocabulary does not have.
        """
        hist_BL, length_B = last_items(users.column("items"), self.settings.model.history)
        batch = {"hist": torch.from_numpy(hist_BL), "hist_len": torch.from_numpy(length_B)}
        for field in self._fields:
            column = users.column(field.name)
            values = padded(column) if field.role == "multi" else np.asarray(column)
            _check_ids("user_feat", field.name, int(values.max(initial=0)), self._sizes)
            batch[f"user.{field.name}"] = torch.from_numpy(values.astype(np.int64))
        return _in_chunks(
            users.num_rows, (self.interests, self.dim), lambda rows: self.encoder.user({name: x[rows] for name, x in batch.items()})
        )

    def encode_items(self, idx: npt.NDArray[np.int32]) -> Vectors:
        """float32[n, D] of item_idx[n]."""
        ids = torch.from_numpy(idx.astype(np.int64))
        return _in_chunks(len(ids), (self.dim,), lambda rows: self.encoder.item(ids[rows]))

    def in_joint(self, side: Side, vectors: Vectors) -> Vectors:
        """float32, of the same shape: vectors of encoder space, of "user" or "item", taken into the joint space, not normalised.

        Source: MIC (Lu et al. 2022) 3.4.
        """
        assert self.joint is not None
        with torch.inference_mode():
            found: Vectors = self.joint[side](torch.from_numpy(vectors)).numpy()
        return found


def load(model_file: str, item_feat: pa.Table) -> Towers:
    """The towers of a model file (path or URI), for the items of the table.

    Weights of a local file are mapped, not read: all processes of a machine that load it share one copy.

    Raises:
        BadDataError: no such file, not one of ours, of another format; or item_feat has ids that the model's vocabulary does not have.
    """
    content = read_model(model_file)
    try:
        settings = Settings.model_validate(content["settings"])
        registry, sizes = settings.registry(), dict(content["vocab_sizes"])
        catalogue = Catalogue.from_arrow(item_feat, registry)
        for name, ids in (*catalogue.single.items(), *catalogue.multi.items()):
            _check_ids("item_feat", name, int(ids.max()), sizes)
        # weights come from the file, so none are made
        encoder = deferred_init(ENCODERS[settings.model.encoder], settings, registry, catalogue, sizes)
        encoder.load_state_dict(content["weights"], assign=True)
        joint = _joint(settings, encoder.dim, content.get("joint", {}))
    except (KeyError, RuntimeError, ValueError) as error:
        raise _not_ours(model_file, error) from error
    assert not is_deferred(encoder), "a buffer that is not part of the state dict has no values"
    return Towers(encoder, content, joint)


def _joint(settings: Settings, dim: int, weights: Mapping[str, Tensor]) -> nn.ModuleDict | None:
    mic = settings.objectives.mic
    if not settings.objectives.has_joint_space or mic is None:
        return None
    joint = deferred_init(joint_space, mic.projection, dim)
    joint.load_state_dict(weights, assign=True)
    return joint


def last_items(items: pa.Array | pa.ChunkedArray, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """list<int> of any length, oldest first -> (int64[B, length]: the last ones, 0 at the end; int64[B]: how many)."""
    array = items.combine_chunks() if isinstance(items, pa.ChunkedArray) else items
    stops = np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64))
    values = np.append(np.asarray(array.flatten(), dtype=np.int64), 0)  # one more, so that every place below exists
    starts = np.concatenate(([0], stops[:-1])) if len(stops) else stops
    count_B = np.minimum(stops - starts, length)
    place = np.arange(length)
    inside = place < count_B[:, None]
    return np.where(inside, values[np.where(inside, (stops - count_B)[:, None] + place, -1)], 0), count_B


def _in_chunks(num: int, shape: tuple[int, ...], encode: Callable[[slice], Tensor]) -> Vectors:
    out = np.empty((num, *shape), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, num, _CHUNK):
            out[start : start + _CHUNK] = encode(slice(start, start + _CHUNK)).numpy()
    return out


def _check_ids(table: str, name: str, largest: int, sizes: Mapping[str, int]) -> None:
    if largest >= sizes[name]:
        found = f"largest id {largest}, the model knows {sizes[name] - 1}"
        fault = Fault(f"field {name!r} was numbered by another vocabulary than the model's", found, "run: trichannel train")
        raise BadDataError(f"table {table}", [fault])


def read_model(model_file: str) -> dict[str, Any]:
    """What `model_content` made. Weights of a local file are mapped; raises BadDataError if it is no model of this format."""
    filesystem, path = open_root(model_file)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            with filesystem.open_input_file(path) as stream:
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise _not_ours(model_file, error) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise _not_ours(model_file, ValueError(f"format {found!r}, want {FORMAT}"))
    return dict(content)


def _not_ours(model_file: str, error: Exception) -> BadDataError:
    text = " ".join(str(error).split())[:300]
    return BadDataError(model_file, [Fault("is no model that this version can load", text, "run: trichannel train")])
