"""Contrast of masked views of items: a slow twin, closed forms, who is a negative of whom."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer import tiny
from trainer.encoders import Encoder
from trainer.objectives.masked_views import MaskedViews
from trainer.objectives.similarity import unit
from trainer.objectives.step import Step
from trainer.randomness import Purpose


def made(overrides: dict[str, Any], strategy: str = "rfm", encoder: Encoder | None = None) -> tuple[Any, Encoder, MaskedViews]:
    given = tiny.settings({"objectives": {"masked_views": overrides}, "samples.masks": {"strategy": strategy}})
    encoder = encoder or tiny.encoder(given).double()
    return given, encoder, MaskedViews(given, encoder)


def slow(items: list[int], view_a: Any, view_b: Any, temperature: float) -> float:
    total = 0.0
    for i, item in enumerate(items):
        scores = [view_a[i] @ view_b[j] / temperature for j in range(len(items)) if j == i or items[j] != item]
        total += math.log(sum(math.exp(s) for s in scores)) - view_a[i] @ view_b[i] / temperature
    return total / len(items)


def views(step: Step, items: Tensor) -> tuple[Any, Any]:
    row = step.batch["row"]
    a = step.masked_items(items, "a", step.words(Purpose.MASKED_VIEWS, row))
    b = step.masked_items(items, "b", step.words(Purpose.MASKED_VIEWS, row, 1))
    return unit(a).detach().numpy(), unit(b).detach().numpy()


@pytest.mark.parametrize("strategy", ["rfm", "random_p"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_the_slow_twin(strategy: str, symmetric: bool) -> None:
    given, encoder, loss = made({"items": "batch", "temperature": 0.3, "symmetric": symmetric}, strategy)
    step = tiny.step(given, encoder, tiny.batch())
    items = step.batch["item_idx"]
    a, b = views(step, items)
    want = slow(items.tolist(), a, b, 0.3)
    if symmetric:
        want = (want + slow(items.tolist(), b, a, 0.3)) / 2
    assert loss(step)["loss"].item() == pytest.approx(want, abs=1e-10)


def test_drawn_items_are_uniform_and_each_once_counts_once() -> None:
    given, encoder, loss = made({"items": "unique", "temperature": 0.3})
    step = tiny.step(given, encoder, tiny.batch())
    items, first = step.batch["item_idx"], step.first_items[0]
    a, b = views(step, items)
    want = slow(items[first].tolist(), a[first], b[first], 0.3)
    assert loss(step)["loss"].item() == pytest.approx(want, abs=1e-10)


def test_views_hide_halves_that_make_up_the_whole() -> None:
    given, encoder, _ = made({})
    step = tiny.step(given, encoder, tiny.batch())
    hidden: dict[str, Tensor] = {}
    item = encoder.item

    def spy(items: Tensor, **kwargs: Any) -> Tensor:
        hidden[str(len(hidden))] = kwargs["vm"]
        return item(items, **kwargs)

    encoder.item = spy  # type: ignore[method-assign]
    noise = step.words(Purpose.MASKED_VIEWS, step.batch["row"])
    for view in ("a", "b"):
        step.masked_items(step.batch["item_idx"], view, noise)  # type: ignore[arg-type]
    a, b = hidden.values()
    assert (a & b == 0).all()  # property P3.1
    assert (a | b == 0b111).all()
    assert len(set(a.tolist())) > 1


def test_spread_out_is_a_closed_form() -> None:
    # two items at right angles: -ln(e^(1/t) / (e^(1/t) + e^0)), whatever the masks
    encoder = tiny.FreeVectors().double()
    with torch.no_grad():
        encoder.items[1], encoder.items[2] = torch.eye(6)[0], torch.eye(6)[1]
    given, _, loss = made({"items": "batch", "spread_out": True, "temperature": 0.5}, encoder=encoder)
    step = tiny.step(given, encoder, tiny.pairs([1, 2], [1, 2]))
    assert loss(step)["loss"].item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric": True}, {"spread_out": True}, {"items": "batch"}, {"items": "unique", "symmetric": True}],
    ids=str,
)
def test_gradients_equal_finite_differences(options: dict[str, Any]) -> None:
    given, encoder, loss = made({"temperature": 0.3, **options})

    def total(*_: Tensor) -> Tensor:
        return loss(tiny.step(given, encoder, tiny.batch()))["loss"]

    tower = [p for name, p in encoder.named_parameters() if name.startswith("item_tower")]
    assert torch.autograd.gradcheck(total, tower, eps=1e-6, atol=1e-7, fast_mode=True)
