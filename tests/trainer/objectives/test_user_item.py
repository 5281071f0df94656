"""The options of MIC's contrast between users and items: a slow twin for each, closed forms, finite differences."""

import math
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
from trainer.objectives.step import Step

Vectors = npt.NDArray[np.float64]
Pair = tuple[list[Vectors], Vectors]  # a row's user (its interests) and item


def only_uv(**options: object) -> dict[str, Any]:
    return {"objectives.mic": {"uu": 0, "vv": 0, "projection": "identity", "temperature": 0.5, **options}}


def objective(encoder: Encoder, **options: object) -> MicContrast:
    loss = MicContrast(tiny.settings(only_uv(**options)), encoder).to("meta")
    materialize_module(loss, seed=1)
    return loss.to(next(encoder.parameters()).dtype)


def uv(encoder: Encoder, batch: dict[str, Tensor], counts: list[int] | None = None, **options: object) -> Tensor:
    step = tiny.step(tiny.settings(only_uv(**options)), encoder, batch)
    if counts is not None:
        step.item_counts = torch.tensor(counts)
    value: Tensor = objective(encoder, **options)(step)["uv"]
    return value


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / max(np.linalg.norm(a), 1e-6) / max(np.linalg.norm(b), 1e-6))  # an item all of whose fields are masked is zero


def one_row(positives: list[float], negatives: list[float], include_pos: bool) -> float | None:
    """The mean over the positives; None where nothing is contrasted and the positive is not in the sum."""
    if not (include_pos or negatives):
        return None
    sums = [math.log(sum(math.exp(s) for s in negatives + [p] * include_pos)) for p in positives]
    return float(np.mean([total - p for total, p in zip(sums, positives, strict=True)]))


def slow(step: Step, loss: MicContrast, views: str, *, include_pos: bool, logq: bool, t: float = 0.5) -> float:
    """All pairs of the batch in loops, with the views that the setting names."""
    batch, encoder = step.batch, step.encoder

    def rows(users: Tensor, items: Tensor) -> list[Pair]:
        projected = [[loss.project_user(u).detach().numpy() for u in row] for row in users]
        return list(zip(projected, [loss.project_item(v).detach().numpy() for v in items], strict=True))

    clean = rows(encoder.user(batch), encoder.item(batch["item_idx"]))
    perturbed = rows(encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"]), encoder.item(batch["item_idx"], vm=batch["vm_b"]))
    anchors = perturbed if views == "augmented" else clean
    partners = {"clean": [clean], "augmented": [perturbed], "both": [clean, perturbed], "literal": [clean]}[views]
    columns = [perturbed] if views == "literal" else partners
    user_idx, item_idx, known = batch["user_idx"].tolist(), batch["item_idx"].tolist(), step.known_positives.tolist()
    ln_p = (step.item_counts.clamp(min=1).double() / step.item_counts.sum()).log().tolist()
    forth, back = [], []
    for i, (users, item) in enumerate(anchors):
        user = max(users, key=lambda u: cosine(u, item))
        others = [j for j in range(len(anchors)) if user_idx[j] != user_idx[i] and item_idx[j] != item_idx[i]]
        negatives = [j for j in others if item_idx[j] not in known[i]]
        bias = {j: ln_p[item_idx[j]] * logq for j in (i, *negatives)}
        forth.append(
            one_row(
                [cosine(user, side[i][1]) / t - bias[i] for side in partners],
                [cosine(user, side[j][1]) / t - bias[j] for side in columns for j in negatives],
                include_pos,
            )
        )
        negatives = [j for j in others if item_idx[i] not in known[j]]
        near = [max(cosine(u, item) for u in side[i][0]) / t for side in partners]
        far = [max(cosine(u, item) for u in side[j][0]) / t for side in columns for j in negatives]
        back.append(one_row(near, far, include_pos))
    return sum(float(np.mean([x for x in side if x is not None])) for side in (forth, back))


OPTIONS: list[dict[str, Any]] = [
    {"views": "augmented"},
    {"views": "both", "projection": "linear"},
    {"views": "literal"},
    {"include_pos": False, "logq": True},
    {"views": "both", "logq": True, "include_pos": False},
]


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_slow_twin(options: dict[str, Any], interests: int) -> None:
    encoder = (tiny.encoder(tiny.settings()) if interests == 1 else tiny.FreeVectors(interests)).double()
    loss = objective(encoder, **options)
    step = tiny.step(tiny.settings(only_uv(**options)), encoder, tiny.batch())
    views = options.get("views", "clean")
    include_pos = options.get("include_pos", True) and views != "literal"
    want = slow(step, loss, views, include_pos=include_pos, logq=options.get("logq", False))
    assert loss(step)["uv"].item() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("options", "want"), [({}, 0.4440090), ({"views": "literal"}, -2.8), ({"include_pos": False}, -2.8)])
def test_by_hand(options: dict[str, Any], want: float) -> None:
    # property P5.2: similarities [[.9, .1], [.2, .8]], the same in both views
    encoder = tiny.FreeVectors(dim=3)
    with torch.no_grad():
        encoder.items[1:3] = torch.eye(3)[:2]
        for user, (x, y) in enumerate(((0.9, 0.1), (0.2, 0.8)), 1):
            encoder.users[user, 0] = torch.tensor([x, y, math.sqrt(1 - x * x - y * y)])
        encoder.users_b.copy_(encoder.users)
        encoder.items_b.copy_(encoder.items)
    assert uv(encoder, tiny.pairs([1, 2], [1, 2]), **options).item() == pytest.approx(want, abs=1e-6)


def test_equal_views_make_both_a_sum_over_twice_as_many() -> None:
    encoder = tiny.FreeVectors()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(1.0)
    assert uv(encoder, tiny.pairs([1, 2, 3], [1, 2, 3]), views="both").item() == pytest.approx(2 * math.log(5), abs=1e-6)


def test_correction_by_hand() -> None:
    # property P5.5: scores (2, 1) of clicked and other item, shares (.5, .1) of the clicks
    encoder = tiny.FreeVectors(dim=2)
    with torch.no_grad():
        encoder.items[1:3] = torch.tensor([[1.0, 0], [0.5, math.sqrt(0.75)]])
        encoder.users[1:3, 0] = encoder.items[1:3]
    batch = tiny.pairs([1, 2], [1, 2])
    to_users, second = math.log1p(math.exp(-1)), math.log1p(math.exp(1 - 2 + math.log(0.1 / 0.5)))
    want = (1.0435918 + to_users + second + to_users) / 2
    assert uv(encoder, batch, counts=[0, 5, 1, 4], logq=True).item() == pytest.approx(want, abs=1e-6)
    assert uv(encoder, batch, counts=[0, 5, 1, 4]).item() == pytest.approx(2 * 0.3132617, abs=1e-6)
    torch.testing.assert_close(uv(encoder, batch, counts=[0, 3, 3], logq=True), uv(encoder, batch))


def test_without_the_positive_a_row_without_negatives_is_not_counted() -> None:
    encoder = tiny.FreeVectors().double()
    batch = tiny.pairs([1, 2, 3], [1, 2, 3])
    batch["hist"] = torch.tensor([[2, 3], [0, 0], [0, 0]])  # user 1 likes all: it has no negative
    step = tiny.step(tiny.settings(only_uv(include_pos=False)), encoder, batch)
    loss = objective(encoder, include_pos=False)
    assert loss(step)["uv"].item() == pytest.approx(slow(step, loss, "clean", include_pos=False, logq=False), abs=1e-9)
    alone = objective(encoder, include_pos=False)(tiny.step(tiny.settings(), encoder, tiny.pairs([1], [1])))["uv"]
    assert alone == 0
    alone.backward()  # nothing at all to contrast


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    # property P5.13
    encoder = tiny.FreeVectors(interests=2, dim=3).double()
    loss = objective(encoder, **options)

    def value(*_: Tensor) -> Tensor:
        part: Tensor = loss(tiny.step(tiny.settings(only_uv(**options)), encoder, tiny.batch(6)))["uv"]
        return part

    assert torch.autograd.gradcheck(value, (*encoder.parameters(), *loss.parameters()), fast_mode=True)
