"""What one worker mines in the tests: a real search over planted blobs, and a step of MIC with what was found."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.trainer import tiny
from trainer.backends import Backend
from trainer.catalogue import UserTable
from trainer.encoders import Encoder
from trainer.mining import Miner
from trainer.mining.queries import UserQueries
from trainer.mining.side import Key
from trainer.optimizers import Optimizers
from trainer.shared import Shared

NUM, BLOBS = 60, 3
MINING = {"clusters": 3, "neighbours": 2, "min_similarity": -1.0, "hard_negatives": 3, "positives": 2}


def planted(interests: int) -> Encoder:
    """Users and items 1..60, tight around three directions: entity i is of blob i % 3."""
    encoder = tiny.FreeVectors(interests)
    generator = torch.Generator().manual_seed(4)
    blob = torch.arange(NUM + 1) % BLOBS
    centre = 7 * torch.eye(6)[blob]
    encoder.users = nn.Parameter(centre[:, None] + 0.3 * torch.randn(NUM + 1, interests, 6, generator=generator))
    encoder.items = nn.Parameter(centre + 0.3 * torch.randn(NUM + 1, 6, generator=generator))
    return encoder


def queries(num: int, features: UserTable | None = None) -> UserQueries:
    hist = 1 + torch.arange(num * tiny.LENGTH, dtype=torch.int32).view(num, -1) % tiny.ITEMS
    return UserQueries(torch.arange(1, num + 1), hist, torch.full((num,), tiny.LENGTH, dtype=torch.int32), features)


def miner_of(
    given: Any, encoder: Encoder, backend: Backend, items: int, users: UserQueries, joint: tuple[nn.Module, nn.Module] | None = None
) -> Miner:
    shared, ids = Shared(backend, lambda: None), torch.arange(1, items + 1)
    miner = Miner(given.mining, encoder, shared, sides=("user", "item"), items=ids, queries=users, seed=5, joint=joint)
    miner.begin(1)
    assert miner.due(10)
    miner.refresh(10)
    return miner


def blobs(backend: Backend, interests: int) -> dict[str, Any]:
    """What is found among planted blobs, and the hard negatives drawn for all of them."""
    given = tiny.settings({"mining": MINING})
    miner = miner_of(given, planted(interests), backend, NUM, queries(NUM))
    mined = miner.at(10)
    assert mined is not None
    ids = torch.arange(1, NUM + 1)
    hard = {name: side.hard_negatives(ids, ids, 8, how="near", key=Key(1, 2, 3)) for name, side in mined.sides.items()}  # type: ignore[union-attr]
    return {"tables": miner.tables(), "hard": {name: (drawn.idx_BM, drawn.valid_BM) for name, drawn in hard.items()}}


STEPS: dict[str, dict[str, Any]] = {
    "detached": {"mining": MINING},
    "live": {"mining": {**MINING, "encode": "live"}},
    "users and items": {"mining": {**MINING, "user_items": "positive", "encode": "live"}},
    "live, sharded": {"mining": {**MINING, "encode": "live"}, "trainer.sharded_tables": ["user_id", "item_id", "tags"]},
}


def step(backend: Backend, shards: dict[int, list[list[int]]], overrides: dict[str, Any]) -> dict[str, Tensor]:
    """Losses, synchronised gradients and notes of a step that uses what a search by the same model found."""
    given = tiny.settings({**overrides, "model.dropout": 0.3})
    encoder, criterion = tiny.model(given, torch.float64, backend)
    optimizers = Optimizers(given, encoder, criterion)
    features = UserTable.from_arrow(tiny.user_feat(), given.registry())
    joint = criterion.get_submodule("losses.mic.project_user"), criterion.get_submodule("losses.mic.project_item")
    miner = miner_of(given, encoder, backend, tiny.ITEMS, queries(tiny.USERS, features), joint)
    rows = tiny.rows_of(tiny.batch(13), shards[backend.size][backend.rank])
    made = replace(tiny.step(given, encoder, rows, backend), mining=miner.at(11))
    total, parts = criterion(made)
    total.backward()
    backend.sync_gradients(optimizers.parameters)
    named = {"loss": total, **parts, **{name: value for name, value in made.notes.items() if name.startswith("mined")}}
    learned = [*encoder.named_parameters(), *criterion.named_parameters()]
    dense = {name: tiny.whole(parameter, parameter.grad, backend) for name, parameter in learned if parameter.grad is not None}
    return {name: backend.sum(value.detach()) / backend.size for name, value in named.items()} | dense


def mined(backend: Backend, shards: dict[int, list[list[int]]]) -> dict[str, Any]:
    """All of it."""
    return {
        "blobs": {interests: blobs(backend, interests) for interests in (1, 2)},
        "steps": {name: step(backend, shards, overrides) for name, overrides in STEPS.items()},
    }
