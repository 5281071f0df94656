"""Recommended items in MIC's uv: against a slow twin, in loops."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from conf.settings import Settings
from tests.trainer import tiny
from trainer.deferred import materialize_module
from trainer.mining import Mined
from trainer.mining.recommended import Recommended
from trainer.objectives.mic import MicContrast
from trainer.objectives.mined_items import mined_items
from trainer.objectives.similarity import unit
from trainer.objectives.step import Step

TEMPERATURE = 0.5


def settings(projection: str = "identity", **mining: Any) -> Settings:
    mic = {"uu": 0, "vv": 0, "temperature": TEMPERATURE, "projection": projection}
    return tiny.settings({"objectives.mic": mic, "mining": {"positives": 0, **mining}})


def step_of(given: Settings, similarity: float = 0.9, listed: int = 6) -> Step:
    """User u's list is items u + 1, u + 2, ... (as places from 0: u, u + 1, ...), all as similar."""
    assert given.mining is not None
    encoder, users = tiny.FreeVectors(), torch.arange(1, tiny.USERS + 1)
    places = ((users[:, None] + torch.arange(listed)) % tiny.ITEMS).to(torch.int32)
    bank = unit(encoder.items.detach()[1:])[:, None].half()
    lists = Recommended(users, torch.arange(1, tiny.ITEMS + 1), bank, places, torch.full(places.shape, similarity))
    made = tiny.step(given, encoder, tiny.pairs([1, 2, 3, 4], [5, 6, 7, 1]))
    return replace(made, mining=Mined(given.mining, 4, {}, None, lists))


def contrast(given: Settings, step: Step) -> MicContrast:
    made = MicContrast(given, step.encoder).to("meta")
    materialize_module(made, seed=1)
    return made.to(next(step.encoder.parameters()).dtype)


def loss(given: Settings, step: Step) -> torch.Tensor:
    found: torch.Tensor = contrast(given, step)(step)["uv"]
    return found


def slow(step: Step, *, positive: bool, weight: float = 0.5) -> float:
    encoder: Any = step.encoder
    users, items = unit(encoder.users.detach())[:, 0], unit(encoder.items.detach())
    user_idx, item_idx, rows = step.batch["user_idx"].tolist(), step.batch["item_idx"].tolist(), range(4)
    drawn = mined_items(step, users[user_idx], lambda x: x)
    assert drawn is not None
    found = [[int(i) for i, valid in zip(drawn.idx_BM[r], drawn.valid_BM[r], strict=True) if valid] for r in rows]

    def nce(pos: float, negatives: list[float]) -> float:
        return math.log(sum(math.exp(s / TEMPERATURE) for s in [pos, *negatives])) - pos / TEMPERATURE

    total = 0.0
    for r in rows:
        u, v = users[user_idx[r]], items[item_idx[r]]
        back = [float(users[user_idx[j]] @ v) for j in rows if j != r]
        forth = [float(u @ items[item_idx[j]]) for j in rows if j != r and not (positive and item_idx[j] in found[r])]
        own, mined = float(u @ v), [float(u @ items[i]) for i in found[r]]
        if positive:
            parts = [nce(own, forth)] + [weight * nce(s, forth) for s in mined]
            total += sum(parts) / (1 + weight * len(mined))
        else:
            total += nce(own, forth + mined)
        total += nce(own, back)
    return total / 4


CASES: dict[str, dict[str, Any]] = {
    "positive": {"user_items": "positive", "hard_negatives": 0},
    "hard negatives": {"user_items": "hard_negative", "hard_negatives": 3},
    "live positive": {"user_items": "positive", "hard_negatives": 0, "encode": "live"},
}


@pytest.mark.parametrize(("case", "found"), [("positive", 1), ("hard negatives", 3), ("live positive", 1)])
def test_equals_the_slow_twin(case: str, found: int) -> None:
    mining = CASES[case]
    given = settings(**mining)
    step = step_of(given)
    assert loss(given, step).item() == pytest.approx(slow(step, positive=mining["user_items"] == "positive"), abs=2e-3)
    assert step.notes["mined.uv.found"] == found
    plain = loss(given, replace(step, mining=None)).item()
    assert plain != pytest.approx(loss(given, step).item(), abs=1e-2)


def test_only_near_items_are_positives_and_only_live_ones_learn() -> None:
    given = settings(user_items="positive", hard_negatives=0)
    far = step_of(given, similarity=0.7)
    assert loss(given, far).item() == pytest.approx(loss(given, replace(far, mining=None)).item(), abs=1e-6)
    near = settings(user_items="positive", hard_negatives=0, user_items_min_similarity=0.7, user_items_weight=2)
    step = step_of(near, similarity=0.7)
    assert loss(near, step).item() == pytest.approx(slow(step, positive=True, weight=2), abs=2e-3)
    for encode, learns in (("detached", False), ("live", True)):
        given = settings(user_items="positive", hard_negatives=0, encode=encode)
        step = step_of(given, listed=1)  # items 2, 3, 4 and 5 for users 1 to 4, of which the batch holds item 5
        loss(given, step).backward()
        encoder: Any = step.encoder
        assert bool(encoder.items.grad[2:5].abs().sum() > 0) == learns


def test_what_is_noted() -> None:
    given = settings(**CASES["positive"])
    step = step_of(given, similarity=0.9)
    loss(given, step)
    told = {name: value.item() for name, value in step.notes.items() if name.startswith("mined")}
    assert told == {"mined.uv.staleness": 7, "mined.uv.found": 1, "mined.uv.similarity": pytest.approx(0.9)}  # the search was at step 4
    unwatched = replace(step_of(given), watch=False)
    loss(given, unwatched)
    assert not any(name.startswith("mined") for name in unwatched.notes)


def test_what_would_be_wrong_is_counted() -> None:
    """Four rows with lists of six items, all of which three users like; the fourth likes two of them."""
    given = settings(**CASES["hard negatives"])
    step = step_of(given)
    step.known_positives = torch.arange(1, tiny.ITEMS + 1).repeat(4, 1)
    step.known_positives[3] = torch.tensor([5, 6, 2, *[0] * 6])  # its list is items 5 to 9 and 1
    loss(given, step)
    assert step.notes["mined.uv.false_negatives"].item() == pytest.approx((3 * 6 + 2) / 24)
    assert step.notes["mined.uv.found"] == 3 / 4
    assert "mined.uv.similarity" not in step.notes


@pytest.mark.parametrize("case", CASES)
def test_gradients_by_finite_differences(case: str) -> None:
    given = settings("linear", **CASES[case])
    step = step_of(given)
    encoder, part = step.encoder.double(), contrast(given, step)

    def value(*_: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = part(replace(step))["uv"]  # a step remembers what its rows were encoded as
        return found

    assert torch.autograd.gradcheck(value, (*encoder.parameters(), *part.parameters()), fast_mode=True)
