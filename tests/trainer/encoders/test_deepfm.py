"""DeepFM against a slow twin."""

import numpy as np

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch


def side(w: slow.Weights, name: str, fields: list[slow.Vector]) -> slow.Vector:
    pairs = sum((fields[f] * fields[g] for f in range(len(fields)) for g in range(f)), np.zeros(6))
    deep = slow.mlp(w, f"{name}.deep", np.concatenate(fields), slow.relu)
    return slow.dense(w, f"{name}.out", np.concatenate([deep, np.sum(fields, axis=0), pairs]))


def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
    return side(w, "user_tower", [*slow.parts(w, slow.user_ids(batch, row, um)), slow.history(w, batch, row, uh)])


def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
    return side(w, "item_tower", slow.parts(w, slow.item_ids(idx, vm)))


def test_equals_the_slow_twin() -> None:
    slow.compare(tiny.encoder(tiny.settings({"model.encoder": "deepfm"})), slow_user, slow_item)
