"""A click log whose truth is known: users with planted tastes click on items of a generated catalogue.

The world, all of it a pure function of `source.synthetic` (and `source.default_ds`, the last day of the log):

* Every item has a topic, a style (a point in the plane) and a popularity: Zipf inside its topic, with a flattened head. Category, tags and
  the words of its title follow topic and style, with some noise and some gaps, as in a real catalogue.
* Every user likes two to four topics in given shares, and has one style of fixed length. P(item | user, topic) is proportional to
  popularity * exp(<user style, item style>). Gender and age lean towards some topics, the city towards a style; both weakly.
* A user's clicks come in sessions of one topic each: minutes inside a session, at least an hour between two. In a topic the user
  draws without replacement (so repeats are rare); a share `off_taste` of all clicks follows popularity alone.

Each user is drawn from a generator keyed by (seed, user), so that any number of partitions makes the same log, and the oracle
(`oracle_top`) knows a user's true probabilities without the log. Cost: users * liked topics * items per topic draws.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from conf.draws import permutation, words64
from conf.sections.source import Synthetic
from conf.settings import Settings

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

WORLD, TASTE, LOG, ITEM = 1, 2, 3, 4  # what a generator is for: the first word of its key

STYLE_DIM = 2
STYLE_STRENGTH = 1.0  # length of a user's style: how much finer than topics tastes are
CITY_PULL = 0.5  # length of a city's pull on the styles of its users, before normalisation; their own part has length 1.4
HEAD_SHIFT = 6.0  # Mandelbrot's shift: without it, two hits per topic would take a fifth of all clicks
MIN_CLICKS, SESSION_CLICKS, SESSION_MAX = 5, 5.0, 15
SLOTS_A_DAY = 4  # a session starts in the first 2.5 h of a 6 h slot and lasts 2 h at most
SLOT_SHARES = (0.08, 0.24, 0.30, 0.38)  # night, morning, afternoon, evening
DAY_S = 86_400

GENDERS = ("f", "m")
AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
CITIES = ("Arles", "Bergen", "Cork", "Delft", "Evora", "Faro", "Ghent", "Hanko", "Izmir", "Jena", "Kotor", "Lund")


@dataclass(frozen=True)
class World:
    """What is true of all items and all users. T topics, N items; item n has topic n % T and, inside it, popularity rank n // T."""

    config: Synthetic
    number: I64  # [N] the number in an item's key: shuffled, so that keys tell nothing
    style: F64  # [N, STYLE_DIM]
    log_weight: F64  # [N] log of the popularity inside the topic, not normalised
    popularity: F64  # [N] share of off-taste clicks
    topic_logit: F64  # [T] how often a topic is liked
    gender_logit: F64  # [2, T]
    age_logit: F64  # [6, T]
    city_style: F64  # [12, STYLE_DIM]

    def items_of(self, topic: int) -> slice:
        """The items of a topic, most popular first."""
        return slice(topic, None, self.config.topics)


@dataclass(frozen=True)
class Taste:
    """What is true of one user. topics int[K], shares float[K] adding up to 1, style float[STYLE_DIM]."""

    topics: I64
    shares: F64
    style: F64
    gender: str | None
    age: str | None
    city: str | None


def generator(config: Synthetic, *words: int) -> np.random.Generator:
    """An independent generator for (seed, words); raises nothing, holds no shared state."""
    key = words64(config.seed, *words, np.arange(2))
    return np.random.Generator(np.random.Philox(key=key))


@lru_cache(maxsize=4)
def world(config: Synthetic) -> World:
    """The world of these settings; made once per process."""
    rng = generator(config, WORLD)
    topics, items = config.topics, config.items
    topic_logit = rng.normal(0, 0.5, topics)
    log_weight = -config.popularity_exponent * np.log(np.arange(items) // topics + 1 + HEAD_SHIFT)
    total = np.bincount(np.arange(items) % topics, weights=np.exp(log_weight), minlength=topics)
    popularity = np.exp(log_weight + np.tile(topic_logit - np.log(np.maximum(total, 1e-300)), items // topics + 1)[:items])
    return World(
        config,
        number=permutation(items, config.seed, WORLD),
        style=rng.normal(0, 1, (items, STYLE_DIM)),
        log_weight=log_weight,
        popularity=popularity / popularity.sum(),
        topic_logit=topic_logit,
        gender_logit=rng.normal(0, 0.7, (len(GENDERS), topics)),
        age_logit=rng.normal(0, 0.7, (len(AGES), topics)),
        city_style=CITY_PULL * _unit(rng.normal(0, 1, (len(CITIES), STYLE_DIM))),
    )


def taste(w: World, user: int) -> Taste:
    """The planted taste of user 0.., with what the users table may tell of it (each field is missing for one user in twenty)."""
    rng = generator(w.config, TASTE, user)
    gender, age, city = rng.integers(len(GENDERS)), rng.integers(len(AGES)), rng.integers(len(CITIES))
    present = rng.random(3) >= 0.05
    attraction = w.topic_logit + w.gender_logit[gender] + w.age_logit[age] + rng.gumbel(size=w.config.topics)
    attraction = attraction[: w.config.items]  # with fewer items than topics, the last topics have none
    liked = np.argsort(-attraction, kind="stable")[: int(rng.integers(2, 5))]
    shares = rng.gamma(2.0, size=len(liked))
    style = STYLE_STRENGTH * _unit(w.city_style[city] + rng.normal(0, 1, STYLE_DIM))
    return Taste(
        topics=liked,
        shares=shares / shares.sum(),
        style=style,
        gender=GENDERS[gender] if present[0] else None,
        age=AGES[age] if present[1] else None,
        city=CITIES[city] if present[2] else None,
    )


def click_log(w: World, user: int, first_day_s: int) -> tuple[I64, I64]:
    """The clicks of one user in time order: items int64[n] (0..), ts int64[n]. first_day_s: midnight of the first day."""
    config, t, rng = w.config, taste(w, user), generator(w.config, LOG, user)
    slots = config.days * SLOTS_A_DAY
    mean = config.clicks / config.users
    wanted = mean * np.exp(config.activity_sigma * rng.normal() - config.activity_sigma**2 / 2)
    num = int(np.clip(round(wanted), MIN_CLICKS, max(MIN_CLICKS, min(slots * SESSION_MAX, config.items // 2))))
    lengths = _session_lengths(rng, num, slots)
    topic_of_click = np.repeat(rng.choice(len(t.topics), size=len(lengths), p=t.shares), lengths)
    items = np.empty(num, dtype=np.int64)
    for k, topic in enumerate(t.topics):
        mine = np.flatnonzero(topic_of_click == k)
        # Sorting by log weight plus Gumbel noise draws without replacement, in order (Plackett-Luce).
        logits = w.log_weight[w.items_of(topic)] + w.style[w.items_of(topic)] @ t.style
        order = np.argsort(-(logits + rng.gumbel(size=len(logits))), kind="stable")
        items[mine] = topic + config.topics * np.resize(order, len(mine))
    off = rng.random(num) < config.off_taste
    items[off] = np.searchsorted(np.cumsum(w.popularity), rng.random(off.sum())).clip(max=config.items - 1)
    return items, first_day_s + _click_times(rng, lengths, config.days)


def _session_lengths(rng: np.random.Generator, num: int, slots: int) -> I64:
    """Clicks of each session, `num` together; at most `slots` sessions."""
    ends = np.cumsum(np.minimum(rng.geometric(1 / SESSION_CLICKS, num), SESSION_MAX))
    lengths = np.diff(np.append(ends[ends < num], num), prepend=0)
    if len(lengths) > slots:  # a very active user: as many sessions as fit, of equal length
        lengths = np.diff(np.linspace(0, num, slots + 1).astype(np.int64))
    return lengths.astype(np.int64)


def _click_times(rng: np.random.Generator, lengths: I64, days: int) -> I64:
    """Seconds from the first midnight, strictly increasing inside a session."""
    attraction = np.tile(np.log(SLOT_SHARES), days) + rng.gumbel(size=days * SLOTS_A_DAY)
    slots = np.sort(np.argsort(-attraction, kind="stable")[: len(lengths)])
    starts = slots * (DAY_S // SLOTS_A_DAY) + rng.integers(0, 9_000, len(lengths))
    gaps = np.clip(rng.lognormal(np.log(60), 1.0, lengths.sum()), 5, 480).astype(np.int64)
    firsts = np.cumsum(lengths) - lengths
    gaps[firsts] = 0
    elapsed = np.cumsum(gaps)
    times: I64 = np.repeat(starts, lengths) + elapsed - np.repeat(elapsed[firsts], lengths)
    return times


# ---- the oracle ----------------------------------------------------------------------------------------------------


class Top(NamedTuple):
    """The best items of some users. items: for each user the item keys, best first. scores: their planted probabilities."""

    items: list[list[str]]
    scores: list[F64]


def oracle_top(settings: Settings, user_keys: Sequence[str], num: int, exclude: Sequence[Collection[str]] | None = None) -> Top:
    """The `num` items each user most likely clicks next, by one who knows the planted tastes.

    exclude: for each user the item keys never to be recommended (already seen); since users draw without replacement inside a
    topic, what they have seen also leaves its share to the rest of that topic. Scores are the probabilities of the next click.

    Raises:
        ValueError: a user key that the generator never made.
    """
    w = world(settings.source.synthetic)
    known = {key: n for n, key in enumerate(item_keys(w))}
    items, scores = [], []
    for row, key in enumerate(user_keys):
        seen = np.array([known[k] for k in exclude[row] if k in known] if exclude is not None else [], dtype=np.int64)
        probability = next_click(w, user_number(key, w.config), seen)
        best = np.argsort(-probability, kind="stable")[:num]
        best = best[probability[best] > 0]
        items.append([item_key(w, n) for n in best])
        scores.append(probability[best])
    return Top(items, scores)


def next_click(w: World, user: int, seen: I64) -> F64:
    """float64[N]: the probability that each item is the user's next click, 0 for the items in `seen`."""
    t = taste(w, user)
    fresh = np.ones(w.config.items)
    fresh[seen] = 0
    probability = w.config.off_taste * w.popularity
    for topic, share in zip(t.topics, t.shares, strict=True):
        of_topic = w.items_of(topic)
        weight = np.exp(w.log_weight[of_topic] + w.style[of_topic] @ t.style) * fresh[of_topic]
        probability[of_topic] += (1 - w.config.off_taste) * share * weight / max(weight.sum(), 1e-300)
    return probability * fresh


# ---- keys ----------------------------------------------------------------------------------------------------------


def user_key(user: int) -> str:
    """The business key of user 0.."""
    return f"u{user:07d}"


def user_number(key: str, config: Synthetic) -> int:
    """The inverse of `user_key`; raises ValueError for a key that the generator never made."""
    number = int(key[1:]) if key[:1] == "u" and key[1:].isdigit() else -1
    if not 0 <= number < config.users:
        raise ValueError(f"{key!r} is no user of the synthetic source; users are {user_key(0)} to {user_key(config.users - 1)}")
    return number


def item_key(w: World, item: int) -> str:
    """The business key of item 0.."""
    return f"i{w.number[item]:07d}"


def item_keys(w: World) -> list[str]:
    """The business keys of all items, in their order."""
    return [f"i{number:07d}" for number in w.number]


def _unit(x: F64) -> F64:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float64)
