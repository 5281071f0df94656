"""What is watched beside the losses: a slow twin in numpy, closed forms, the rule of collapse."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from tests.trainer import tiny
from trainer.diagnostics import VECTORS, collapsed, gradient_norms, measures, spread, watched
from trainer.objectives import Step
from trainer.objectives.similarity import unit

Vectors = npt.NDArray[np.float64]


def slow(users: Vectors, items: Vectors, user_idx: list[int], item_idx: list[int], known: list[list[int]]) -> dict[str, float]:
    """users [S, K, D], items [S, D], unit vectors; pair by pair."""
    num = len(items)
    nearest = [max(users[i], key=lambda u: u @ items[i]) for i in range(num)]
    align = [np.sum((nearest[i] - items[i]) ** 2) for i in range(num)]
    pairs = [(i, j) for i in range(num) for j in range(num) if i != j]
    negatives = [(i, j) for i, j in pairs if user_idx[i] != user_idx[j] and item_idx[i] != item_idx[j] and item_idx[j] not in known[i]]
    found = {
        "ui_align": np.mean(align),
        "ui_pos": np.mean([nearest[i] @ items[i] for i in range(num)]),
        "ui_neg": np.mean([nearest[i] @ items[j] for i, j in negatives]),
        "masked_negatives": 1 - len(negatives) / len(pairs),
    }
    everyone = [u for i in range(num) if user_idx.index(user_idx[i]) == i for u in users[i]]
    everything = [items[i] for i in range(num) if item_idx.index(item_idx[i]) == i]
    for name, vectors in (("uu", everyone), ("ii", everything)):
        both = [(x, y) for n, x in enumerate(vectors) for y in vectors[:n]]
        found[f"{name}_uniform"] = math.log(np.mean([math.exp(-2 * np.sum((x - y) ** 2)) for x, y in both]))
        found[f"{name}_neg"] = np.mean([x @ y for x, y in both])
    return {name: float(value) for name, value in found.items()}


def planted(interests: int) -> tuple[Step, dict[str, float]]:
    encoder = tiny.FreeVectors(interests).double()
    step = tiny.step(tiny.settings(), encoder, tiny.batch())
    users, items = unit(encoder.users[step.batch["user_idx"]]).detach(), unit(encoder.items[step.batch["item_idx"]]).detach()
    ids = step.batch["user_idx"].tolist(), step.batch["item_idx"].tolist()
    return step, slow(users.numpy(), items.numpy(), *ids, step.known_positives.tolist())


@pytest.mark.parametrize("interests", [1, 3])
def test_equals_the_slow_twin(interests: int) -> None:
    step, want = planted(interests)
    step.note("mic.uu.pos", torch.tensor(0.25))
    got = watched(step)
    assert got.pop("watch.mic.uu.pos") == 0.25
    assert got == pytest.approx({f"watch.{name}": value for name, value in want.items()}, abs=1e-12)


@pytest.mark.parametrize(
    ("vectors", "want"),
    [([[1, 0], [-1, 0]], -8), (np.eye(3), -4), ([[0, 1]] * 4, 0)],
    ids=["antipodal", "orthonormal", "equal"],
)
def test_uniformity_by_hand(vectors: Any, want: float) -> None:
    # property P8.4
    assert spread("uu", torch.tensor(vectors, dtype=torch.float64))["uu_uniform"] == pytest.approx(want, abs=1e-12)


def test_alignment_by_hand() -> None:
    # property P8.4: of a vector with itself 0, of opposite ones 4
    x, ids = torch.eye(2), torch.arange(2)
    known = torch.zeros(2, 1, dtype=torch.int64)
    assert measures(x[:, None], x, ids, ids, known)["ui_align"] == 0
    assert measures(x[:, None], -x, ids, ids, known)["ui_align"] == 4


def test_what_there_is_nothing_of_is_left_out() -> None:
    step = tiny.step(tiny.settings(), tiny.FreeVectors(), tiny.pairs([1], [2]))
    assert set(watched(step)) == {"watch.ui_align", "watch.ui_pos"}
    same = tiny.step(tiny.settings(), tiny.FreeVectors(), tiny.pairs([1, 1], [2, 2]))
    assert set(watched(same)) == {"watch.ui_align", "watch.ui_pos", "watch.masked_negatives"}
    assert watched(same)["watch.masked_negatives"] == 1


def test_a_large_batch_is_watched_in_part() -> None:
    num = 3 * VECTORS
    batch = tiny.batch(num)
    encoder = tiny.FreeVectors(interests=2).double()
    got = watched(tiny.step(tiny.settings(), encoder, batch))
    part = tiny.rows_of(batch, list(range(0, num, 6)))  # two vectors a user: every sixth of 1536 rows
    assert got == pytest.approx(watched(tiny.step(tiny.settings(), encoder, part)), abs=1e-12)


def test_nothing_is_trained_by_being_watched() -> None:
    step, _ = planted(1)
    watched(step)
    assert all(parameter.grad is None for parameter in step.encoder.parameters())


@pytest.mark.parametrize(
    ("averages", "sides"),
    [
        ({"watch.uu_uniform": -3.0, "watch.ii_uniform": -2.0}, []),
        ({"watch.uu_uniform": -0.1, "watch.ii_uniform": -2.0}, ["users"]),
        ({"watch.uu_uniform": 0.0, "watch.ii_uniform": 0.0}, ["users", "items"]),
        ({"loss": 1.0}, []),
    ],
)
def test_collapse(averages: dict[str, float], sides: list[str]) -> None:
    assert collapsed(averages) == sides


def test_vectors_alike_by_a_cosine_of_095_have_collapsed() -> None:
    # Jensen: ln mean exp(4 cos - 4) >= 4 mean cos - 4
    around = torch.randn(50, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = spread("uu", unit(around * 0.077 + torch.eye(8, dtype=torch.float64)[0]))
    assert found["uu_neg"] == pytest.approx(0.955, abs=0.005)
    assert collapsed({"watch.uu_uniform": found["uu_uniform"]}) == ["users"]


def test_gradient_norms() -> None:
    dense, table, sparse, idle = (nn.Parameter(torch.zeros(3, 2)) for _ in range(4))
    dense.grad = torch.full((3, 2), 2.0)
    table.grad = torch.ones(3, 2)
    sparse.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([[1.0, 0], [2.0, 4.0]]), (3, 2), check_invariants=False)
    sparse.grad = sparse.grad.coalesce()
    got = gradient_norms([dense, idle, table, sparse], [table, sparse])
    want = {"grad_norm.dense": math.sqrt(24), "grad_norm.tables": math.sqrt(6 + 25), "grad_norm": math.sqrt(24 + 31)}
    assert got == pytest.approx(want)
    dense.grad[0, 0] = math.nan
    assert math.isnan(gradient_norms([dense, table], [table])["grad_norm"])
    dense.grad[0, 0] = math.inf
    assert math.isinf(gradient_norms([dense, table], [table])["grad_norm"])
