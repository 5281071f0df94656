import math

import numpy as np
import pytest
import torch

from tests.trainer import tiny
from trainer.objectives.negatives import shared_set, uniform_negatives
from trainer.objectives.sampled_softmax import SampledSoftmax
from trainer.objectives.step import Step

MODES = ("uniform", "shared", "in_batch", "mixed")


def slow(step: Step, mode: str, num: int, temperature: float, logq: bool, positive: bool = True) -> float:
    """-ln softmax of the clicked item among the columns that count, row by row."""
    batch = step.batch
    cosine = step.encoder.similarity == "cosine"

    def score(user: np.ndarray, item: int) -> float:  # type: ignore[type-arg]
        vector = step.encoder.item(torch.tensor([item]))[0].detach().numpy()
        return float(user @ vector / (np.linalg.norm(user) * np.linalg.norm(vector) if cosine else 1))

    users, items = batch["user_idx"].tolist(), batch["item_idx"].tolist()
    drawn, valid = uniform_negatives(tiny.ITEMS, step.known_positives, batch["row"], num, seed=step.seed, step=step.step)
    shared = shared_set(tiny.ITEMS, num, seed=step.seed, step=step.step).tolist()
    counts = step.item_counts.double()

    def log_q(item: int) -> float:
        if not logq or mode in ("uniform", "shared"):
            return 0.0
        q = len(items) * max(float(counts[item]), 1) / float(counts.sum())
        return math.log(q + (len(shared) / tiny.ITEMS if mode == "mixed" else 0))

    total = weight = 0.0
    for row in range(len(items)):
        vectors = step.encoder.user(tiny.rows_of(batch, [row]))[0].detach().numpy()
        user = max(vectors, key=lambda u: score(u, items[row]))
        liked = {items[row], *step.known_positives[row].tolist()}
        columns = []
        if mode == "uniform":
            columns += [int(drawn[row, m]) for m in range(num) if valid[row, m]]
        if mode in ("in_batch", "mixed"):
            columns += [items[j] for j in range(len(items)) if users[j] != users[row] and items[j] not in liked]
        if mode in ("shared", "mixed"):
            columns += [item for item in shared if item not in liked]
        logits = [score(user, item) / temperature - log_q(item) for item in [items[row], *columns]]
        logits[0] += 0.0 if positive else log_q(items[row])
        total += float(batch["weight"][row]) * (math.log(sum(math.exp(z) for z in logits)) - logits[0])
        weight += float(batch["weight"][row])
    return total / weight


def settings_for(mode: str, num: int = 4, temperature: float = 0.5, logq: bool = True) -> dict[str, object]:
    return {
        "base": {"loss": "sampled_softmax", "negatives": mode, "num_negatives": num, "temperature": temperature, "logq": logq},
        "objectives.mic": None,
    }


@pytest.mark.parametrize("logq", [True, False])
@pytest.mark.parametrize("kind", ["dssm", "interests", "inner_product"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_slow_twin(mode: str, kind: str, logq: bool) -> None:
    given = tiny.settings(settings_for(mode, logq=logq))
    encoder = {
        "dssm": lambda: tiny.encoder(given),
        "interests": lambda: tiny.FreeVectors(interests=3),
        "inner_product": lambda: tiny.FreeVectors(similarity="inner_product"),
    }[kind]().double()
    step = tiny.step(given, encoder, tiny.batch())
    assert SampledSoftmax(given, encoder)(step)["loss"].item() == pytest.approx(slow(step, mode, 4, 0.5, logq), abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_clicked_item_may_stay_uncorrected(mode: str) -> None:
    given = tiny.settings({**settings_for(mode), "base.logq_positive": False})
    encoder = tiny.encoder(given).double()
    step = tiny.step(given, encoder, tiny.batch())
    found = SampledSoftmax(given, encoder)(step)["loss"].item()
    assert found == pytest.approx(slow(step, mode, 4, 0.5, True, positive=False), abs=1e-9)
    assert (found == pytest.approx(slow(step, mode, 4, 0.5, True), abs=1e-9)) is (mode in ("uniform", "shared"))


def two_columns(counts: list[int], logq: bool) -> float:
    """Two rows; logits of both: 2 for the click, 1 for the other."""
    encoder = tiny.FreeVectors(dim=2, similarity="inner_product")
    with torch.no_grad():
        encoder.items[1], encoder.items[2] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        encoder.users[1, 0], encoder.users[2, 0] = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0])
    given = tiny.settings(settings_for("in_batch", temperature=1.0, logq=logq))
    batch = tiny.pairs([1, 2], [1, 2])
    batch["weight"] = torch.tensor([1.0, 0.0])  # the first row alone
    step = tiny.step(given, encoder, batch)
    step.item_counts = torch.tensor(counts + [0] * 7)
    return SampledSoftmax(given, encoder)(step)["loss"].item()


def test_log_q() -> None:
    # property P5.5: p = (.5, .1)
    assert two_columns([0, 50, 10, 40], logq=True) == pytest.approx(1.0435918, abs=1e-6)
    assert two_columns([0, 50, 10, 40], logq=False) == pytest.approx(0.3132617, abs=1e-6)
    assert two_columns([0, 50, 50, 0], logq=True) == pytest.approx(0.3132617, abs=1e-6)


def test_null_is_twenty_negatives_or_four_of_the_logistic_loss() -> None:
    assert tiny.settings({"base": {"loss": "sampled_softmax"}}).base.num_drawn == 20
    assert tiny.settings({"base": {"loss": "logistic"}}).base.num_drawn == 4
    assert tiny.settings({"base": {"num_negatives": 7}}).base.num_drawn == 7


def test_an_item_never_clicked_counts_as_clicked_once() -> None:
    assert two_columns([0, 5, 0, 5], logq=True) == pytest.approx(two_columns([0, 5, 1, 4], logq=True))


def test_a_duplicate_is_as_if_its_column_were_not_there() -> None:
    # property P5.8
    encoder = tiny.FreeVectors()
    given = tiny.settings(settings_for("in_batch", logq=False))
    users, items = [1, 2, 3, 4], [1, 5, 1, 7]
    together = tiny.pairs(users, items)
    together["weight"] = torch.tensor([1.0, 0, 0, 0])
    without = tiny.pairs([1, 2, 4], [1, 5, 7])
    without["weight"] = torch.tensor([1.0, 0, 0])
    loss = SampledSoftmax(given, encoder)
    torch.testing.assert_close(loss(tiny.step(given, encoder, together)), loss(tiny.step(given, encoder, without)))


def test_all_items_as_negatives_is_the_full_softmax() -> None:
    # property P5.10
    encoder = tiny.FreeVectors(similarity="inner_product")
    given = tiny.settings(settings_for("shared", num=1000, temperature=0.7))
    batch = tiny.pairs([1, 2, 3], [4, 5, 4])
    logits = encoder.users[batch["user_idx"], 0] @ encoder.items[1:].T / 0.7
    want = torch.nn.functional.cross_entropy(logits, batch["item_idx"] - 1)
    torch.testing.assert_close(SampledSoftmax(given, encoder)(tiny.step(given, encoder, batch))["loss"], want)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_to_compare_with_costs_nothing(mode: str) -> None:
    # all rows hold one item, and every item is liked
    encoder = tiny.FreeVectors()
    given = tiny.settings(settings_for(mode))
    step = tiny.step(given, encoder, tiny.pairs([1, 2, 3], [4, 4, 4]))
    step.known_positives = torch.arange(1, tiny.ITEMS + 1).expand(3, -1)
    loss = SampledSoftmax(given, encoder)(step)["loss"]
    assert loss == 0
    loss.backward()
    assert encoder.users.grad is not None
    assert encoder.users.grad.abs().max() == 0


@pytest.mark.parametrize("logq", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_by_finite_differences(mode: str, logq: bool) -> None:
    given = tiny.settings(settings_for(mode, logq=logq))
    encoder = tiny.FreeVectors(interests=2, dim=3).double()
    loss = SampledSoftmax(given, encoder)

    def value(*_: torch.Tensor) -> torch.Tensor:
        return loss(tiny.step(given, encoder, tiny.batch()))["loss"]

    assert torch.autograd.gradcheck(value, tuple(encoder.parameters()), fast_mode=True)
