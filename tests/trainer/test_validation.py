"""Validation recall against a slow twin, with every kind of seen filter, and shared by several workers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conf.settings import Settings
from conf.storage import Store
from tests.trainer.planted import DS, World, planted_settings, publish, world
from tests.trainer.test_shared import on_workers
from trainer.backends import Backend, build_backend
from trainer.backends.single import SingleBackend
from trainer.batches import survey
from trainer.encoders import Batch, Encoder
from trainer.tables import Tables
from trainer.validation import Queries, read_queries, recall

Day = Callable[..., tuple[Settings, World]]


class FixedVectors(Encoder):
    """An encoder with a vector for every item, and K vectors for every user that come from its history."""

    similarity = "inner_product"
    dim = 3
    interests = 2

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.items = nn.Parameter(items)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        assert not self.training
        return torch.stack([self.items[batch["hist"][:, 0]], -self.items[batch["hist"][:, 1]]], dim=1)

    def item(self, idx: Tensor, **_: Any) -> Tensor:
        return self.items[idx]

    def features(self, idx: Tensor, **_: Any) -> Tensor:
        return self.items[idx]

    def tables(self) -> list[nn.Parameter]:
        return [self.items]


class Adding(SingleBackend):
    """One of several ranks whose sums are added up by the test."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def sum(self, x: Tensor) -> Tensor:
        self.parts.append(x)
        return x


def queries_of(settings: Settings) -> Queries | None:
    return shares_of(settings, 1)[0]


def shares_of(settings: Settings, size: int) -> list[Queries | None]:
    """What each of so many workers reads."""
    store = Store.of(settings)
    manifests = store.manifests(("samples", "user_feat", "item_feat", "user_state", *(f"vocab_{n}" for n in NAMES)), DS, settings)
    tables = Tables.read(store, manifests, settings)
    samples = survey(store, manifests["samples"], build_backend("single"), num_items=80)
    return on_workers(size, lambda shared: read_queries(samples, settings, tables.users, tables.user_state, shared))


NAMES = ("user_id", "gender", "likes", "item_id", "category", "tags")


def encoder_of() -> FixedVectors:
    return FixedVectors(torch.from_numpy(np.random.default_rng(0).normal(size=(81, 3))).float())


def slow_recall(made: World, users: list[int], eligible: list[int], *, seen: str, at: int) -> float:
    """The definition, one user at a time."""
    vectors = encoder_of().items.detach().double().numpy()
    found = []
    for user in users:
        clicks = made.clicks[user - 1]
        train, truth = clicks[: -made.num_valid], set(clicks[-made.num_valid :])
        hist = train[-5:]
        interests = (vectors[hist[0]], -vectors[hist[1]])
        hidden = {"none": set(), "history": set(hist), "train_and_history": set(train)}[seen]
        ranked = sorted((i for i in eligible if i not in hidden), key=lambda i: -max(float(v @ vectors[i]) for v in interests))
        found.append(len(truth & set(ranked[:at])) / len(truth))
    return float(np.mean(found))


@pytest.mark.parametrize("seen", ["none", "history", "train_and_history"])
@pytest.mark.parametrize("at", [1, 10, 200])
def test_recall_equals_its_definition(day: Day, seen: str, at: int) -> None:
    settings, made = day(channels={"seen": seen})
    queries = queries_of(settings)
    assert queries is not None
    eligible = [i for i in range(1, 81) if i % 7]
    got = recall(encoder_of(), queries, torch.tensor(eligible), at=at, backend=build_backend("single"))
    assert got == pytest.approx(slow_recall(made, list(range(1, 61)), eligible, seen=seen, at=at))
    assert 0 < got <= 1


def test_with_refit_validation_sees_what_it_saw_without(day: Day) -> None:
    """The state of a user then ends with the very clicks that are asked for."""
    settings, made = day(split={"refit": True})
    queries = queries_of(settings)
    assert queries is not None
    eligible = list(range(1, 81))
    got = recall(encoder_of(), queries, torch.tensor(eligible), at=10, backend=build_backend("single"))
    assert got == pytest.approx(slow_recall(made, list(range(1, 61)), eligible, seen="train_and_history", at=10))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_workers_share_the_users(day: Day, size: int) -> None:
    settings, made = day()
    whole, parts = queries_of(settings), shares_of(settings, size)
    assert whole is not None
    eligible = torch.arange(1, 81)
    want = recall(encoder_of(), whole, eligible, at=10, backend=build_backend("single"))
    backend = Adding()
    for part in parts:
        assert part is not None
        if part.users:
            recall(encoder_of(), part, eligible, at=10, backend=backend)
    total, users = torch.stack(backend.parts).sum(dim=0).tolist()
    assert (users, total / users) == (len(made.clicks), pytest.approx(want))


def test_a_worker_without_users_takes_part(day: Day) -> None:
    settings, _ = day(trainer={"valid_users": 2})
    part = shares_of(settings, 3)[2]
    assert part is not None
    assert part.users == 0
    backend = Adding()
    with pytest.raises(ZeroDivisionError):  # alone it has no mean; what it adds to the sum is nothing
        recall(encoder_of(), part, torch.arange(1, 81), at=10, backend=backend)
    assert backend.parts[0].tolist() == [0, 0]


def test_the_sample_of_users_is_a_fixed_one(day: Day) -> None:
    settings, _ = day(trainer={"valid_users": 20})
    first, again = queries_of(settings), queries_of(settings)
    assert first is not None
    assert again is not None
    users = first.batch["user_idx"].tolist()
    assert users == again.batch["user_idx"].tolist() == sorted(set(users))
    assert len(users) == 20
    assert users != list(range(1, 21))
    halves = shares_of(settings, 2)
    assert sorted(u for half in halves for u in half.batch["user_idx"].tolist()) == users  # type: ignore[union-attr]


def test_the_query_is_the_first_valid_row_and_truth_has_all(day: Day) -> None:
    settings, made = day()
    queries = queries_of(settings)
    assert queries is not None
    for row, user in enumerate(queries.batch["user_idx"].tolist()):
        clicks = made.clicks[user - 1]
        assert queries.batch["hist"][row].tolist() == clicks[-7:-2]
        assert {i for i in queries.truth[row].tolist() if i} == set(clicks[-2:])
        assert queries.batch["user.likes"][row].tolist() == [4 + int(made.user_topic[user]) if user % 3 else 0]


def test_nothing_held_out_gives_no_queries(tmp_path: object) -> None:
    settings = planted_settings(str(tmp_path))
    publish(settings, world(num_valid=0))
    assert queries_of(settings) is None


def test_the_mode_of_the_encoder_is_given_back(day: Day) -> None:
    settings, _ = day()
    queries = queries_of(settings)
    assert queries is not None
    encoder, backend = encoder_of(), build_backend("single")
    assert isinstance(backend, Backend)
    for mode in (True, False):
        encoder.train(mode)
        recall(encoder, queries, torch.arange(1, 81), at=3, backend=backend)
        assert encoder.training is mode


def test_truth_that_is_not_eligible_counts_as_missed(day: Day) -> None:
    settings, made = day(channels={"seen": "none"})
    queries = queries_of(settings)
    assert queries is not None
    eligible = torch.tensor([80])
    want = np.mean([len({80} & set(clicks[-2:])) / len(set(clicks[-2:])) for clicks in made.clicks])
    assert recall(encoder_of(), queries, eligible, at=50, backend=build_backend("single")) == pytest.approx(want)
