"""What a stranger's column is likely to be, judged by its name and its values. Used for hints in errors and by `trichannel init`."""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from spark_jobs.sources.raw import FIRST_TS, LAST_TS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Our columns, the words that name them elsewhere, and the words that may stand beside those (None = any).
ROLE_WORDS: Final[Mapping[str, tuple[frozenset[str], frozenset[str] | None]]] = {
    "user_key": (
        _words("user uid userid customer household member visitor client person reader viewer listener shopper reviewer subscriber buyer")
        | _words("account author device cookie patron player"),
        _words("id key code no number num hash pk idx index u s"),
    ),
    "item_key": (
        _words("item iid itemid product productid sku asin movie film video track song article news book listing content ad offer isbn")
        | _words("game recipe post page course hotel restaurant business goods creative photo"),
        _words("id key code no number num hash pk idx index i s parent"),
    ),
    "ts": (_words("ts timestamp time datetime date unixtime epoch when clicked created viewed occurred"), None),
    "session_key": (_words("session sessionid basket visit cart order invoice receipt"), _words("id key code no number num hash pk s")),
    "event_type": (_words("event action behavior behaviour interaction eventtype"), _words("type name kind")),
    "weight": (_words("rating score stars weight"), _words("value")),
}

ORDER_WORDS: Final = _words("pos position order rank seq sequence step ordinal")

# Spark pattern -> Python's own, tried in this order: day before month, unless a day above 12 says otherwise.
PATTERNS: Final[Mapping[str, str]] = {
    "d/M/yyyy H:m:s": "%d/%m/%Y %H:%M:%S",
    "M/d/yyyy H:m:s": "%m/%d/%Y %H:%M:%S",
    "d/M/yyyy H:m": "%d/%m/%Y %H:%M",
    "M/d/yyyy H:m": "%m/%d/%Y %H:%M",
    "d.M.yyyy H:m:s": "%d.%m.%Y %H:%M:%S",
    "yyyy/M/d H:m:s": "%Y/%m/%d %H:%M:%S",
    "d/M/yyyy": "%d/%m/%Y",
    "M/d/yyyy": "%m/%d/%Y",
    "d.M.yyyy": "%d.%m.%Y",
    "yyyy/M/d": "%Y/%m/%d",
    "yyyyMMdd": "%Y%m%d",
    "yyyyMMddHHmmss": "%Y%m%d%H%M%S",
    "d-MMM-yyyy": "%d-%b-%Y",
}
ISO: Final = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|UTC|[+-]\d{2}(:?\d{2})?)?)?", re.IGNORECASE)


def tokens(name: str) -> list[str]:
    """Words of a column name, lower case: 'reviewerID' -> reviewer id; 'User-Id' -> user id."""
    spaced = re.sub(r"([a-z0-9])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3 \2\4", name)
    return re.findall(r"[a-z]+|\d+", spaced.lower())


def fits(role: str, name: str) -> int:
    """How well a name fits one of our columns: 0 not at all; the more words of its own it needs, the less."""
    own, beside = ROLE_WORDS[role]
    words = [word if word in own else word.removesuffix("s") for word in tokens(name)]
    found = [word for word in words if word in own]
    others = [word for word in words if word not in own]
    if not found or (beside is not None and any(word not in beside for word in others)):
        return 0
    # 'timestamp' before 'date', 'user_id' before 'account_id': the order in which the words stand above
    return max(1, 50 - 5 * len([word for word in others if beside is None])) + (3 if "id" in words or len(words) == 1 else 0)


def best_column(role: str, names: Sequence[str]) -> str | None:
    """The column whose name fits the role best, or None; the first of equals."""
    ranked = sorted(((-fits(role, name), place, name) for place, name in enumerate(names) if fits(role, name)))
    return ranked[0][2] if ranked else None


def nearest(role: str, wanted: str, names: Sequence[str]) -> str | None:
    """The column that was probably meant by `wanted`: a spelling close to it, else one that fits the role."""
    close = get_close_matches(wanted.lower(), [name.lower() for name in names], n=1, cutoff=0.75)
    if close:
        return next(name for name in names if name.lower() == close[0])
    return best_column(role, names) if role in ROLE_WORDS else None


def guess_ts_format(values: Sequence[str]) -> str | None:
    """The `source.ts_format` that reads every one of these values (blank ones aside), or None if none does."""
    texts = [value.strip() for value in values if value and value.strip()]
    if not texts:
        return None
    if all(ISO.fullmatch(text) for text in texts):
        return "iso8601"
    for pattern, strptime in PATTERNS.items():
        if all(_matches(text, strptime) for text in texts):
            return pattern
    numbers = [_number(text) for text in texts]
    if any(math.isnan(number) for number in numbers):
        return None
    middle = sorted(numbers)[len(numbers) // 2]
    if 1e8 <= middle < LAST_TS:
        return "epoch_s"
    return "epoch_ms" if 1e11 <= middle < LAST_TS * 1000 else None


def _matches(text: str, strptime: str) -> bool:
    if strptime in ("%Y%m%d", "%Y%m%d%H%M%S") and not re.fullmatch(r"(19|20)\d{6}(\d{6})?", text):
        return False
    try:
        return FIRST_TS <= datetime.datetime.strptime(text, strptime).replace(tzinfo=datetime.UTC).timestamp() < LAST_TS
    except ValueError:
        return False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
