import math

import numpy as np
import pytest
import torch

from tests.trainer import tiny
from trainer.deferred import materialize_module
from trainer.encoders import Encoder
from trainer.objectives import Criterion
from trainer.objectives.logistic import Logistic, cross_entropy
from trainer.objectives.negatives import uniform_negatives
from trainer.objectives.step import Step


def logistic(encoder: Encoder, **base: object) -> Logistic:
    loss = Logistic(tiny.settings({f"base.{name}": value for name, value in base.items()}), encoder).to("meta")
    materialize_module(loss, seed=1)
    return loss


def test_in_batch_equals_the_slow_twin() -> None:
    given = tiny.settings({"base.negatives": "in_batch"})
    encoder = tiny.FreeVectors(3).double()
    step = tiny.step(given, encoder, tiny.batch())
    got = logistic(encoder, negatives="in_batch", scale="fixed")(step)["loss"]
    user_idx, item_idx, num = step.batch["user_idx"].tolist(), step.batch["item_idx"].tolist(), 13
    total = weight = 0.0
    for i in range(num):
        item = encoder.items[item_idx[i]]
        user = max(encoder.users[user_idx[i]], key=lambda u: float((u @ item / u.norm()).detach()))
        for j in range(num):
            known = item_idx[j] in step.known_positives[i].tolist() or user_idx[i] == user_idx[j]
            if i == j or not known:
                z = 10 * float(torch.cosine_similarity(user, encoder.items[item_idx[j]], dim=0).detach())
                own = float(step.batch["weight"][i]) * (1 if i == j else 1 / (num - 1))
                total += own * math.log1p(math.exp(-z if i == j else z))
                weight += own
    assert got.item() == pytest.approx(total / weight, abs=1e-9)


def test_in_batch_by_hand() -> None:
    # users and items at right angles, z = 10 on the diagonal and 0 off it: half ln(1 + e^-10), half ln 2
    encoder = tiny.FreeVectors(dim=3)
    with torch.no_grad():
        encoder.items[1:4] = encoder.users[1:4, 0] = torch.eye(3)
    step = tiny.step(tiny.settings(), encoder, tiny.pairs([1, 2, 3], [1, 2, 3]))
    want = (math.log1p(math.exp(-10)) + math.log(2)) / 2
    assert logistic(encoder, negatives="in_batch")(step)["loss"].item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("negatives", ["shared", "mixed"])
def test_negatives_that_it_does_not_take(negatives: str) -> None:
    with pytest.raises(ValueError, match="the logistic loss takes uniform or in_batch ones only"):
        tiny.settings({"base.negatives": negatives})


def slow(step: Step, num: int, a: float, b: float) -> float:
    """-(y ln p + (1 - y) ln(1 - p)) with p = sigmoid(a cos + b), pair by pair."""
    encoder, batch = step.encoder.double(), step.batch
    drawn, valid = uniform_negatives(tiny.ITEMS, step.known_positives, batch["row"], num, seed=step.seed, step=step.step)
    total = weight = 0.0
    for row in range(len(batch["row"])):
        user = encoder.user(tiny.rows_of(batch, [row]))[0].detach().numpy()
        pairs = [(int(batch["item_idx"][row]), 1)] + [(int(drawn[row, m]), 0) for m in range(num) if valid[row, m]]
        target = encoder.item(torch.tensor([pairs[0][0]]))[0].detach().numpy()
        user = max(user, key=lambda u: (u @ target) / np.linalg.norm(u))  # the interest closest to the clicked item answers
        for item, y in pairs:
            vector = encoder.item(torch.tensor([item]))[0].detach().numpy()
            p = 1 / (1 + math.exp(-(a * (user @ vector) / np.linalg.norm(user) / np.linalg.norm(vector) + b)))
            total -= float(batch["weight"][row]) * math.log(p if y else 1 - p)
            weight += float(batch["weight"][row])
    return total / weight


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("scale", ["fixed", "learned"])
def test_equals_the_slow_twin(scale: str, interests: int) -> None:
    given = tiny.settings({"base.num_negatives": 6})
    encoder = tiny.encoder(given) if interests == 1 else tiny.FreeVectors(interests)
    step = tiny.step(given, encoder.double(), tiny.batch())
    loss = logistic(encoder, num_negatives=6, scale=scale)
    a, b = 10.0, 0.0
    if scale == "learned":
        a, b = 2.5, -0.3
        with torch.no_grad():
            loss.double().log_scale.fill_(math.log(a))
            loss.bias.fill_(b)
    assert loss(step)["loss"].item() == pytest.approx(slow(step, 6, a, b), abs=1e-9)


def test_ln_2_where_the_score_is_0() -> None:
    # property P5.6
    torch.testing.assert_close(cross_entropy(torch.zeros(4, 5)), torch.full((4, 5), math.log(2)))


def test_cross_entropy_is_stable() -> None:
    got = cross_entropy(torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]]))
    assert got.tolist() == [[0, 0], [1000, 1000]]


def test_scale_starts_at_10_and_stays_within_1_and_100() -> None:
    loss = logistic(tiny.FreeVectors())
    torch.testing.assert_close(loss.logits(torch.tensor(0.5)), torch.tensor(5.0))
    for outside, kept in ((50.0, 100.0), (-1.0, 1.0)):
        with torch.no_grad():
            loss.log_scale.fill_(outside)
        Criterion({"logistic": loss}).keep_in_range()
        torch.testing.assert_close(loss.logits(torch.tensor(0.5)), torch.tensor(kept / 2))
    fixed = logistic(tiny.FreeVectors(), scale="fixed")
    fixed.keep_in_range()
    assert not list(fixed.parameters())


def test_scale_comes_back_from_the_end_of_its_range() -> None:
    loss = logistic(tiny.FreeVectors())
    optimizer = torch.optim.SGD([loss.log_scale], lr=1.0)
    scales = []
    for wanted in (100.0, 100.0, -100.0):  # a step beyond, one more, one back
        optimizer.zero_grad()
        (-wanted * loss.logits(torch.tensor(0.01))).backward()
        optimizer.step()
        Criterion({"logistic": loss}).keep_in_range()
        scales.append(float(loss.log_scale.detach().exp()))
    assert scales == pytest.approx([100, 100, 1])


def test_a_row_that_likes_everything_trains_on_its_click_alone() -> None:
    given = tiny.settings()
    encoder = tiny.FreeVectors()
    step = tiny.step(given, encoder, tiny.pairs([1, 2], [3, 4]))
    step.known_positives = torch.arange(1, tiny.ITEMS + 1).expand(2, -1)
    loss = logistic(encoder)(step)["loss"]
    cosine = torch.nn.functional.cosine_similarity(encoder.users[[1, 2], 0], encoder.items[[3, 4]])
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-10 * cosine).mean())


@pytest.mark.parametrize("negatives", ["uniform", "in_batch"])
def test_gradients_by_finite_differences(negatives: str) -> None:
    given = tiny.settings()
    encoder = tiny.FreeVectors().double()
    loss = logistic(encoder, negatives=negatives).double()
    parameters = {**dict(encoder.named_parameters(prefix="e")), **dict(loss.named_parameters(prefix="l"))}

    def value(*_: torch.Tensor) -> torch.Tensor:
        return loss(tiny.step(given, encoder, tiny.batch()))["loss"]

    assert torch.autograd.gradcheck(value, tuple(parameters.values()), fast_mode=True)
