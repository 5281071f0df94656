"""A world small enough to check by hand: 7 users, 9 items, every kind of field, histories of length 0 to 5, repeated users and items."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn

from conf.draws import below
from conf.masks import masking_of
from conf.settings import Settings
from trainer.backends import Backend, Shard
from trainer.backends.single import SingleBackend
from trainer.catalogue import Catalogue, UserTable
from trainer.encoders import Batch, Encoder, build_encoder
from trainer.objectives import Criterion, Step, build_objectives
from trainer.related import Related

USERS, ITEMS, LENGTH = 7, 9, 5
VOCAB = {"user_id": 10, "gender": 6, "hobbies": 8, "item_id": 12, "category": 7, "tags": 9}

SETTINGS: dict[str, Any] = {
    "source": {
        "kind": "generic",
        "path": "clicks.csv",
        "fields": {
            "user": {"gender": "single", "hobbies": "multi"},
            "item": {"category": "single", "tags": "multi", "title": "text"},
        },
    },
    "model": {"dim": 6, "hidden": [8], "dropout": 0.0, "history": LENGTH, "embedding": {"init": 0.5}, "ican": {"heads": 2}},
    "base": {"loss": "logistic", "num_negatives": 3},
    "objectives": {"mic": {}},
    "semantics": {"kind": "tfidf"},
    "trainer": {"seed": 5},
    "samples": {"masks": {"p_val": 0.0}},  # the slow twins hide fields and clicks only
}


def settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """SETTINGS with `{"model.dim": 4}` and the like on top; a section given as None is switched off."""
    data: dict[str, Any] = {name: dict(section) for name, section in SETTINGS.items()}
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        node = data
        for parent in parents:
            node[parent] = dict(node.get(parent) or {})
            node = node[parent]
        node[last] = value
    return Settings.model_validate(data)


def by_encoder(name: str) -> dict[str, Any]:
    """Overrides for an encoder, with a loss that it can have: exact FM none by cosine."""
    return {"model.encoder": name} | ({"base.loss": "sampled_softmax", "objectives.mic": None} if name == "fm" else {})


def item_feat() -> pa.Table:
    # items 8 and 9 are rare: OOV id. Item 3 has no tags.
    return pa.table(
        {
            "idx": pa.array(range(1, ITEMS + 1), pa.int32()),
            "eligible": [True] * ITEMS,
            "item_id": pa.array([4, 5, 6, 7, 8, 9, 10, 2, 2], pa.int32()),
            "category": pa.array([4, 4, 5, 5, 6, 6, 4, 5, 2], pa.int32()),
            "tags": pa.array([[4], [4, 5], [], [5, 6, 7], [8], [4, 8], [6], [7, 7], [5]], pa.list_(pa.int32())),
        }
    )


def user_feat() -> pa.Table:
    return pa.table(
        {
            "idx": pa.array(range(1, USERS + 1), pa.int32()),
            "user_id": pa.array([4, 5, 6, 7, 8, 9, 2], pa.int32()),
            "gender": pa.array([4, 5, 4, 5, 4, 2, 5], pa.int32()),
            "hobbies": pa.array([[4, 5], [], [6], [7, 4, 5], [5], [6, 7], [4]], pa.list_(pa.int32())),
        }
    )


def catalogue(given: Settings) -> Catalogue:
    return replace(Catalogue.from_arrow(item_feat(), given.registry()), related=related())


def related() -> dict[str, Related]:
    # sessions {1, 2}, {1, 2}, {1, 3}, {4, 5} and {1, 6}, of which cooc no longer holds the last; nothing goes with items 7, 8 and 9
    both = [(1, 2, 2.0), (1, 3, 1.0), (4, 5, 1.0)]
    cooc = [*both, *((j, i, w) for i, j, w in both)]
    pairs = [*((i, j) for i, j, _ in cooc), (1, 6), (6, 1)]
    columns = dict(zip(("item_i", "item_j", "weight"), map(list, zip(*cooc, strict=True)), strict=True))
    exact = dict(zip(("item_i", "item_j"), map(list, zip(*pairs, strict=True)), strict=True))
    alike = {"item_idx": [1, 2, 3, 4, 5, 9], "neighbours": [[3, 2], [1], [1], [5], [4, 8], []]}
    return {
        "cooc": Related.of_pairs(pa.table(columns), ITEMS, weighted=True),
        "cooc_pairs": Related.of_pairs(pa.table(exact), ITEMS, weighted=False),
        "sem_nn": Related.of_lists(pa.table(alike), ITEMS),
    }


def encoder(given: Settings, backend: Backend | None = None) -> Encoder:
    return build_encoder(given, given.registry(), catalogue(given), VOCAB, backend)


def whole(parameter: nn.Parameter, values: Tensor | None, backend: Backend) -> Tensor:
    """values of all rows of a parameter, dense: what each worker has of it is brought together where it is divided over them."""
    assert values is not None
    own = values.to_dense() if values.is_sparse else values.detach().clone()
    if not isinstance(parameter, Shard):
        return own
    everyone = backend.gather_ids(own)
    lengths = backend.gather_ids(torch.tensor([len(own)])).tolist()
    for rank, part in enumerate(torch.split(everyone.clone(), lengths)):
        everyone[rank :: backend.size] = part
    return everyone


def batch(num: int = 13, seed: int = 3) -> Batch:
    """A global batch of `num` rows; with 7 users and 9 items, users and items repeat."""
    row = torch.arange(num)
    users = UserTable.from_arrow(user_feat(), settings().registry())
    user_idx, item_idx = (torch.from_numpy(1 + below(bound, seed, word, row.numpy())) for word, bound in ((0, USERS), (1, ITEMS)))
    hist_len = torch.from_numpy(below(LENGTH + 1, seed, 2, row.numpy()))
    hist_len[0] = 0
    hist = torch.from_numpy(1 + below(ITEMS, seed, 3, row.numpy()[:, None], torch.arange(LENGTH).numpy()))
    hist = hist.masked_fill(torch.arange(LENGTH) >= hist_len[:, None], 0)
    masks = {
        name: torch.from_numpy(below(bound, seed, word, row.numpy()))
        for word, (name, bound) in enumerate((("um_b", 8), ("uh_b", 32), ("vm_b", 8)), 4)
    }
    return {
        "row": row,
        "sample_id": user_idx << 32 | row,
        "user_idx": user_idx,
        "item_idx": item_idx,
        "hist": hist,
        "hist_len": hist_len,
        "weight": torch.from_numpy(1 + below(3, seed, 9, row.numpy())).float(),
        **masks,
        **{f"user.{name}": column[user_idx].long() for name, column in {**users.single, **users.multi}.items()},
    }


def every_position(given: Batch) -> Batch:
    """The same rows, each of which also trains on up to 3 of the last clicks of its history."""
    place, length = torch.arange(given["hist"].shape[1]), given["hist_len"][:, None]
    own = (place < length) & (place >= length - 3 + given["row"][:, None] % 2)
    return {**given, "hist_weight": torch.where(own, 1 + (given["row"][:, None] + place) % 3, 0).float()}


def rows_of(given: Batch, rows: list[int]) -> Batch:
    index = torch.tensor(rows, dtype=torch.int64)
    return {name: column[index] for name, column in given.items()}


def known(given: Batch) -> Tensor:
    return torch.cat([given["hist"], given["item_idx"][:, None]], dim=1)


def item_counts() -> Tensor:
    return torch.tensor([0, 9, 7, 5, 4, 3, 2, 1, 0, 0])


def step(given: Settings, towers: Encoder, rows: Batch, backend: Backend | None = None, number: int = 11) -> Step:
    return Step(
        encoder=towers,
        batch=rows,
        backend=backend or SingleBackend(),
        settings=given,
        catalogue=catalogue(given),
        seed=given.trainer.seed,
        step=number,
        item_counts=item_counts(),
        masking=masking_of(given, {}),
    )


def model(given: Settings, dtype: torch.dtype = torch.float32, backend: Backend | None = None) -> tuple[Encoder, Criterion]:
    towers = encoder(given, backend)
    return towers.to(dtype), build_objectives(given, towers).to(dtype)


class FreeVectors(Encoder):
    """One free vector a user interest, item and view: any set of vectors a test wants to compare, with gradients to each."""

    def __init__(self, interests: int = 1, dim: int = 6, similarity: Literal["cosine", "inner_product"] = "cosine", seed: int = 0) -> None:
        super().__init__()
        self.interests, self.dim, self.similarity, self.features_dim = interests, dim, similarity, dim
        generator = torch.Generator().manual_seed(seed)
        self.users, self.users_b = (nn.Parameter(torch.randn(USERS + 1, interests, dim, generator=generator)) for _ in range(2))
        self.items, self.items_b = (nn.Parameter(torch.randn(ITEMS + 1, dim, generator=generator)) for _ in range(2))

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return (self.users if um is None else self.users_b)[batch["user_idx"]]

    def item(
        self, idx: Tensor, *, vm: Tensor | None = None, multi: Any = None, noise: Tensor | None = None, drop: float | None = None
    ) -> Tensor:
        return (self.items if vm is None else self.items_b)[idx]

    def features(self, idx: Tensor, *, vm: Tensor | None = None, multi: Any = None) -> Tensor:
        return self.item(idx, vm=vm)

    def tables(self) -> list[nn.Parameter]:
        return []


def pairs(user_idx: list[int], item_idx: list[int]) -> Batch:
    """Rows without history or fields, for FreeVectors."""
    num = len(user_idx)
    zero = torch.zeros(num, dtype=torch.int64)
    ids = {"row": torch.arange(num), "user_idx": torch.tensor(user_idx), "item_idx": torch.tensor(item_idx)}
    masks = {"um_b": zero, "uh_b": zero, "vm_b": zero}
    return {**ids, **masks, "weight": torch.ones(num), "hist": zero[:, None], "hist_len": zero}
