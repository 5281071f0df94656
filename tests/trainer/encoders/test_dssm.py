"""DSSM against a slow twin in numpy loops."""

import numpy as np
import numpy.typing as npt
import torch

from tests.trainer import tiny
from trainer.encoders import Batch, Encoder

Vector = npt.NDArray[np.float64]


def weights(encoder: Encoder) -> dict[str, Vector]:
    return {name: value.double().numpy() for name, value in encoder.state_dict().items()}


def mlp(w: dict[str, Vector], name: str, x: Vector) -> Vector:
    hidden = np.tanh(w[f"{name}.0.weight"] @ x + w[f"{name}.0.bias"])
    out: Vector = w[f"{name}.2.weight"] @ hidden + w[f"{name}.2.bias"]
    return out


def pooled(table: Vector, ids: list[int]) -> Vector:
    real = [i for i in ids if i != 0]
    mean: Vector = np.mean([table[i] for i in real], axis=0)
    return mean


def slow_user(w: dict[str, Vector], batch: Batch, row: int, um: int, uh: int) -> Vector:
    parts = []
    for bit, name in enumerate(("user_id", "gender", "hobbies")):
        value = batch[f"user.{name}"][row].tolist()
        ids = value if isinstance(value, list) else [value]
        ids = ids if any(ids) else [2]
        parts.append(pooled(w[f"embed.{name}.weight"], [1] if um >> bit & 1 else ids))
    item_id = tiny.item_feat()["item_id"].to_pylist()
    length = int(batch["hist_len"][row])
    kept = [p for p in range(length) if not uh >> p & 1 or p == length - 1]
    history = [item_id[int(batch["hist"][row, p]) - 1] for p in kept] or [3]
    return mlp(w, "user_tower", np.concatenate([*parts, pooled(w["embed.item_id.weight"], history)]))


def slow_item(w: dict[str, Vector], idx: int, vm: int) -> Vector:
    features = tiny.item_feat().slice(idx - 1, 1).to_pylist()[0]
    ids = [[features["item_id"]], [features["category"]], features["tags"] or [2]]
    parts = [
        pooled(w[f"embed.{name}.weight"], [1] if vm >> bit & 1 else ids[bit]) for bit, name in enumerate(("item_id", "category", "tags"))
    ]
    return mlp(w, "item_tower", np.concatenate(parts))


def test_equals_the_slow_twin() -> None:
    encoder = tiny.encoder(tiny.settings()).eval()
    w, batch = weights(encoder), tiny.batch()
    users, masked_users = encoder.user(batch), encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"])
    items, masked_items = encoder.item(batch["item_idx"]), encoder.item(batch["item_idx"], vm=batch["vm_b"])
    for row in range(len(batch["row"])):
        um, uh, vm, idx = (int(batch[name][row]) for name in ("um_b", "uh_b", "vm_b", "item_idx"))
        np.testing.assert_allclose(users[row, 0].detach(), slow_user(w, batch, row, 0, 0), atol=1e-6)
        np.testing.assert_allclose(masked_users[row, 0].detach(), slow_user(w, batch, row, um, uh), atol=1e-6)
        np.testing.assert_allclose(items[row].detach(), slow_item(w, idx, 0), atol=1e-6)
        np.testing.assert_allclose(masked_items[row].detach(), slow_item(w, idx, vm), atol=1e-6)


def test_mean_pooling_does_not_see_the_order_of_the_history() -> None:
    # property P4.2
    encoder, batch = tiny.encoder(tiny.settings()), tiny.batch()
    turned = dict(batch)
    for row, length in enumerate(batch["hist_len"].tolist()):
        turned["hist"] = turned["hist"].clone()
        turned["hist"][row, :length] = batch["hist"][row, :length].flip(0)
    assert not torch.equal(turned["hist"], batch["hist"])
    torch.testing.assert_close(encoder.user(turned), encoder.user(batch), rtol=0, atol=1e-6)


def test_history_and_items_share_the_item_id_table() -> None:
    encoder = tiny.encoder(tiny.settings())
    assert len(encoder.tables()) == len(tiny.VOCAB)
    table = dict(encoder.named_parameters())["embed.item_id.weight"]
    encoder.user(tiny.batch()).sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


def test_without_user_fields_the_history_speaks_alone() -> None:
    # held-out users have no user_id; a log without user attributes then has no user field at all
    given = tiny.settings({"split": {"kind": "user"}, "source.fields": {"user": {}, "item": {}}})
    assert given.registry().user == ()
    vocab = {"item_id": 12}
    from trainer.encoders import build_encoder

    encoder = build_encoder(given, given.registry(), tiny.catalogue(given), vocab)
    assert encoder.user(tiny.batch()).shape == (13, 1, 6)
