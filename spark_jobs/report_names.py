"""What the report calls things, and how it writes numbers."""

from collections.abc import Mapping
from typing import Final

# channel as in table metrics: (name on the page, what it is)
NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "merged": ("Merged", "all channels by reciprocal rank fusion: what is published"),
    "u2i": ("U2I", "items nearest to the user's vector"),
    "u2u2i": ("U2U2I", "what the most similar users clicked"),
    "i2i": ("I2I", "items most similar to each item of the history"),
    "itemcf": ("ItemCF, sessions", "items that met the history's items in a session"),
    "popular": ("Popular", "most clicked items: the fallback for users without history"),
    "cold": ("Cold", "new items by their fields; for users without history the nearest items"),
    "most_pop": ("MostPop", "baseline: most clicked items"),
    "itemcf_cosine": ("ItemCF, cosine", "baseline: item-item cosine over users' whole histories"),
    "als": ("ALS", "baseline: Spark MLlib matrix factorisation"),
    "oracle": ("Oracle", "knows the planted tastes of the generated data: the ceiling"),
}
BASELINES: Final = ("most_pop", "itemcf_cosine", "als")
# metric as in table metrics: (name on the page, what it is)
FOUND: Final[Mapping[str, tuple[str, str]]] = {
    "recall": ("Recall", "share of a user's held-out items that are in the first N, mean over users"),
    "ndcg_std": ("NDCG", "the same weighted by rank; 1 = every held-out item at the top"),
    "ndcg_hit": ("NDCG of hits", "normalised by the hits found rather than by all held-out items"),
    "hr": ("Hit rate", "share of users with a held-out item in the first N"),
    "precision": ("Precision", "share of the first N places with a held-out item"),
    "mrr": ("MRR", "1 / rank of the first hit, 0 without one"),
    "hit_cut": ("HIT", "share of all held-out clicks that are in the first N, by what the user had clicked up to the cut"),
    "hit_click": ("HIT, then", "the same of U2I by lists made just before each click, from all that the user had clicked by then"),
}
MADE_OF: Final[Mapping[str, tuple[str, str]]] = {
    "coverage": ("Coverage", "share of the eligible items that stand in anybody's first N"),
    "gini": ("Gini", "how unevenly the eligible items are shown: 0 all equally often, near 1 few of them all the time"),
    "novelty": ("Novelty", "mean surprise of an item of the list in bits: rarely clicked items have more"),
    "pop_share": ("Of the head", "share of the list that is among the most clicked items"),
    "diversity": ("Diversity", "share of the list's pairs of items that differ in category"),
}
VECTORS: Final[Mapping[str, tuple[str, str]]] = {
    "ui_align": ("UI-align", "mean squared distance of a user and an item it clicked, 0 to 4: lower is nearer"),
    "uu_uniform": ("UU-uniform", "how evenly users are spread, -8 to 0: lower is more even, about -4 for random directions"),
    "ii_uniform": ("II-uniform", "the same of items"),
}
PLAIN: Final = ("gini", "novelty", *VECTORS)  # no shares


def kind_of(channel: str) -> str:
    """CSS class of a channel: merged, channel, baseline or oracle."""
    if channel in ("merged", "oracle"):
        return channel
    return "baseline" if channel in BASELINES else "channel"


def shown(value: float | None, metric: str) -> str:
    """A metric's number as text: a share as percent, others to two digits."""
    return percent(value) if value is None or metric not in PLAIN else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share as text: 12.3 %, or 0.12 % where one digit would say little."""
    if value is None:
        return "–"
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2g} %"


def count(value: float | None) -> str:
    """A whole number as text, digits in groups of three."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def megabytes(size: float) -> str:
    """Bytes as text: 1.2 MB."""
    return f"{size / 1e6:.1f} MB"


def duration(seconds: float | None) -> str:
    """Seconds as text: 0.8 s, 42 s, 3 min 05 s."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def p_value(p: float | None) -> str:
    """A p-value, to two digits."""
    return "–" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def points(difference: float | None) -> str:
    """A difference of shares, in percentage points: +1.23."""
    return "–" if difference is None else f"{100 * difference:+.2f}"
