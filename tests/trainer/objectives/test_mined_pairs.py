"""Mined positives and hard negatives in MIC's uu and vv: against a slow twin, and by what they leave alone."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conf.sections.training import Mining
from conf.settings import Settings
from tests.trainer import tiny
from trainer.backends.single import SingleBackend
from trainer.deferred import materialize_module
from trainer.encoders import Batch, Encoder
from trainer.mining import Mined
from trainer.mining.queries import UserQueries
from trainer.mining.recent import Recent
from trainer.mining.refresh import mine
from trainer.mining.side import Side
from trainer.objectives.mic import MicContrast
from trainer.objectives.mined_pairs import mined_pairs, unit
from trainer.objectives.step import Step
from trainer.shared import Shared

TEMPERATURE = 0.5
GIVEN = {"clusters": 3, "neighbours": 2, "min_similarity": -1.0, "hard_negatives": 3}


def settings(**mining: Any) -> Settings:
    return tiny.settings({"objectives.mic": {"uv": 0, "temperature": TEMPERATURE}, "mining": {**GIVEN, **mining}})


def queries() -> UserQueries:
    hist = torch.tensor([[u, u % 3 + 1, 0] for u in range(1, tiny.USERS + 1)], dtype=torch.int32)
    return UserQueries(torch.arange(1, tiny.USERS + 1), hist, torch.full((tiny.USERS,), 2, dtype=torch.int32), None)


def mined(given: Settings, encoder: Encoder, step: int = 4) -> Mined:
    assert given.mining is not None
    shared = Shared(SingleBackend(), lambda: None)
    users, items = torch.arange(1, tiny.USERS + 1), torch.arange(1, tiny.ITEMS + 1)
    with torch.no_grad():
        sides: dict[Any, Any] = {
            "user": mine(users, lambda at: encoder.user({"user_idx": users[at]}), given.mining, shared, seed=1)[0],
            "item": mine(items, lambda at: encoder.item(items[at])[:, None], given.mining, shared, seed=2)[0],
        }
    return Mined(given.mining, step, sides, queries())


def batch() -> Batch:
    return tiny.pairs([1, 2, 3, 4, 1, 5], [2, 3, 2, 5, 7, 9])


def step_of(given: Settings, encoder: Encoder, tables: Mined | None, rows: Batch | None = None) -> Step:
    return replace(tiny.step(given, encoder, rows or batch()), mining=tables)


def losses(given: Settings, step: Step) -> dict[str, Tensor]:
    loss = MicContrast(given, step.encoder).to("meta")
    materialize_module(loss, seed=1)
    return loss(step)  # type: ignore[no-any-return]


def slow(given: Settings, step: Step, part: str) -> float:
    """Eq. 5 or 6 with mined extras, in loops over what was drawn."""
    encoder, name = step.encoder, "user_idx" if part == "uu" else "item_idx"
    ids = step.batch[name].tolist()
    rows = [ids.index(i) for i in sorted(set(ids))]
    chosen = step.first_users[0] if part == "uu" else step.first_items[0]
    assert chosen.nonzero()[:, 0].tolist() == sorted(rows)
    rows = sorted(rows)
    clean, view = (encoder.users, encoder.users_b) if part == "uu" else (encoder.items[:, None], encoder.items_b[:, None])  # type: ignore[union-attr,index]
    vectors = [unit(clean.detach()).numpy(), unit(view.detach()).numpy()]  # type: ignore[union-attr]
    made = mined_pairs(step, part, torch.zeros(len(rows), *clean.shape[1:]), chosen, unit)  # type: ignore[arg-type,union-attr]
    assert made is not None
    side = step.mining.sides["user" if part == "uu" else "item"]  # type: ignore[union-attr]
    mining = given.mining
    assert mining is not None

    def similarity(a: Any, b: Any) -> float:
        s = a @ b.T
        return float((s.max(axis=1).mean() + s.max(axis=0).mean()) / 2)

    total = 0.0
    for n, row in enumerate(rows):
        own = ids[row]
        drawn = [(int(i), made.pos_nPKD[n, p].detach().numpy()) for p, i in enumerate(made.pos_idx_nP[n]) if made.pos_valid_nP[n, p]]
        hard = [made.hard_nMKD[n, m].numpy() for m in range(made.hard_nMKD.shape[1]) if made.hard_valid_nM[n, m]]
        assert all(i != own for i, _ in drawn)
        if isinstance(side, Side) and mining.encode == "detached":  # vectors are those of the bank
            at = {int(i): e for e, i in enumerate(side.anchors[side.bank])}
            for i, vector in drawn:
                np.testing.assert_allclose(vector, unit(side.vectors[at[i]]).numpy(), atol=1e-6)
        others = [i for i in sorted(set(ids)) if i != own and i not in [d for d, _ in drawn]]
        for anchor, partner in ((0, 1), (1, 0)):
            vector = vectors[anchor][own]
            positives = [similarity(vector, vectors[partner][own])]
            if mining.replace and drawn:
                vector = drawn[0][1]
                positives = [similarity(vector, vectors[partner][own])]
            elif not mining.replace:
                positives += [similarity(vector, v) for _, v in drawn]
            negatives = [similarity(vector, kind[i]) for i in others for kind in vectors] + [similarity(vector, v) for v in hard]
            rest = sum(math.exp(s / TEMPERATURE) for s in negatives)
            total += sum(math.log(math.exp(s / TEMPERATURE) + rest) - s / TEMPERATURE for s in positives) / len(positives)
    return total / (2 * len(rows))


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "two positives, literal negatives": {"positives": 2, "hard": "literal"},
    "positives only": {"hard_negatives": 0},
    "negatives only": {"positives": 0},
    "live": {"encode": "live"},
    "replace": {"replace": True},
}


@pytest.mark.parametrize("interests", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_slow_twin(case: str, interests: int) -> None:
    given, encoder = settings(**CASES[case]), tiny.FreeVectors(interests)
    step = step_of(given, encoder, mined(given, encoder))
    found = losses(given, step)
    for part in ("uu", "vv"):
        assert found[part].item() == pytest.approx(slow(given, step, part), abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_by_finite_differences(case: str) -> None:
    given, encoder = settings(**CASES[case]), tiny.FreeVectors(interests=2, dim=3).double()
    tables = mined(given, encoder)

    def value(*_: Tensor) -> Tensor:
        return torch.stack([*losses(given, step_of(given, encoder, tables)).values()]).sum()

    assert torch.autograd.gradcheck(value, tuple(encoder.parameters()), fast_mode=True)


def test_the_bank_gets_no_gradient_and_live_positives_do() -> None:
    # users 6 and 7 are not in the batch: only mining can reach them
    for encode, reached in (("detached", False), ("live", True)):
        given, encoder = settings(encode=encode, positives=2), tiny.FreeVectors()
        losses(given, step_of(given, encoder, mined(given, encoder)))["uu"].backward()
        assert encoder.users.grad is not None
        assert bool(encoder.users.grad[6:].abs().sum() > 0) == reached


def test_p64_before_the_first_search_mining_changes_nothing() -> None:
    encoder = tiny.FreeVectors()
    without = losses(tiny.settings({"objectives.mic": {"uv": 0, "temperature": TEMPERATURE}}), step_of(settings(), encoder, None))
    given = settings()
    assert given.mining is not None
    before = losses(given, step_of(given, encoder, None))
    waiting = replace(mined(given, encoder), usable=False)
    for found in (before, losses(given, step_of(given, encoder, waiting))):
        assert {name: value.item() for name, value in found.items()} == {name: value.item() for name, value in without.items()}


def test_p65_equal_tables_give_equal_draws() -> None:
    given, encoder = settings(positives=2), tiny.FreeVectors()
    tables = mined(given, encoder)
    again = replace(tables, sides={name: Side.of({k: v.clone() for k, v in side.arrays().items()}) for name, side in tables.sides.items()})  # type: ignore[union-attr]
    first, second = (losses(given, step_of(given, encoder, t)) for t in (tables, again))
    assert {n: v.item() for n, v in first.items()} == {n: v.item() for n, v in second.items()}


def test_what_is_noted() -> None:
    given, encoder = settings(neighbours=1, clusters=2), tiny.FreeVectors()
    step = step_of(given, encoder, mined(given, encoder, step=4))
    losses(given, step)
    for part in ("uu", "vv"):
        assert step.notes[f"mined.{part}.staleness"] == 7  # the step is number 11
        assert 0 <= step.notes[f"mined.{part}.positives"] <= 1
        assert -1 <= step.notes[f"mined.{part}.similarity"] <= 1
        assert 0 <= step.notes[f"mined.{part}.false_negatives"] <= 1
    unwatched = replace(step_of(given, encoder, mined(given, encoder)), watch=False)
    losses(given, unwatched)
    assert not any(name.startswith("mined") for name in unwatched.notes)


def test_false_negatives_are_counted() -> None:
    """Every item is known to be liked, and no user's history holds the target: all of vv, nothing of uu."""
    given, encoder = settings(neighbours=1), tiny.FreeVectors()
    tables = mined(given, encoder)
    step = step_of(given, encoder, replace(tables, queries=replace(queries(), hist=torch.zeros_like(queries().hist))))
    step.known_positives = torch.arange(1, tiny.ITEMS + 1).expand(6, -1)
    losses(given, step)
    assert step.notes["mined.vv.false_negatives"] == 1
    assert step.notes["mined.uu.false_negatives"] == 0


def test_related_items_are_no_hard_negatives() -> None:
    given, encoder = settings(neighbours=1, hard_negatives=40), tiny.FreeVectors()
    step = step_of(given, encoder, mined(given, encoder))
    chosen, _ = step.first_items
    made = mined_pairs(step, "vv", unit(step.item_BD[chosen])[:, None], chosen, unit)
    assert made is not None
    related = tiny.related()
    items = step.batch["item_idx"][chosen]
    drawn = step.mining.sides["item"].hard_negatives(items, step.batch["row"][chosen], 40, how="near", key=_key(step))  # type: ignore[union-attr]
    fights = related["cooc"].contains(items, drawn.idx_BM) | related["sem_nn"].contains(items, drawn.idx_BM)
    assert (fights & drawn.valid_BM).any()
    assert torch.equal(made.hard_valid_nM, drawn.valid_BM & ~fights)


def _key(step: Step) -> Any:
    from trainer.mining.side import Key
    from trainer.randomness import Purpose

    return Key(step.seed, step.step, int(Purpose.HARD_NEGATIVE_ITEMS))


def test_a_queue_fills_and_then_gives_positives() -> None:
    given, encoder = settings(bank="queue", hard_negatives=0, queue_size=8), tiny.FreeVectors()
    mining = Mining.model_validate({"bank": "queue", "hard_negatives": 0})
    queue: dict[Any, Any] = {"user": Recent.empty(8), "item": Recent.empty(8)}
    tables = Mined(given.mining or mining, 0, queue, None)
    step = step_of(given, encoder, tables)
    first = losses(given, step)
    plain = losses(given, step_of(given, encoder, None))
    assert first["uu"].item() == pytest.approx(plain["uu"].item(), abs=1e-6)  # nothing was there yet
    assert sorted(queue["user"].idx.tolist()) == [0, 0, 0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(
        queue["user"].vectors_of((queue["user"].idx == 3).nonzero()[:, 0])[0], unit(encoder.users.detach()[3]), atol=1e-3, rtol=1e-3
    )
    second = losses(given, step_of(given, encoder, tables))
    assert second["uu"].item() != pytest.approx(plain["uu"].item(), abs=1e-4)
