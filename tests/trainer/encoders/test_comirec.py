"""ComiRec against slow twins; its closed forms."""

import numpy as np
import pytest
import torch

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch
from trainer.encoders.comirec import ComiRecDR, ComiRecSA, squash

BOTH = ("comirec_sa", "comirec_dr")
IDS = {"model.item_tower": "id", "model.fields": {"user": [], "item": None}}


def given(name: str, **overrides: object) -> dict[str, object]:
    return {"model.encoder": name, "model.comirec": {"interests": 3}, **overrides}


def said(w: slow.Weights, batch: Batch, row: int, uh: int) -> tuple[list[int], list[slow.Vector]]:
    """Positions and item_id embeddings of the clicks."""
    clicks = slow.clicked(batch, row, uh)
    return slow.kept(batch, row, uh) or [0], [w["embed.item_id.weight"][click["item_id"][0]] for click in clicks]


def slow_sa(w: slow.Weights, batch: Batch, row: int, uh: int) -> slow.Vector:
    positions, vectors = said(w, batch, row, uh)
    scores = [
        slow.dense(w, "attention.2", np.tanh(slow.dense(w, "attention.0", vector + w["positions.weight"][p])))
        for p, vector in zip(positions, vectors, strict=True)
    ]
    return np.stack([slow.softmax(one) @ np.stack(vectors) for one in np.stack(scores).T])


def slow_squash(z: slow.Vector) -> slow.Vector:
    square = z @ z
    out: slow.Vector = square / (1 + square) * z / np.sqrt(square + 1e-9)
    return out


def slow_dr(w: slow.Weights, batch: Batch, row: int, uh: int) -> slow.Vector:
    positions, vectors = said(w, batch, row, uh)
    words = [[route @ vector for route in w["routes.weight"][p]] for p, vector in zip(positions, vectors, strict=True)]
    logits = np.zeros((len(words), 3))
    for _ in range(3):
        shares = [slow.softmax(one) for one in logits]
        weighted = [share[:, None] * np.stack(word) for share, word in zip(shares, words, strict=True)]
        capsules = [slow_squash(z) for z in np.sum(weighted, axis=0)]
        logits = logits + np.array([[word[k] @ capsules[k] for k in range(3)] for word in words])
    return np.stack(capsules)


SLOW = {"comirec_sa": slow_sa, "comirec_dr": slow_dr}


@pytest.mark.parametrize("name", BOTH)
def test_equals_the_slow_twin_on_ids_alone(name: str) -> None:
    slow.compare(
        tiny.encoder(tiny.settings(given(name, **IDS))),
        lambda w, batch, row, um, uh: SLOW[name](w, batch, row, uh),
        lambda w, idx, vm: slow.pooled(w["embed.item_id.weight"], slow.item_ids(idx, vm)["item_id"]),
    )


@pytest.mark.parametrize("name", BOTH)
def test_equals_the_slow_twin_with_fields(name: str) -> None:
    def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
        fields = slow.parts(w, slow.user_ids(batch, row, um))
        return np.stack([slow.mlp(w, "user_tower", np.concatenate([one, *fields]), slow.relu) for one in SLOW[name](w, batch, row, uh)])

    def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
        return slow.mlp(w, "item_tower", np.concatenate(slow.parts(w, slow.item_ids(idx, vm))), slow.relu)

    slow.compare(tiny.encoder(tiny.settings(given(name))), slow_user, slow_item)


def test_shares_of_attention_add_up_to_1_over_the_clicks() -> None:
    # property P4.4
    encoder = tiny.encoder(tiny.settings(given("comirec_sa")))
    assert isinstance(encoder, ComiRecSA)
    known_BL = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    shares_BLK = encoder.shares(torch.randn(2, 5, 6), known_BL)
    torch.testing.assert_close(shares_BLK.sum(dim=1), torch.ones(2, 3))
    assert shares_BLK[~known_BL].abs().max() == 0


def test_without_positions_attention_does_not_see_the_order() -> None:
    # property P4.2
    encoder, batch = tiny.encoder(tiny.settings(given("comirec_sa"))), tiny.batch()
    assert isinstance(encoder, ComiRecSA)
    assert not torch.allclose(encoder.user(slow.turned(batch)), encoder.user(batch), atol=1e-4)
    with torch.no_grad():
        encoder.positions.weight.zero_()
    torch.testing.assert_close(encoder.user(slow.turned(batch)), encoder.user(batch), rtol=0, atol=1e-6)


def test_routing_sees_the_order() -> None:
    # property P4.2
    encoder, batch = tiny.encoder(tiny.settings(given("comirec_dr"))), tiny.batch()
    assert not torch.allclose(encoder.user(slow.turned(batch)), encoder.user(batch), atol=1e-4)


def test_padding_changes_routing_not_at_all() -> None:
    # property P4.1: exactly
    encoder, batch = tiny.encoder(tiny.settings(given("comirec_dr"))), tiny.batch()
    wide = {**batch, "hist": torch.nn.functional.pad(batch["hist"], (0, 3))}
    torch.testing.assert_close(encoder.user(wide), encoder.user(batch), rtol=0, atol=0)


def test_one_interest_is_the_squashed_sum() -> None:
    # property P4.3: with one interest there is nothing to route
    encoder = tiny.encoder(tiny.settings({"model.encoder": "comirec_dr", "model.comirec": {"interests": 1}}))
    assert isinstance(encoder, ComiRecDR)
    clicked_BLW, known_BL = torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True, True, False, False, False]])
    words_BLW = torch.einsum("blw,lvw->blv", clicked_BLW, encoder.routes.weight[:, 0])
    torch.testing.assert_close(encoder.read(clicked_BLW, known_BL)[:, 0], squash((words_BLW * known_BL[:, :, None]).sum(dim=1)))


@pytest.mark.parametrize(("length", "want"), [(1.0, 0.5), (3.0, 0.9), (1e6, 1.0), (0.0, 0.0)])
def test_squash(length: float, want: float) -> None:
    # property P4.3
    z = torch.tensor([0.6, 0.0, 0.8]) * length
    squashed = squash(z)
    assert float(squashed.norm()) == pytest.approx(want, abs=1e-5)
    assert float(squashed.norm()) <= 1
    torch.testing.assert_close(squashed, z / max(length, 1) * want, rtol=1e-4, atol=1e-6)


def test_routes_start_as_they_are_said_to() -> None:
    for init, std in (("scaled", 64**-0.5), ("literal", 1.0)):
        overrides = {"model.encoder": "comirec_dr", "model.dim": 64, "model.comirec": {"init": init}}
        encoder = tiny.encoder(tiny.settings(overrides))
        assert isinstance(encoder, ComiRecDR)
        numbers = encoder.routes.weight.detach().flatten().double()
        assert numbers.isfinite().all()
        assert float(numbers.std()) == pytest.approx(std, rel=0.01)
        assert float(numbers.mean()) == pytest.approx(0, abs=4 * std / len(numbers) ** 0.5)
        assert float((numbers.abs() < std).double().mean()) == pytest.approx(0.6827, abs=0.01)  # as of a normal distribution
