"""What tells more of a user's last click: what most people click, or what is clicked together. Judged from a raw log, without Spark."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

CLICKS: Final = 5_000_000  # of the log's first users: from then on no further user is looked at
SCORED: Final = 1_000  # users, evenly spread
AT: Final = 50


@dataclass(frozen=True)
class Found:
    """Shares of `users` (with an earlier click, and a last one on another item) whose last click is on one of 50 items: those with
    most clicks before, and the nearest ones to the user's own by cosine; seen items left out."""

    users: int
    popular: float
    together: float


class LastClicks:
    """The clicks of a log's first users, in any order."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._user_C, self._item_C, self._moment_C = array("i"), array("i"), array("d")

    def add(self, clicks: Iterable[tuple[str, str, float]]) -> None:
        """User, item and moment of each; those of one moment in the order in which they are added."""
        for user, item, moment in clicks:
            number = self._users.get(user)
            if number is None and len(self._user_C) < CLICKS:
                number = self._users.setdefault(user, len(self._users))
            if number is not None:
                self._user_C.append(number)
                self._item_C.append(self._items.setdefault(item, len(self._items)))
                self._moment_C.append(moment)

    def found(self, *, held_out: int) -> Found:
        """What the clicks before each user's last one tell of it, the `held_out` ones behind it not looked at: those are for the test."""
        user_C, item_C = np.asarray(self._user_C), np.asarray(self._item_C)
        order = np.lexsort((np.asarray(self._moment_C), user_C))  # stable
        order = order[:-held_out][user_C[order][:-held_out] == user_C[order][held_out:]] if held_out else order
        user_C, item_C = user_C[order], item_C[order]
        if not len(user_C):
            return Found(0, 0.0, 0.0)
        last_C = np.append(user_C[1:] != user_C[:-1], True)
        shape = (len(self._users), len(self._items))
        clicked = sp.csr_matrix((np.ones((~last_C).sum()), (user_C[~last_C], item_C[~last_C])), shape)
        clicked.data[:] = 1  # however often
        user_U, item_U = user_C[last_C], item_C[last_C]
        told_U = (np.diff(clicked.indptr)[user_U] > 0) & (np.asarray(clicked[user_U, item_U]).ravel() == 0)
        user_U, item_U = user_U[told_U], item_U[told_U]
        chosen = np.unique(np.linspace(0, max(len(user_U) - 1, 0), SCORED).astype(int))[: len(user_U)]
        user_U, item_U = user_U[chosen], item_U[chosen]
        count_I = np.asarray(clicked.sum(axis=0)).ravel()
        unit_UI = clicked @ sp.diags_array(1 / np.sqrt(np.maximum(count_I, 1)))  # columns of norm 1
        unit_IU = unit_UI.T.tocsr()
        popular = together = 0.0
        for user, item in zip(user_U, item_U, strict=True):
            own = clicked[[user]]
            near_I = (own @ unit_IU @ unit_UI).toarray().ravel()
            popular += _chance(count_I, item, own.indices)
            together += _chance(near_I, item, own.indices)
        num = len(user_U)
        return Found(num, popular / max(num, 1), together / max(num, 1))


def _chance(score_I: npt.NDArray[np.float64], item: int, seen: npt.NDArray[np.int32]) -> float:
    """How likely the item is among the 50 unseen ones of highest score, where equal ones stand in any order; 0 without a score."""
    if score_I[item] <= 0:
        return 0.0
    least, most = score_I[item] * (1 - 1e-9), score_I[item] * (1 + 1e-9)  # the same sum in another order is no other score
    above, not_below = (np.count_nonzero(one_I) - np.count_nonzero(one_I[seen]) for one_I in (score_I > most, score_I >= least))
    return min(max(AT - above, 0) / (not_below - above), 1.0)
