"""MIC's three contrasts: closed forms, a slow twin, invariances."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from conf.settings import Settings
from tests.trainer import tiny
from trainer.backends.single import SingleBackend
from trainer.deferred import materialize_module
from trainer.encoders import Batch, Encoder
from trainer.objectives import Criterion, build_objectives
from trainer.objectives.mic import MicContrast
from trainer.objectives.step import Step
from trainer.optimizers import Optimizers

Vectors = npt.NDArray[np.float64]
IDENTITY = {"objectives.mic": {"projection": "identity", "temperature": 0.5}}


def parts(encoder: Encoder, batch: Batch, overrides: dict[str, Any] = IDENTITY) -> dict[str, Tensor]:
    given = tiny.settings(overrides)
    losses: dict[str, Tensor] = mic(encoder, overrides)(tiny.step(given, encoder, batch))
    return losses


def mic(encoder: Encoder, overrides: dict[str, Any] = IDENTITY) -> MicContrast:
    loss = MicContrast(tiny.settings(overrides), encoder).to("meta")
    materialize_module(loss, seed=1)
    return loss.to(next(encoder.parameters()).dtype)


def cosine(a: Vectors, b: Vectors) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def nce(pos: float, negatives: list[float], temperature: float) -> float:
    return math.log(sum(math.exp(s / temperature) for s in [pos, *negatives])) - pos / temperature


def slow_uv(step: Step, loss: MicContrast, temperature: float) -> float:
    """MIC eq. 4 over pairs of the batch, in loops."""
    users = [[loss.project_user(u).detach().numpy() for u in row] for row in step.encoder.user(step.batch)]
    items = [loss.project_item(v).detach().numpy() for v in step.encoder.item(step.batch["item_idx"])]
    user_idx, item_idx, known = step.batch["user_idx"].tolist(), step.batch["item_idx"].tolist(), step.known_positives.tolist()
    total = 0.0
    for i, (own_user, own_item) in enumerate(zip(user_idx, item_idx, strict=True)):
        answering = max(users[i], key=lambda u: cosine(u, items[i]))
        strangers = [j for j in range(len(items)) if user_idx[j] != own_user and item_idx[j] != own_item]
        to_items = [cosine(answering, items[j]) for j in strangers if item_idx[j] not in known[i]]
        to_users = [max(cosine(u, items[i]) for u in users[j]) for j in strangers if own_item not in known[j]]
        pos = cosine(answering, items[i])
        total += nce(pos, to_items, temperature) + nce(pos, to_users, temperature)
    return total / len(items)


def slow_same_side(ids: list[int], clean: list[Vectors], view: list[Vectors], temperature: float) -> float:
    """NT-Xent over the first row of each id; each entity is a list of interest vectors."""

    def similarity(a: Vectors, b: Vectors) -> float:
        s = [[cosine(x, y) for y in b] for x in a]
        return (sum(max(row) for row in s) / len(a) + sum(max(col) for col in zip(*s, strict=True)) / len(b)) / 2

    first = [ids.index(i) for i in sorted(set(ids))]
    total = 0.0
    for a in first:
        others = [x for b in first if b != a for x in (clean[b], view[b])]
        for anchor in (clean[a], view[a]):
            total += nce(similarity(clean[a], view[a]), [similarity(anchor, x) for x in others], temperature)
    return total / (2 * len(first))


@pytest.mark.parametrize("kind", ["mlp", "linear", "identity"])
@pytest.mark.parametrize("interests", [1, 3])
def test_equals_the_slow_twin(interests: int, kind: str) -> None:
    overrides = {"objectives.mic": {"projection": kind, "temperature": 0.3}}
    encoder = (tiny.encoder(tiny.settings()) if interests == 1 else tiny.FreeVectors(interests)).double()
    loss, batch = mic(encoder, overrides), tiny.batch()
    step = tiny.step(tiny.settings(overrides), encoder, batch)
    got = loss(step)
    assert got["uv"].item() == pytest.approx(slow_uv(step, loss, 0.3), abs=1e-9)
    users, users_b = encoder.user(batch).detach().numpy(), encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"]).detach().numpy()
    assert got["uu"].item() == pytest.approx(slow_same_side(batch["user_idx"].tolist(), list(users), list(users_b), 0.3), abs=1e-9)
    items = encoder.item(batch["item_idx"])[:, None].detach().numpy()
    items_b = encoder.item(batch["item_idx"], vm=batch["vm_b"])[:, None].detach().numpy()
    assert got["vv"].item() == pytest.approx(slow_same_side(batch["item_idx"].tolist(), list(items), list(items_b), 0.3), abs=1e-9)


def test_two_masked_views() -> None:
    encoder, overrides = tiny.encoder(tiny.settings()).double(), {"objectives.mic": {"temperature": 0.3}}
    batch = tiny.batch()
    batch |= {f"{name}_a": batch[f"{name}_b"].flip(0) for name in ("um", "uh", "vm")}
    got = mic(encoder, overrides)(tiny.step(tiny.settings(overrides), encoder, batch))
    users = [encoder.user(batch, um=batch[f"um_{v}"], uh=batch[f"uh_{v}"]).detach().numpy() for v in "ab"]
    items = [encoder.item(batch["item_idx"], vm=batch[f"vm_{v}"])[:, None].detach().numpy() for v in "ab"]
    assert got["uu"].item() == pytest.approx(slow_same_side(batch["user_idx"].tolist(), list(users[0]), list(users[1]), 0.3), abs=1e-9)
    assert got["vv"].item() == pytest.approx(slow_same_side(batch["item_idx"].tolist(), list(items[0]), list(items[1]), 0.3), abs=1e-9)


def test_user_item_by_hand() -> None:
    # property P5.2: similarities [[.9, .1], [.2, .8]]
    encoder = tiny.FreeVectors(dim=3)
    with torch.no_grad():
        encoder.items[1:3] = torch.eye(3)[:2]
        for user, (x, y) in enumerate(((0.9, 0.1), (0.2, 0.8)), 1):
            encoder.users[user, 0] = torch.tensor([x, y, math.sqrt(1 - x * x - y * y)])
    assert parts(encoder, tiny.pairs([1, 2], [1, 2]))["uv"].item() == pytest.approx(0.4440090, abs=1e-6)


def test_all_equal() -> None:
    # property P5.1: NT-Xent of two entities
    encoder = tiny.FreeVectors()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(1.0)
    got = parts(encoder, tiny.pairs([1, 2], [1, 2]))
    assert got["uu"].item() == pytest.approx(math.log(3), abs=1e-6)
    assert got["vv"].item() == pytest.approx(math.log(3), abs=1e-6)
    assert got["uv"].item() == pytest.approx(2 * math.log(2), abs=1e-6)


def test_swapping_users_and_items_changes_nothing() -> None:
    # property P5.3
    users, items = [1, 2, 3, 2, 5], [1, 2, 1, 4, 5]
    encoder, swapped = tiny.FreeVectors(seed=1), tiny.FreeVectors(seed=1)
    with torch.no_grad():
        for one, other in (("users", "items"), ("users_b", "items_b")):
            for i in range(1, 8):
                getattr(swapped, one)[i, 0] = getattr(encoder, other)[i]
                getattr(swapped, other)[i] = getattr(encoder, one)[i, 0]
    want, got = parts(encoder, tiny.pairs(users, items)), parts(swapped, tiny.pairs(items, users))
    torch.testing.assert_close(got["uv"], want["uv"])
    torch.testing.assert_close(got["uu"], want["vv"])


def rotated(x: Tensor) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)).to(x.dtype))
    return x @ q


@pytest.mark.parametrize("change", [rotated, lambda x: 3.5 * x], ids=["rotation", "scale"])
def test_rotation_and_scale_change_nothing(change: Callable[[Tensor], Tensor]) -> None:
    # property P5.4
    encoder = tiny.FreeVectors(interests=2).double()
    want = parts(encoder, tiny.batch())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(change(parameter))
    torch.testing.assert_close(parts(encoder, tiny.batch()), want)


def test_the_order_of_rows_changes_nothing() -> None:
    # property P5.4; which row stands for a user goes by its number, not by its place
    encoder = tiny.encoder(tiny.settings()).double()
    order = [5, 12, 0, 7, 3, 9, 1, 11, 2, 10, 4, 8, 6]
    want, got = parts(encoder, tiny.batch()), parts(encoder, tiny.rows_of(tiny.batch(), order))
    torch.testing.assert_close(got, want)


def test_a_repeated_item_is_not_its_own_negative() -> None:
    # property P5.8, for vv: the second row of item 1 changes nothing
    encoder = tiny.FreeVectors()
    torch.testing.assert_close(parts(encoder, tiny.pairs([1, 2, 3], [1, 5, 1]))["vv"], parts(encoder, tiny.pairs([1, 2], [1, 5]))["vv"])


@pytest.mark.parametrize(("users", "items"), [([1], [1]), ([1, 1, 1], [2, 2, 2])])
def test_nothing_to_contrast_costs_nothing(users: list[int], items: list[int]) -> None:
    encoder = tiny.FreeVectors()
    got = parts(encoder, tiny.pairs(users, items))
    total = got["uv"] + got["uu"] + got["vv"]
    assert total == 0
    total.backward()
    for parameter in encoder.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0


def test_history_of_a_user_is_no_negative() -> None:
    encoder = tiny.FreeVectors()
    batch = tiny.pairs([1, 2, 3], [1, 2, 3])
    batch["hist"] = torch.tensor([[2, 3], [0, 0], [0, 0]])  # user 1 has clicked the other two: no item is its negative,
    step = tiny.step(tiny.settings(IDENTITY), encoder, batch)
    assert step.negative_items_BN.tolist() == [[False, False, False], [True, False, True], [True, True, False]]
    assert step.negative_users_BN.T.tolist() == step.negative_items_BN.tolist()  # nor is it one of theirs


def test_parts_without_weight_are_not_computed() -> None:
    encoder = tiny.FreeVectors()
    assert set(parts(encoder, tiny.batch(), {"objectives.mic": {"uv": 0, "vv": 0}})) == {"uu"}
    assert not list(mic(encoder, {"objectives.mic": {"uv": 0}}).parameters())


def test_total_is_the_weighted_sum() -> None:
    # MIC eq. 8
    given = tiny.settings({"base.weight": 0.7, "objectives.mic": {"weight": 0.3, "uv": 1, "uu": 2, "vv": 0.5}})
    encoder, criterion = tiny.model(given, torch.float64)
    total, p = criterion(tiny.step(given, encoder, tiny.batch()))
    want = 0.7 * p["logistic.loss"] + 0.3 * (p["mic.uv"] + 2 * p["mic.uu"] + 0.5 * p["mic.vv"])
    torch.testing.assert_close(total.detach(), want)


DROPPING = {"base.weight": 1, "model.dropout": 0.3}


def trained(given: Settings, *, weightless: bool = False) -> dict[str, Tensor]:
    """The weights after two steps of the optimisers; weightless: mic is computed and weighted by 0, not left out."""
    encoder, criterion = tiny.model(given)
    start = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    if weightless:
        criterion = Criterion(
            {"logistic": criterion.get_submodule("losses.logistic"), "mic": mic(encoder, {"objectives.mic": {"weight": 0}})}
        )  # type: ignore[dict-item]
    optimizers = Optimizers(given, encoder, criterion)
    for number in range(2):
        optimizers.zero_grad()
        total, _ = criterion(tiny.step(given, encoder, tiny.batch(seed=number), number=number))
        total.backward()
        SingleBackend().sync_gradients(optimizers.parameters)
        optimizers.step()
    learned = encoder.state_dict()
    assert any((learned[name] != weight).any() for name, weight in start.items())
    return learned | criterion.get_submodule("losses.logistic").state_dict()


def test_weight_0_is_exactly_the_base_loss() -> None:
    # property P5.7, bit for bit
    want = trained(tiny.settings({**DROPPING, "objectives.mic": None}))
    without = tiny.settings({**DROPPING, "objectives.mic": {"weight": 0}})
    for got in (trained(without), trained(without, weightless=True)):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_user_item_alone_is_that_part_of_the_whole() -> None:
    # property P5.7, bit for bit: no part draws from what another does
    found = []
    for weights in ({}, {"uu": 0, "vv": 0}):
        given = tiny.settings({**DROPPING, "objectives.mic": {"views": "both", **weights}})
        encoder, criterion = tiny.model(given)
        uv = criterion.get_submodule("losses.mic")(tiny.step(given, encoder, tiny.batch()))["uv"]
        learned = dict(criterion.get_submodule("losses.mic").named_parameters()) | dict(encoder.named_parameters())
        gradients = torch.autograd.grad(uv, list(learned.values()), allow_unused=True)
        found.append({"uv": uv.detach(), **{name: g for name, g in zip(learned, gradients, strict=True) if g is not None}})
    assert {"project_user.0.weight", "project_item.0.weight"} < found[0].keys()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


LEARNED = {"uv": "learned", "uu": "learned", "vv": "learned"}


@pytest.mark.parametrize("options", [{"projection": "mlp"}, {"projection": "linear"}, LEARNED], ids=str)
def test_gradients_by_finite_differences(options: dict[str, Any]) -> None:
    given = tiny.settings({"objectives.mic": {"temperature": 0.5, **options}})
    encoder = tiny.FreeVectors(interests=2, dim=3).double()
    criterion = build_objectives(given, encoder).double()
    with torch.no_grad():  # away from the kink of ReLU, where no difference is the gradient
        for name, bias in criterion.named_parameters():
            if name.endswith("0.bias"):
                bias.fill_(3.0)
    parameters = (*encoder.parameters(), *criterion.parameters())

    def value(*_: Tensor) -> Tensor:
        total: Tensor = criterion(tiny.step(given, encoder, tiny.batch(6)))[0]
        return total

    assert torch.autograd.gradcheck(value, parameters, fast_mode=True)


def learned(sigma: float | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    given = tiny.settings({"base.weight": 0, "objectives.mic": {"weight": 0.3, "uv": "learned", "uu": 2, "vv": "learned"}})
    encoder, criterion = tiny.model(given, torch.float64)
    ln_sigma = dict(criterion.named_parameters())["losses.mic.ln_sigma"]
    if sigma is not None:
        with torch.no_grad():
            ln_sigma.copy_(torch.tensor([math.log(sigma), math.log(3)], dtype=torch.float64))
    total, p = criterion(tiny.step(given, encoder, tiny.batch()))
    return total, p, ln_sigma


def test_learned_weights_start_at_1() -> None:
    total, p, ln_sigma = learned()
    assert ln_sigma.tolist() == [0, 0]
    torch.testing.assert_close(total.detach(), 0.3 * (p["mic.uv"] + 2 * p["mic.uu"] + p["mic.vv"]))


def test_learned_weights() -> None:
    # Kendall et al. 2018: L / sigma^2 + ln sigma, least where sigma^2 = 2 L
    total, p, ln_sigma = learned(sigma=1.7)
    assert p["mic.uv_ln_sigma"].item() == pytest.approx(math.log(1.7))
    fixed = 2 * p["mic.uu"] + p["mic.vv"] / 9 + math.log(3)
    torch.testing.assert_close(total.detach(), 0.3 * (p["mic.uv"] / 1.7**2 + math.log(1.7) + fixed))
    total.backward()
    assert ln_sigma.grad is not None
    torch.testing.assert_close(ln_sigma.grad[0], 0.3 * (1 - 2 * p["mic.uv"] / 1.7**2))
    best, _, at_best = learned(sigma=math.sqrt(2 * float(p["mic.uv"])))
    best.backward()
    assert at_best.grad is not None
    assert abs(float(at_best.grad[0])) < 1e-12


@pytest.mark.parametrize("signed", [{"include_pos": False}, {"views": "literal"}, {"same_side": "literal"}])
def test_learned_weights_need_losses_that_cannot_be_negative(signed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="learned weights need losses that cannot be negative; not with "):
        tiny.settings({"objectives.mic": {"uu": "learned", **signed}})


@pytest.mark.parametrize("overrides", [{"base.include_pos": False}, {"objectives.micrec.include_pos": False}])
def test_a_loss_by_inner_product_keeps_its_positive(overrides: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="include_pos"):  # without it, it would have no lower bound
        tiny.settings(overrides)


def test_detached_columns_change_no_value_and_with_one_worker_no_gradient() -> None:
    results = []
    for gather in ("exact", "detached"):
        given = tiny.settings({"objectives.mic": {"gather": gather}})
        encoder, criterion = tiny.model(given)
        total, _ = criterion(tiny.step(given, encoder, tiny.batch()))
        total.backward()
        results.append((total.detach(), {name: parameter.grad for name, parameter in encoder.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_what_a_step_tells_of_its_positives() -> None:
    given, encoder = tiny.settings(IDENTITY), tiny.FreeVectors(interests=2).double()
    step = tiny.step(given, encoder, tiny.batch())
    mic(encoder)(step)
    items, items_b = encoder.items.detach().numpy(), encoder.items_b.detach().numpy()
    want = [cosine(items[i], items_b[i]) for i in sorted(set(step.batch["item_idx"].tolist()))]
    assert float(step.notes["mic.vv.pos"]) == pytest.approx(np.mean(want), abs=1e-12)
    rows = zip(step.batch["user_idx"].tolist(), step.batch["item_idx"].tolist(), strict=True)
    want = [max(cosine(u, items[i]) for u in encoder.users[user].detach().numpy()) for user, i in rows]
    assert float(step.notes["mic.uv.pos"]) == pytest.approx(np.mean(want), abs=1e-12)
    assert set(step.notes) == {"mic.uv.pos", "mic.uu.pos", "mic.vv.pos"}
