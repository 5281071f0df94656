"""Eight planted topics: what each loss promises is seen in a model trained for a few seconds.

Users like two topics, sessions hold one, titles and co-occurrence follow topics; categories do so nine times in ten. Some items are cold:
one click each.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conf.masks import masking_of, masks_of
from conf.settings import Settings
from trainer.backends.single import SingleBackend
from trainer.catalogue import Catalogue
from trainer.encoders import Batch, Encoder, build_encoder
from trainer.objectives import Step, build_objectives
from trainer.optimizers import Optimizers
from trainer.related import Related

TOPICS, USERS, ITEMS, COLD, SESSIONS, LENGTH, HISTORY = 8, 400, 320, 64, 6, 5, 10
STEPS, BATCH = 150, 256
Array = npt.NDArray[Any]

BASE: dict[str, Any] = {
    "source": {"kind": "generic", "path": "x.csv", "fields": {"item": {"category": "single", "title": "text"}}},
    "model": {"encoder": "dssm", "dim": 16, "hidden": [32], "history": HISTORY, "dropout": 0.1, "fields": {"item": ["item_id"]}},
    "base": {"loss": "sampled_softmax", "weight": 1.0, "negatives": "shared", "num_negatives": 128, "temperature": 0.1},
    "semantics": {"kind": "tfidf"},
    "trainer": {"seed": 3, "optimizer": {"lr": 0.005}},
}
INNER = {"base": {**BASE["base"], "temperature": 1.0}}


class World:
    """clicks: int[USERS, SESSIONS * LENGTH], item_idx in time order; the last session of each user is held out."""

    def __init__(self, seed: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self.item_topic = np.concatenate(([-1], np.arange(ITEMS) % TOPICS))
        self.cold = np.zeros(ITEMS + 1, dtype=bool)
        self.cold[rng.permutation(ITEMS)[:COLD] + 1] = True
        self.user_topics = np.stack([rng.permutation(TOPICS)[:2] for _ in range(USERS)])
        warm = [np.flatnonzero((self.item_topic == t) & ~self.cold) for t in range(TOPICS)]
        topic = np.take_along_axis(self.user_topics, rng.integers(0, 2, (USERS, SESSIONS)), axis=1)
        sessions = np.stack([[rng.choice(warm[t], LENGTH, replace=False) for t in row] for row in topic])
        for item in np.flatnonzero(self.cold):  # one click, in a session of its topic
            user, session = rng.permutation(np.argwhere(topic[:, :-1] == self.item_topic[item]))[0]
            sessions[user, session, rng.integers(LENGTH)] = item
        self.sessions = sessions
        self.clicks = sessions.reshape(USERS, -1)
        noise = rng.random(ITEMS + 1) < 0.1
        self.category = np.where(noise, rng.integers(0, TOPICS, ITEMS + 1), self.item_topic)

    def item_feat(self) -> pa.Table:
        idx = np.arange(1, ITEMS + 1)
        given = {"idx": idx, "eligible": np.ones(ITEMS, dtype=bool), "item_id": idx + 3, "category": self.category[1:] + 4}
        return pa.table({name: pa.array(values, None if name == "eligible" else pa.int32()) for name, values in given.items()})

    def related(self) -> dict[str, Related]:
        together = np.zeros((ITEMS + 1, ITEMS + 1))
        for session in self.sessions[:, :-1].reshape(-1, LENGTH):
            together[np.ix_(session, session)] += 1
        np.fill_diagonal(together, 0)
        i, j = together.nonzero()
        met = pa.table({"item_i": i, "item_j": j, "weight": together[i, j]})
        rng = np.random.default_rng(1)
        alike = [rng.permutation(np.flatnonzero(self.item_topic == t))[:10].tolist() for t in self.item_topic[1:]]
        lists = pa.table(
            {"item_idx": np.arange(1, ITEMS + 1), "neighbours": [[x for x in row if x != n] for n, row in enumerate(alike, 1)]}
        )
        return {"cooc": Related.of_pairs(met, ITEMS, weighted=True), "sem_nn": Related.of_lists(lists, ITEMS)}

    def rows(self, users: Array, position: Array) -> Batch:
        """The clicks at these positions, with what came before each."""
        at = position[:, None] - HISTORY + np.arange(HISTORY)
        length = np.minimum(position, HISTORY)
        at = at + (HISTORY - length)[:, None]  # oldest first, padding at the end
        hist = np.where(np.arange(HISTORY) < length[:, None], self.clicks[users[:, None], np.maximum(at, 0) % self.clicks.shape[1]], 0)
        own = {"user_idx": users + 1, "item_idx": self.clicks[users, position % self.clicks.shape[1]], "hist": hist, "hist_len": length}
        own |= {"row": np.arange(len(users)), "user.user_id": users + 4}
        return {name: torch.from_numpy(np.asarray(values, dtype=np.int64)) for name, values in own.items()}


@cache
def world() -> World:
    return World()


def settings(**sections: Any) -> Settings:
    merged = {name: dict(section) for name, section in BASE.items()}
    for name, given in sections.items():
        merged[name] = merged.get(name, {}) | given
    return Settings.model_validate(merged)


def train(given: Settings) -> Encoder:
    made, registry = world(), given.registry()
    catalogue = replace(Catalogue.from_arrow(made.item_feat(), registry), related=made.related())
    sizes = {"user_id": USERS + 4, "item_id": ITEMS + 4, "category": TOPICS + 4}
    encoder = build_encoder(given, registry, catalogue, sizes)
    criterion = build_objectives(given, encoder)
    optimizers, masking = Optimizers(given, encoder, criterion), masking_of(given, {})
    train_clicks = (SESSIONS - 1) * LENGTH
    counts = torch.from_numpy(np.bincount(made.clicks[:, :train_clicks].ravel(), minlength=ITEMS + 1))
    rng = np.random.default_rng(5)
    for number in range(STEPS):
        users, position = rng.integers(0, USERS, BATCH), rng.integers(0, train_clicks, BATCH)
        batch = made.rows(users, position)
        sample_id = users * 1000 + position
        masks = masks_of(masking, sample_id, batch["hist_len"].numpy(), 0)
        batch |= {name[:-1]: torch.from_numpy(mask) for name, mask in masks.items()}
        batch |= {"sample_id": torch.from_numpy(sample_id), "weight": torch.ones(BATCH), "draw": torch.zeros(BATCH, dtype=torch.int64)}
        step = Step(
            encoder=encoder,
            batch=batch,
            backend=SingleBackend(),
            settings=given,
            catalogue=catalogue,
            seed=given.trainer.seed,
            step=number,
            item_counts=counts,
            masking=masking,
        )
        optimizers.zero_grad()
        criterion(step)[0].backward()
        optimizers.step()
    return encoder.eval()


@cache
def vectors(name: str) -> tuple[Tensor, Tensor, Encoder]:
    """(users float[U, K, D] before their last session, items float[n, D], encoder) of a recipe."""
    encoder = train(settings(**RECIPES[name]))
    with torch.no_grad():
        users = encoder.user(world().rows(np.arange(USERS), np.full(USERS, (SESSIONS - 1) * LENGTH)))
        items = encoder.item(torch.arange(1, ITEMS + 1))
    return users, items, encoder


MIC = {"projection": "identity", "uv": 0, "uu": 0, "vv": 0}
RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "ui": {"objectives": {"mic": {**MIC, "uv": 1}}},
    "uu": {"objectives": {"mic": {**MIC, "uu": 1}}},
    "ii": {"objectives": {"mic": {**MIC, "vv": 1}}},
    "sem": {"objectives": {"micrec": {"fea": 0, "sem": 0.3, "sess": 0}}},
    "sess": {"objectives": {"micrec": {"fea": 0, "sem": 0, "sess": 0.3}}},
    "dnn": {"model": {"encoder": "youtube_dnn", "fields": {"user": [], "item": ["item_id"]}, "item_tower": "id"}, **INNER},
    "comirec": {"model": {"encoder": "comirec_sa", "fields": {"user": [], "item": ["item_id"]}, "item_tower": "id"}, **INNER},
    "fm": {"model": {"encoder": "fm"}, **INNER},
}


def scores(name: str) -> Tensor:
    users, items, encoder = vectors(name)
    if encoder.similarity == "cosine":
        users, items = F.normalize(users, dim=2), F.normalize(items, dim=1)
    return torch.einsum("ukd,nd->ukn", users, items).amax(dim=1)


def recall_of_topic(name: str, at: int, *, among: Array) -> float:
    """Share of the first `at` items (of those among) that are of one of the user's topics."""
    best = scores(name)[:, torch.from_numpy(among)].topk(at, dim=1).indices.numpy()
    topics = world().item_topic[1:][among][best]
    return float((topics[:, :, None] == world().user_topics[:, None, :]).any(axis=2).mean())


def hit_rate(ranked: Array, at: int) -> float:
    truth = world().sessions[:, -1] - 1
    return float((ranked[:, :at, None] == truth[:, None, :]).any(axis=(1, 2)).mean())


EVERY, COLD_ONES = np.arange(ITEMS), np.flatnonzero(world().cold[1:])


def test_topics_are_found() -> None:
    assert recall_of_topic("base", 20, among=EVERY) > 0.8  # a quarter of all items are of a user's topics


@pytest.mark.parametrize("part", ["sem", "sess"])
def test_items_that_hardly_anyone_clicked_are_found_through_others(part: str) -> None:
    base, with_it = (recall_of_topic(name, 8, among=COLD_ONES) for name in ("base", part))
    assert with_it > base + 0.05


def aligned(name: str) -> float:
    """Mean squared distance of users and the items of their last session, by unit vectors. Wang and Isola 2020."""
    users, items, _ = vectors(name)
    truth = torch.from_numpy(world().sessions[:, -1] - 1)
    return float((F.normalize(users, dim=2) - F.normalize(items, dim=1)[truth]).square().sum(dim=2).mean())


def uniform(x: Tensor) -> float:
    """ln of the mean over pairs of exp(-2 distance^2), by unit vectors. Wang and Isola 2020."""
    return float(torch.pdist(F.normalize(x, dim=1)).square().mul(-2).exp().mean().log())


def test_user_item_contrast_aligns_users_with_their_items() -> None:
    assert aligned("ui") < aligned("base")


def test_user_user_contrast_spreads_users() -> None:
    assert uniform(vectors("uu")[0][:, 0]) < uniform(vectors("base")[0][:, 0])


def test_item_item_contrast_spreads_items() -> None:
    assert uniform(vectors("ii")[1]) < uniform(vectors("base")[1])


def test_two_tastes_are_two_interests() -> None:
    ranked = {name: scores(name).argsort(dim=1, descending=True).numpy() for name in ("comirec", "dnn")}
    assert hit_rate(ranked["comirec"], 20) > hit_rate(ranked["dnn"], 20)


def test_factorisation_beats_popularity() -> None:
    popular = np.argsort(-np.bincount(world().clicks[:, : (SESSIONS - 1) * LENGTH].ravel(), minlength=ITEMS + 1)[1:], kind="stable")
    ranked = scores("fm").argsort(dim=1, descending=True).numpy()
    assert hit_rate(ranked, 20) > hit_rate(np.tile(popular, (USERS, 1)), 20)
