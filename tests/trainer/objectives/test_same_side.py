"""The options of MIC's contrasts among users and among items: slow twins, closed forms, finite differences."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.trainer import tiny
from trainer.deferred import materialize_module
from trainer.encoders import Encoder
from trainer.objectives.mic import MicContrast
from trainer.objectives.similarity import unit
from trainer.randomness import Purpose

Interests = npt.NDArray[np.float64]  # [K, D]
Similarity = Callable[[Interests, Interests], float]


def objective(encoder: Encoder, given: dict[str, Any]) -> MicContrast:
    loss = MicContrast(tiny.settings(given), encoder).to("meta")
    materialize_module(loss, seed=1)
    return loss.to(next(encoder.parameters()).dtype)


def same_side(**options: object) -> dict[str, Any]:
    return {"objectives.mic": {"uv": 0, "temperature": 0.5, **options}}


def cosines(a: Interests, b: Interests) -> npt.NDArray[np.float64]:
    return np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])


def best_match(a: Interests, b: Interests) -> float:
    s = cosines(a, b)
    return float((s.max(axis=1).mean() + s.max(axis=0).mean()) / 2)


def slots(a: Interests, b: Interests) -> float:
    return float(np.diagonal(cosines(a, b)).mean())


def slow(ids: list[int], clean: Interests, view: Interests, similar: Similarity, *, literal: bool, include_pos: bool) -> float:
    """Over the first row of each id; clean, view: [B, K, D]."""
    first = [ids.index(i) for i in sorted(set(ids))]
    losses = []
    for a in first:
        for anchor in [clean[a]] if literal else [clean[a], view[a]]:
            others = [x for b in first if b != a for x in ([clean[b]] if literal else [clean[b], view[b]])]
            pos = similar(clean[a], view[a]) / 0.5
            scores = [similar(anchor, x) / 0.5 for x in others] + [pos] * include_pos
            losses.append(math.log(sum(math.exp(s) for s in scores)) - pos)
    return float(np.mean(losses))


OPTIONS: list[dict[str, Any]] = [
    {"same_side": "literal"},
    {"include_pos": False},
    {"set_similarity": "slots"},
    {"same_side_projection": "mlp", "set_similarity": "slots", "same_side": "literal"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_slow_twin(options: dict[str, Any]) -> None:
    encoder, given = tiny.FreeVectors(interests=3).double(), same_side(**options)
    loss, batch = objective(encoder, given), tiny.batch()
    got = loss(tiny.step(tiny.settings(given), encoder, batch))
    literal = options.get("same_side") == "literal"
    how = {"literal": literal, "include_pos": options.get("include_pos", True) and not literal}
    similar = slots if options.get("set_similarity") == "slots" else best_match
    users, users_b = (loss.project_users(x[batch["user_idx"]]).detach().numpy() for x in (encoder.users, encoder.users_b))
    assert got["uu"].item() == pytest.approx(slow(batch["user_idx"].tolist(), users, users_b, similar, **how), abs=1e-9)
    items, items_b = (loss.project_items(x[batch["item_idx"]])[:, None].detach().numpy() for x in (encoder.items, encoder.items_b))
    assert got["vv"].item() == pytest.approx(slow(batch["item_idx"].tolist(), items, items_b, similar, **how), abs=1e-9)


def test_literal_by_hand() -> None:
    # three items at right angles, each with a second view at 60 degrees: -.5 / t + ln(2 e^0), eq. 6 as printed
    encoder = tiny.FreeVectors(dim=6)
    with torch.no_grad():
        encoder.items[1:4], encoder.items_b[1:4] = torch.eye(6)[:3], 0.5 * torch.eye(6)[:3] + math.sqrt(0.75) * torch.eye(6)[3:]
    given = same_side(uu=0, same_side="literal")
    got = objective(encoder, given)(tiny.step(tiny.settings(given), encoder, tiny.pairs([1, 2, 3], [1, 2, 3])))
    assert got["vv"].item() == pytest.approx(math.log(2) - 1, abs=1e-6)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_one_entity_alone_costs_nothing(options: dict[str, Any]) -> None:
    encoder, given = tiny.FreeVectors(), same_side(**options)
    got = objective(encoder, given)(tiny.step(tiny.settings(given), encoder, tiny.pairs([1, 1], [2, 2])))
    assert got["uu"] == got["vv"] == 0


def test_users_that_only_drop_out() -> None:
    given = same_side(perturb_sides="item", vv=0)
    encoder, batch = tiny.encoder(tiny.settings()).double(), tiny.batch()
    users = encoder.user(batch).detach().numpy()  # without dropout both views are the user as it is
    got = objective(encoder, given)(tiny.step(tiny.settings(given), encoder, batch))["uu"]
    want = slow(batch["user_idx"].tolist(), users, users, best_match, literal=False, include_pos=True)
    assert got.item() == pytest.approx(want, abs=1e-9)

    dropping = tiny.settings({**given, "model.dropout": 0.3})
    encoder = tiny.encoder(dropping)
    step = tiny.step(dropping, encoder, batch)
    view = step.user_view("b", step.first_users[0], masked=False)
    noise = step.words(Purpose.USER_VIEW, batch["row"])
    torch.testing.assert_close(view[step.first_users[0]], encoder.user(batch, noise=noise)[step.first_users[0]])
    assert not torch.isclose(unit(view), unit(step.user_BKD)).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    # property P5.13
    encoder, given = tiny.FreeVectors(interests=2, dim=3).double(), same_side(**options)
    loss = objective(encoder, given)
    with torch.no_grad():  # away from the kink of ReLU, where no difference is the gradient
        for name, bias in loss.named_parameters():
            if name.endswith("0.bias"):
                bias.fill_(3.0)

    def value(*_: Tensor) -> Tensor:
        parts = loss(tiny.step(tiny.settings(given), encoder, tiny.batch(6)))
        total: Tensor = parts["uu"] + parts["vv"]
        return total

    assert torch.autograd.gradcheck(value, (*encoder.parameters(), *loss.parameters()), fast_mode=True)
