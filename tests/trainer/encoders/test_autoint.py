"""AutoInt against a slow twin."""

import numpy as np

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch

LAYERS, HEADS, HEAD_WIDTH = 2, 2, 3


def layer(w: slow.Weights, name: str, fields: list[slow.Vector]) -> list[slow.Vector]:
    query, key, value = ([w[f"{name}.{part}.weight"] @ one for one in fields] for part in ("query", "key", "value"))
    out = []
    for f, one in enumerate(fields):
        heads = []
        for h in range(HEADS):
            own = slice(h * HEAD_WIDTH, (h + 1) * HEAD_WIDTH)
            shares = slow.softmax(np.array([query[f][own] @ other[own] for other in key]))
            heads.append(sum((share * other[own] for share, other in zip(shares, value, strict=True)), np.zeros(HEAD_WIDTH)))
        out.append(slow.relu(np.concatenate(heads) + w[f"{name}.rest.weight"] @ one))
    return out


def side(w: slow.Weights, name: str, fields: list[slow.Vector]) -> slow.Vector:
    for number in range(LAYERS):
        fields = layer(w, f"{name}.layers.{number}", fields)
    return slow.dense(w, f"{name}.out", np.concatenate(fields))


def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
    return side(w, "user_tower", [*slow.parts(w, slow.user_ids(batch, row, um)), slow.history(w, batch, row, uh)])


def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
    return side(w, "item_tower", slow.parts(w, slow.item_ids(idx, vm)))


def test_equals_the_slow_twin() -> None:
    given = {"layers": LAYERS, "heads": HEADS, "head_width": HEAD_WIDTH}
    slow.compare(tiny.encoder(tiny.settings({"model.encoder": "autoint", "model.autoint": given})), slow_user, slow_item)
