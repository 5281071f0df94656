"""A small random world for the channels, and the formulas of the channels as plain loops: slow, obvious twins."""

from dataclasses import dataclass

import faiss
import numpy as np

from retrieval.ragged import Ragged
from retrieval.vector_index import VectorIndex, unit
from retrieval.world import Users, most_clicked, seen_items, unclicked


@dataclass(frozen=True)
class ArrayWorld:
    items: VectorIndex
    new_items: VectorIndex
    similar_items: Ragged
    met_items: Ragged
    profiles: Ragged
    clicks: np.ndarray
    popular: np.ndarray

    @property
    def u2i_items(self):
        return self.items


faiss.omp_set_num_threads(1)  # many tiny searches: waking threads would cost more than they do


def flat_index(ids, vectors, *, is_unit=True):
    vectors = np.ascontiguousarray(unit(vectors) if is_unit else vectors, dtype=np.float32)
    searcher = faiss.IndexFlatIP(vectors.shape[1])
    searcher.add(vectors)
    return VectorIndex(searcher, np.asarray(ids, dtype=np.int32), vectors, is_unit)


def dot(a, b):
    return float(np.asarray(a, dtype=np.float64) @ np.asarray(b, dtype=np.float64))


def cosine(a, b):
    return float(np.clip(dot(unit(np.asarray(a)), unit(np.asarray(b))), -1, 1))


def top_of(scores, num):
    """{item: score} -> [(item, float32 score)], best first, ties by smaller item."""
    rounded = {item: float(np.float32(score)) for item, score in scores.items()}
    return sorted(rounded.items(), key=lambda pair: (-pair[1], pair[0]))[:num]


def lists_of(ragged):
    """[[(value, weight)]] of a Ragged."""
    return [
        list(zip(ragged.values[a:b].tolist(), np.asarray(ragged.weights[a:b], dtype=np.float32).tolist(), strict=True))
        for a, b in zip(ragged.starts, ragged.starts[1:], strict=False)
    ]


def newest_distinct(items, num):
    return list(dict.fromkeys(reversed(items)))[:num]


@dataclass(frozen=True)
class Case:
    """A world, its users, and the same things as Python values for the twins."""

    world: ArrayWorld
    users: Users
    vectors: np.ndarray  # of users, [B, K, D]
    item_vectors: dict
    histories: list
    seen: list
    neighbours: list
    similar: dict
    met: dict
    profiles: dict

    @property
    def recommendable(self):
        return self.world.items.ids.tolist()


def make_case(*, seed=0, num_users=25, num_items=60, dim=6, interests=1, seen="train_and_history", is_unit=True, last=5, ties=True):
    """Random, with ties on purpose: vectors of small integers, some of them twice; user 1 has no history; every 7th item may not be
    recommended; item 5 is a zero vector and user 2 too; nobody clicked the last 8 items."""
    rng = np.random.default_rng(seed)
    draw = (lambda *shape: rng.integers(-2, 3, shape)) if ties else (lambda *shape: rng.normal(size=shape))
    items = {i: draw(dim).astype(np.float32) for i in range(1, num_items + 1)}
    items[5] = np.zeros(dim, dtype=np.float32)
    items[11] = items[10].copy()
    vectors = draw(num_users, interests, dim).astype(np.float32)
    vectors[1] = 0
    histories = [rng.integers(1, num_items - 7, rng.integers(1, 25)).tolist() for _ in range(num_users)]
    histories[0] = []
    ids = [i for i in items if i % 7]
    index = flat_index(ids, np.stack([items[i] for i in ids]), is_unit=is_unit)
    similar = {
        i: top_of({j: cosine(items[i], items[j]) for j in ids if j != i}, 4) for i in items if any(i in history for history in histories)
    }
    met = {i: [(int(j), float(rng.integers(1, 5))) for j in sorted(rng.choice(num_items, 3, replace=False) + 1) if j != i] for i in items}
    train = {user + 1: history for user, history in enumerate(histories) if history and user % 9 != 4}  # the others are held out
    profiles = {user: newest_distinct(history, 8) for user, history in train.items()}
    neighbours = [
        top_of({other: cosine(vectors[user, 0], vectors[other - 1, 0]) for other in train if other != user + 1}, 6)
        for user in range(num_users)
    ]
    clicks = np.bincount([i for history in train.values() for i in history], minlength=num_items + 1)

    def keyed(mapping, num):
        lists = [mapping.get(i, []) for i in range(num)]
        return Ragged.of([[j for j, _ in one] for one in lists], [[w for _, w in one] for one in lists])

    world = ArrayWorld(
        items=index,
        new_items=unclicked(clicks, index),
        similar_items=keyed(similar, num_items + 1),
        met_items=keyed(met, num_items + 1),
        profiles=Ragged.of([profiles.get(u, []) for u in range(num_users + 1)]),
        clicks=clicks,
        popular=most_clicked(clicks, index),
    )
    history = Ragged.of(histories)
    users = Users(
        idx=np.arange(1, num_users + 1, dtype=np.int32),
        vectors=vectors,
        history=history,
        seen=seen_items(history, seen, last=last),
        neighbours=Ragged.of([[j for j, _ in one] for one in neighbours], [[w for _, w in one] for one in neighbours]),
    )
    known = {"none": lambda h: set(), "history": lambda h: set(h[-last:]), "train_and_history": set}[seen]
    return Case(world, users, vectors, items, histories, [known(h) for h in histories], neighbours, similar, met, profiles)


def nearness(case, user, item):
    return max(cosine(vector, case.item_vectors[item]) for vector in case.vectors[user])


def slow_u2i(case, user, settings):
    if not case.vectors[user].any():
        return []
    score = cosine if case.world.items.is_unit else dot
    scores = {i: max(score(v, case.item_vectors[i]) for v in case.vectors[user]) for i in case.recommendable if i not in case.seen[user]}
    return top_of(scores, settings.top)


def slow_u2u2i(case, user, settings):
    chosen = settings.u2u2i
    near = case.neighbours[user][: chosen.neighbours]
    weight = {other: max(s, 0) ** chosen.power for other, s in near}
    total = sum(weight.values())
    share = {other: w / total if total > 0 else 1 / len(near) for other, w in weight.items()}
    factor = {"cosine": lambda c: (1 + c) / 2, "raw": lambda c: max(c, 0), "none": lambda c: 1}[chosen.relevance]
    scores = {}
    for item in case.recommendable:
        paths = [share[other] for other, _ in near if item in case.profiles[other]]
        if sum(paths) > 0 and item not in case.seen[user]:
            scores[item] = (sum(paths) if chosen.agg == "sum" else max(paths)) * factor(nearness(case, user, item))
    return top_of(scores, settings.top)


def slow_i2i(case, user, settings):
    chosen = settings.i2i
    clicked = newest_distinct(case.histories[user], chosen.history)
    gain = {h: chosen.gamma**age for age, h in enumerate(clicked)}
    scores = {}
    for item in case.recommendable:
        paths = [gain[h] * max(dict(case.similar[h])[item], 0) for h in clicked if item in dict(case.similar[h])]
        if sum(paths) > 0 and item not in case.seen[user]:
            total = sum(paths) / sum(gain.values()) if chosen.agg == "sum" else max(paths)
            scores[item] = total * (1 + nearness(case, user, item)) / 2
    return top_of(scores, settings.top)


def slow_itemcf(case, user, settings):
    clicked = newest_distinct(case.histories[user], settings.itemcf.history)
    count = {item: max(int(case.world.clicks[item]), 1) for item in case.item_vectors}
    scores = {}
    for item in case.recommendable:
        paths = [dict(case.met[h])[item] / (count[h] * count[item]) ** 0.5 for h in clicked if item in dict(case.met[h])]
        if sum(paths) > 0 and item not in case.seen[user]:
            scores[item] = sum(paths)
    return top_of(scores, settings.top)


def slow_popular(case, user, settings):
    clicks = case.world.clicks
    return top_of({i: clicks[i] for i in case.recommendable if clicks[i] > 0 and i not in case.seen[user]}, settings.top)


def slow_cold(case, user, settings):
    if not case.vectors[user].any():
        return []
    score, clicks = cosine if case.world.items.is_unit else dot, case.world.clicks
    among = [i for i in case.recommendable if not case.histories[user] or clicks[i] == 0]
    return top_of(
        {i: max(score(v, case.item_vectors[i]) for v in case.vectors[user]) for i in among if i not in case.seen[user]}, settings.top
    )


TWINS = {"u2i": slow_u2i, "u2u2i": slow_u2u2i, "i2i": slow_i2i, "itemcf": slow_itemcf, "popular": slow_popular, "cold": slow_cold}
