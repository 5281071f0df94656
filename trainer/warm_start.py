"""A model that begins where an earlier day's ended: rows of old values kept, rows of new values as in a fresh model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conf.command import Request
from conf.errors import Fault, UsageError
from conf.storage import Manifest
from trainer.deferred import deferred_init
from trainer.encoders import ENCODERS, Encoder
from trainer.encoders.sharded import own_rows
from trainer.export import read_model
from trainer.tables import Tables

EPOCH = "vocabulary_epoch"


@dataclass(frozen=True)
class Warm:
    """weights: of the earlier model. model_id: its. added: table of the weights -> rows that it does not have."""

    weights: Mapping[str, Tensor]
    model_id: str
    added: Mapping[str, int]


def read_warm(
    asked: Request, previous: Mapping[str, Manifest], manifests: Mapping[str, Manifest], tables: Tables, log: Callable[..., None]
) -> Warm | None:
    """What the earlier model gives; None = the model begins cold, and where warmth was asked for, the log says why.

    previous: the model of an earlier day, where there is one. manifests: of the inputs.

    Raises:
        UsageError: see warm_weights.
    """
    settings = asked.settings
    if not settings.trainer.warm_start:
        return None
    if not previous or not same_numbers(previous["model"], manifests):
        why = "ids are numbered anew" if previous else "there is no earlier model to go on from"
        log("cold", stage="train", reason=why)
        return None
    file = next(file for file in asked.store.files_of(previous["model"]) if file.endswith("/model.pt"))
    fresh = deferred_init(ENCODERS[settings.model.encoder], settings, settings.registry(), tables.catalogue, tables.vocab_sizes)
    found = warm_weights(fresh, read_model(file), file)
    log("warm", stage="train", model=found.model_id, new_rows=sum(found.added.values()))
    return found


def same_numbers(previous: Manifest, manifests: Mapping[str, Manifest]) -> bool:
    """Whether the earlier model's ids mean the same values still: they do until a vocabulary is numbered anew."""
    began = {manifest.facts.get(EPOCH) for name, manifest in manifests.items() if name.startswith("vocab_")}
    return began == {previous.facts.get(EPOCH)} and None not in began


def warm_weights(encoder: Encoder, content: Mapping[str, Any], where: str) -> Warm:
    """What `begin` gives the encoder.

    Args:
        content: of a model file. where: the file, for messages.

    Raises:
        UsageError: the earlier model has other weights than this one would, but for rows that its tables lack; every difference at once.
    """
    old, new = content["weights"], encoder.state_dict()
    tables = {id(table) for table in encoder.tables()}
    growing = {name for name, parameter in encoder.named_parameters() if id(parameter) in tables}
    faults = [Fault(f"{name} is not in the earlier model") for name in new if name not in old]
    faults += [Fault(f"{name} of the earlier model is not in this one") for name in old if name not in new]
    added: dict[str, int] = {}
    for name in sorted(set(old) & set(new)):
        was, now = tuple(old[name].shape), tuple(new[name].shape)
        if name in growing and was[1:] == now[1:] and was[0] <= now[0]:
            added[name] = now[0] - was[0]
        elif was != now:
            faults.append(Fault(f"{name} was {was}, now {now}"))
    if faults:
        faults[-1] = Fault(faults[-1].what, fix="train cold with these settings: trainer.warm_start: false")
        raise UsageError(f"warm start from {where}", faults)
    return Warm(old, str(content["model_id"]), added)


@torch.no_grad()
def begin(encoder: Encoder, given: Warm) -> None:
    """Copy the weights in. What the earlier tables lack stays as it is: drawn by (seed, name, row) like in a fresh model."""
    for name, values in encoder.state_dict().items():
        old = own_rows(encoder, name, given.weights[name])
        values[: len(old)].copy_(old) if old.dim() else values.copy_(old)
