"""What the slow twins of the encoders share: tiny's world in numpy, a row at a time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from tests.trainer import tiny
from trainer.encoders import Batch, Encoder

Vector = npt.NDArray[np.float64]
Weights = dict[str, Vector]


def weights(encoder: Encoder) -> Weights:
    return {name: value.double().numpy() for name, value in encoder.state_dict().items()}


def pooled(table: Vector, ids: list[int]) -> Vector:
    real = [i for i in ids if i != 0]
    mean: Vector = np.mean([table[i] for i in real], axis=0)
    return mean


def user_ids(batch: Batch, row: int, um: int) -> dict[str, list[int]]:
    ids = {}
    for bit, name in enumerate(("user_id", "gender", "hobbies")):
        value = batch[f"user.{name}"][row].tolist()
        found = value if isinstance(value, list) else [value]
        ids[name] = [1] if um >> bit & 1 else (found if any(found) else [2])
    return ids


def item_ids(idx: int, vm: int = 0) -> dict[str, list[int]]:
    features = tiny.item_feat().slice(idx - 1, 1).to_pylist()[0]
    ids = {"item_id": [features["item_id"]], "category": [features["category"]], "tags": features["tags"] or [2]}
    return {name: [1] if vm >> bit & 1 else found for bit, (name, found) in enumerate(ids.items())}


def parts(w: Weights, ids: dict[str, list[int]]) -> list[Vector]:
    """The embedding of each field, or the mean of those of its values."""
    return [pooled(w[f"embed.{name}.weight"], found) for name, found in ids.items()]


def kept(batch: Batch, row: int, uh: int) -> list[int]:
    """Positions of the clicks that are there."""
    length = int(batch["hist_len"][row])
    return [p for p in range(length) if not uh >> p & 1 or p == length - 1]


def clicked(batch: Batch, row: int, uh: int) -> list[dict[str, list[int]]]:
    """The fields of each click that is there; without one, of a single EMPTY."""
    empty: dict[str, list[int]] = {"item_id": [3], "category": [3], "tags": [3]}
    return [item_ids(int(batch["hist"][row, p])) for p in kept(batch, row, uh)] or [empty]


def history(w: Weights, batch: Batch, row: int, uh: int) -> Vector:
    """The mean of the clicks' item_id embeddings."""
    return pooled(w["embed.item_id.weight"], [click["item_id"][0] for click in clicked(batch, row, uh)])


def dense(w: Weights, name: str, x: Vector) -> Vector:
    out: Vector = w[f"{name}.weight"] @ x + w[f"{name}.bias"]
    return out


def mlp(w: Weights, name: str, x: Vector, activation: Callable[[Vector], Vector]) -> Vector:
    """Two layers: tiny has one hidden layer."""
    return dense(w, f"{name}.2", activation(dense(w, f"{name}.0", x)))


def relu(x: Vector) -> Vector:
    return np.maximum(x, 0)


def softmax(x: Vector) -> Vector:
    e = np.exp(x - x.max())
    share: Vector = e / e.sum()
    return share


def compare(
    encoder: Encoder,
    slow_user: Callable[[Weights, Batch, int, int, int], Vector],
    slow_item: Callable[[Weights, int, int], Vector],
    atol: float = 1e-6,
) -> None:
    """Both views of each row of tiny's batch against slow_user(weights, batch, row, um, uh) [K, D] and slow_item(weights, idx, vm) [D]."""
    encoder.eval()
    w, batch = weights(encoder), tiny.batch()
    with torch.no_grad():
        users, masked_users = encoder.user(batch).numpy(), encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"]).numpy()
        items, masked_items = (encoder.item(batch["item_idx"], vm=vm).numpy() for vm in (None, batch["vm_b"]))
    for row in range(len(batch["row"])):
        um, uh, vm, idx = (int(batch[name][row]) for name in ("um_b", "uh_b", "vm_b", "item_idx"))
        np.testing.assert_allclose(users[row], np.atleast_2d(slow_user(w, batch, row, 0, 0)), atol=atol)
        np.testing.assert_allclose(masked_users[row], np.atleast_2d(slow_user(w, batch, row, um, uh)), atol=atol)
        np.testing.assert_allclose(items[row], slow_item(w, idx, 0), atol=atol)
        np.testing.assert_allclose(masked_items[row], slow_item(w, idx, vm), atol=atol)


def turned(batch: Batch) -> Batch:
    """Every history the other way round."""
    out = {**batch, "hist": batch["hist"].clone()}
    for row, length in enumerate(batch["hist_len"].tolist()):
        out["hist"][row, :length] = batch["hist"][row, :length].flip(0)
    assert not torch.equal(out["hist"], batch["hist"])
    return out
