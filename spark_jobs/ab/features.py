"""A user's days as one row of numbers: totals of the test and of the time before it, and the curves day by day."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# What a user's day adds up. plays: rows with seconds played; watched: the share of the item they filled, where its length is known.
QUANTITIES: Final = ("click", "like", "follow", "dwell_s", "play_s", "plays", "watched", "watchable", "stay_s")
CURVED: Final = ("click", "dwell_s")  # drawn day by day
TOTALS: Final = (*QUANTITIES, "one", "days", "stays", "stayable")


@dataclass(frozen=True)
class UserDays:
    """Days of users, one after the other. row: int64[n], ascending from 0. day: int64[n], 0 = start. values: float64[n, QUANTITIES]."""

    row: I64
    day: I64
    values: F64


def names_of(num_days: int) -> list[str]:
    """The columns of `features`: totals, the same before the start, and for each day the day alone and all until it."""
    curves = [f"{kind}{day}.{name}" for day in range(num_days) for kind in ("day", "until") for name in ("one", *CURVED)]
    return [*TOTALS, *(f"before.{name}" for name in TOTALS), *curves]


def features(users: UserDays, num_users: int, num_days: int, *, caps: dict[str, float]) -> F64:
    """float64[N, names_of(num_days)] of users with an exposure in the test.

    one: 1; before.one: there was a day before the start. days: with an exposure; stayable: those but the last of the period; stays: of
    these, the ones followed by a day with an exposure. caps: the most that a total of the test may be, for each quantity.
    """
    test, before = users.day >= 0, users.day < 0
    columns = _totals(users, test, num_users, last=num_days - 1)
    for name, most in caps.items():
        columns[name] = np.minimum(columns[name], most)
    columns |= {f"before.{name}": column for name, column in _totals(users, before, num_users, last=-1).items()}
    columns |= _curves(users, test, num_users, num_days)
    return np.column_stack([columns[name] for name in names_of(num_days)])


def _totals(users: UserDays, chosen: npt.NDArray[np.bool_], num_users: int, *, last: int) -> dict[str, F64]:
    row, day, values = users.row[chosen], users.day[chosen], users.values[chosen]
    made = {name: _sum(row, values[:, n], num_users) for n, name in enumerate(QUANTITIES)}
    followed = np.isin(_code(row, day + 1), _code(row, day))
    made["days"] = _sum(row, np.ones(len(row)), num_users)
    made["one"] = (made["days"] > 0).astype(np.float64)
    made["stayable"] = _sum(row, (day < last).astype(np.float64), num_users)
    made["stays"] = _sum(row, (followed & (day < last)).astype(np.float64), num_users)
    return made


def _code(row: I64, day: I64) -> I64:
    """One number a user and day; days lie within 2^19 of the start."""
    return row * 2**20 + day + 2**19


def _curves(users: UserDays, chosen: npt.NDArray[np.bool_], num_users: int, num_days: int) -> dict[str, F64]:
    place = users.row[chosen] * num_days + users.day[chosen]
    made: dict[str, F64] = {}
    for name in ("one", *CURVED):
        weights = np.ones(len(place)) if name == "one" else users.values[chosen][:, QUANTITIES.index(name)]
        daily_ND = _sum(place, weights, num_users * num_days).reshape(num_users, num_days)
        until_ND = np.cumsum(daily_ND, axis=1)
        if name == "one":
            until_ND = np.minimum(until_ND, 1)
        for day in range(num_days):
            made |= {f"day{day}.{name}": daily_ND[:, day], f"until{day}.{name}": until_ND[:, day]}
    return made


def _sum(place: I64, weights: F64, num: int) -> F64:
    return np.bincount(place, weights=weights, minlength=num).astype(np.float64)
