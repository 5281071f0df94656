"""ICAN against slow twins, in all its forms."""

import numpy as np
import pytest
import torch

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch

HEADS = 2


def norm(w: slow.Weights, name: str, x: slow.Vector) -> slow.Vector:
    out: slow.Vector = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return out


def block(w: slow.Weights, rows: list[slow.Vector], *, attn_only: bool) -> list[slow.Vector]:
    query, key, value = ([w[f"block.{part}.weight"] @ one for one in rows] for part in ("query", "key", "value"))
    width = len(rows[0]) // HEADS
    scale = 1.0 if attn_only else width**-0.5
    out = []
    for r, one in enumerate(rows):
        heads = []
        for h in range(HEADS):
            own = slice(h * width, (h + 1) * width)
            shares = slow.softmax(np.array([query[r][own] @ other[own] * scale for other in key]))
            heads.append(sum((share * other[own] for share, other in zip(shares, value, strict=True)), np.zeros(width)))
        mixed = np.concatenate(heads)
        if not attn_only:
            mixed = norm(w, "block.rest.norm_attention", one + slow.dense(w, "block.rest.out", mixed))
            mixed = norm(w, "block.rest.norm_dense", mixed + slow.mlp(w, "block.rest.dense", mixed, slow.relu))
        out.append(mixed)
    return out


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("attn_only", [False, True])
@pytest.mark.parametrize("behaviour_rows", ["fields", "positions"])
def test_equals_the_slow_twin(behaviour_rows: str, attn_only: bool, activation: str) -> None:
    def tower(w: slow.Weights, name: str, parts: list[slow.Vector]) -> slow.Vector:
        if activation == "relu":
            return slow.mlp(w, name, np.concatenate(parts), slow.relu)
        out: slow.Vector = np.tanh(slow.mlp(w, name, np.concatenate(parts), np.tanh))  # the last layer's, too
        return out

    def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
        return tower(w, "item_tower", slow.parts(w, slow.item_ids(idx, vm)))

    def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
        clicks = [slow.parts(w, click) for click in slow.clicked(batch, row, uh)]
        if behaviour_rows == "fields":
            rows = block(w, [np.mean([click[f] for click in clicks], axis=0) for f in range(3)], attn_only=attn_only)
        else:
            positions = slow.kept(batch, row, uh) or [0]
            sums = [np.sum(click, axis=0) + w["positions.weight"][p] for p, click in zip(positions, clicks, strict=True)]
            rows = [np.zeros(6)] * tiny.LENGTH
            for p, one in zip(positions, block(w, sums, attn_only=attn_only), strict=True):
                rows[p] = one
        return tower(w, "user_tower", [*rows, *slow.parts(w, slow.user_ids(batch, row, um))])

    ican = {"heads": HEADS, "behaviour_rows": behaviour_rows, "attn_only": attn_only, "activation": activation}
    slow.compare(tiny.encoder(tiny.settings({"model.encoder": "ican", "model.ican": ican})), slow_user, slow_item, atol=1e-5)


@pytest.mark.parametrize(("behaviour_rows", "seen"), [("fields", False), ("positions", True)])
def test_whether_it_sees_the_order_of_the_history(behaviour_rows: str, seen: bool) -> None:
    # property P4.2
    ican = {"heads": HEADS, "behaviour_rows": behaviour_rows}
    encoder, batch = tiny.encoder(tiny.settings({"model.encoder": "ican", "model.ican": ican})), tiny.batch()
    assert torch.allclose(encoder.user(slow.turned(batch)), encoder.user(batch), atol=1e-5) is not seen


@pytest.mark.parametrize("attn_only", [False, True])
def test_a_gradient_reaches_every_parameter_of_positions(attn_only: bool) -> None:
    ican = {"heads": HEADS, "behaviour_rows": "positions", "attn_only": attn_only}
    encoder = tiny.encoder(tiny.settings({"model.encoder": "ican", "model.ican": ican}))
    batch = tiny.batch()
    users, items = encoder.user(batch, um=batch["um_b"]), encoder.item(batch["item_idx"], vm=batch["vm_b"])
    ((users * torch.randn(users.shape)).sum() + (items * torch.randn(items.shape)).sum()).backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_attention_starts_as_in_icans_code_where_it_is_that_of_it() -> None:
    def weights(attn_only: bool) -> torch.Tensor:
        given = tiny.settings({"model.encoder": "ican", "model.dim": 64, "model.ican": {"attn_only": attn_only}})
        block = tiny.encoder(given).get_submodule("block")
        return torch.cat([block.get_parameter(f"{part}.weight").detach().flatten() for part in ("query", "key", "value")])

    assert float(weights(True).std()) == pytest.approx(0.02, rel=0.05)  # N(0, 0.02^2)
    assert float(weights(True).abs().max()) > 0.06
    assert float(weights(False).std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)  # Xavier


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.ican\.heads \(4\) must divide the width of an embedding \(6\)"):
        tiny.settings({"model.encoder": "ican", "model.ican": {"heads": 4}})
