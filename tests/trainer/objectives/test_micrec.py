"""MicRec's three contrasts: slow twins, closed forms, what is an anchor and what a negative."""

import bisect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conf.settings import Settings
from tests.trainer import tiny
from trainer.deferred import materialize_module
from trainer.encoders import Encoder
from trainer.encoders.layers import dropout
from trainer.objectives.micrec import MicRec
from trainer.objectives.step import Step
from trainer.randomness import Purpose, u01

ALIKE = {1: [2, 3], 2: [1], 3: [1], 4: [5], 5: [4, 8]}
MET = {1: {2: 2.0, 3: 1.0}, 2: {1: 2.0}, 3: {1: 1.0}, 4: {5: 1.0}, 5: {4: 1.0}}
MET_AT_ALL = {**{i: set(row) for i, row in MET.items()}, 1: {2, 3, 6}, 6: {1}}


def made(overrides: dict[str, Any], encoder: Encoder | None = None) -> tuple[Settings, Encoder, MicRec]:
    given = tiny.settings({"objectives": {"micrec": overrides}})
    encoder = encoder or tiny.encoder(given).double()
    loss = MicRec(given, encoder).to("meta")
    materialize_module(loss, seed=1)
    return given, encoder, loss.to(next(encoder.parameters()).dtype)


def nce(pos: float, negatives: list[float], temperature: float) -> float:
    return math.log(sum(math.exp(s / temperature) for s in [pos, *negatives])) - pos / temperature


def vectors(x: Tensor) -> Any:
    return x.detach().numpy()


def slow_features(step: Step, loss: MicRec, *, temperature: float) -> float:
    items, encoder = step.batch["item_idx"], step.encoder
    whole = encoder.features(items)
    fewer = dropout(whole, loss.given.element_p, step.words(Purpose.FEATURES, step.batch["row"]))
    own, other = vectors(loss.project_fea(whole)), vectors(loss.project_fea(fewer))
    ids = items.tolist()
    rows = [nce(own[i] @ other[i], [own[i] @ other[j] for j in range(len(ids)) if ids[j] != ids[i]], temperature) for i in range(len(ids))]
    return sum(rows) / len(rows)


def slow_relation(step: Step, loss: MicRec, part: str, *, temperature: float) -> float:
    project = loss.project_sem if part == "sem" else loss.project_sess
    everything = vectors(project(step.encoder.item(torch.arange(1, tiny.ITEMS + 1))))
    u = u01(step.seed, step.step, int(Purpose.RELATED), ["sem", "sess"].index(part), step.batch["row"]).tolist()
    rows = []
    for item, drawn in zip(step.batch["item_idx"].tolist(), u, strict=True):
        weights = MET.get(item, {}) if part == "sess" else dict.fromkeys(ALIKE.get(item, []), 1.0)
        if not weights:
            continue
        up_to = np.cumsum(list(weights.values())) / sum(weights.values())
        positive = list(weights)[bisect.bisect_right(up_to.astype(np.float32).tolist(), np.float32(drawn))]
        with_it = MET_AT_ALL[item] if part == "sess" else set(ALIKE[item])
        negatives = [j for j in range(1, tiny.ITEMS + 1) if j != item and j not in with_it]
        scores = {j: everything[item - 1] @ everything[j - 1] for j in [positive, *negatives]}
        rows.append(nce(scores[positive], [scores[j] for j in negatives], temperature))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("element_p", [0.0, 0.5])
def test_equals_the_slow_twin(element_p: float) -> None:
    given, encoder, loss = made({"temperature": 0.7, "element_p": element_p})
    step = tiny.step(given, encoder, tiny.batch())
    got = {part: value.item() for part, value in loss(step).items()}
    assert got["fea"] == pytest.approx(slow_features(step, loss, temperature=0.7), abs=1e-10)
    for part in ("sem", "sess"):
        assert got[part] == pytest.approx(slow_relation(step, loss, part, temperature=0.7), abs=1e-10)


@pytest.mark.parametrize(("most", "want"), [(50, math.log(7)), (3, math.log(4)), (1, math.log(2))])
def test_all_alike_features(most: int, want: float) -> None:
    # property P5.1, ln(M + 1): seven different items that all look the same, against M others
    encoder = tiny.FreeVectors()
    given, _, loss = made({"sem": 0, "sess": 0, "num_negatives": most}, encoder)
    torch.nn.init.zeros_(loss.project_fea.weight)
    step = tiny.step(given, encoder, tiny.pairs([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]))
    assert loss(step)["fea"].item() == pytest.approx(want)
    # property P5.11: one item alone, in however many rows, has nothing to be told from
    assert loss(tiny.step(given, encoder, tiny.pairs([1, 2], [3, 3])))["fea"].item() == 0


def test_items_that_go_with_an_item_are_not_its_negatives() -> None:
    encoder = tiny.FreeVectors()
    given, _, loss = made({"fea": 0}, encoder)
    for module in (loss.project_sem, loss.project_sess):
        torch.nn.init.zeros_(module.weight)
    # item 1: of nine items, two are alike and three have met it; item 7 goes with nothing, and is no anchor
    losses = loss(tiny.step(given, encoder, tiny.pairs([1, 2], [1, 7])))
    assert float(losses["sem"]) == pytest.approx(math.log(1 + 6))
    assert float(losses["sess"]) == pytest.approx(math.log(1 + 5))
    losses = loss(tiny.step(given, encoder, tiny.pairs([1, 2], [7, 9])))
    assert [float(x) for x in losses.values()] == [0, 0]


def test_without_all_pairs_those_of_the_table_count() -> None:
    encoder = tiny.FreeVectors()
    given, _, loss = made({"fea": 0, "sem": 0}, encoder)
    torch.nn.init.zeros_(loss.project_sess.weight)
    step = tiny.step(given, encoder, tiny.pairs([1], [1]))
    del step.catalogue.related["cooc_pairs"]  # type: ignore[attr-defined]
    assert loss(step)["sess"].item() == pytest.approx(math.log(1 + 6))


def test_negatives_of_a_large_catalogue_are_a_few_of_the_pool() -> None:
    given, encoder, loss = made({"fea": 0, "pool": 6, "num_negatives": 4})
    step = tiny.step(given, encoder, tiny.batch())
    columns = loss._columns(step, 6)
    assert columns.shape == (13, 4)
    assert all(len(set(row)) == 4 for row in columns.tolist())
    assert len({tuple(sorted(row)) for row in columns.tolist()}) > 1


def test_dropped_features_are_those_of_one_side_only() -> None:
    given, encoder, loss = made({"element_p": 0.0, "field_p": 0.5, "value_p": 0.5})
    items = torch.arange(13) % tiny.ITEMS + 1
    whole, fewer = loss._whole_and_fewer(tiny.step(given, encoder, tiny.batch()), items)
    assert torch.equal(whole, encoder.features(items))
    fields = (whole != fewer).view(13, 3, -1).any(dim=2)
    assert fields.any(dim=1).all()  # a field of each is hidden, and never all: what is left is what it was
    assert not fields.all()


def test_through_the_tower_only_the_dropped_side_loses_elements() -> None:
    # eq. 3: the anchor is whole, whatever model.dropout does to items elsewhere
    given = tiny.settings({"model.dropout": 0.5, "objectives": {"micrec": {"fea_input": "tower"}}})
    encoder = tiny.encoder(given)
    step = tiny.step(given, encoder, tiny.batch())
    items = step.batch["item_idx"]
    whole, fewer = MicRec(given, encoder)._whole_and_fewer(step, items)
    as_served = encoder.eval().item(items)
    torch.testing.assert_close(whole, as_served)
    assert not torch.isclose(fewer, as_served).all(dim=1).any()


@pytest.mark.parametrize("fea_input", ["raw", "tower"])
def test_the_tower_learns_from_features_only_where_they_pass_through_it(fea_input: str) -> None:
    given, encoder, loss = made({"sem": 0, "sess": 0, "fea_input": fea_input})
    loss(tiny.step(given, encoder, tiny.batch()))["fea"].backward()
    weight = next(p for name, p in encoder.named_parameters() if name.startswith("item_tower"))
    assert (weight.grad is not None) == (fea_input == "tower")


def test_gradients_equal_finite_differences() -> None:
    given, encoder, loss = made({"items": "uniform", "field_p": 0.3})
    tower = next(p for name, p in encoder.named_parameters() if name.startswith("item_tower"))
    weights = [loss.project_fea.weight, loss.project_sem.weight, loss.project_sess.weight, tower]

    def total(*_: Tensor) -> Tensor:
        return torch.stack(list(loss(tiny.step(given, encoder, tiny.batch())).values())).sum()

    assert torch.autograd.gradcheck(total, weights, eps=1e-6, atol=1e-7, fast_mode=True)


def test_weights_of_zero_leave_the_base_loss_alone() -> None:
    # property P5.11: MicRec without its parts is its encoder
    plain, zero = tiny.settings({"objectives": {}}), tiny.settings({"objectives": {"micrec": {"fea": 0, "sem": 0, "sess": 0}}})
    gradients = []
    for given in (plain, zero):
        encoder, criterion = tiny.model(given)
        criterion(tiny.step(given, encoder, tiny.batch()))[0].backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_semantic_neighbours_must_be_made() -> None:
    with pytest.raises(ValueError, match=r"set semantics\.kind, or sem: 0"):
        tiny.settings({"semantics.kind": None, "objectives": {"micrec": {}}})
