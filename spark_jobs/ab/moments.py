"""Means and co-deviations of users' numbers, from parts that may be made anywhere in any order."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """What `num` users say. mean: float64[V]. ss: float64[V, V], sums of products of deviations from the means."""

    num: int
    mean: F64
    ss: F64

    @classmethod
    def of(cls, values_NV: F64) -> Self:
        """The moments of at least one user."""
        mean = values_NV.mean(axis=0)
        apart = values_NV - mean
        return cls(len(values_NV), mean, apart.T @ apart)

    def plus(self, other: Self) -> Self:
        """The moments of the users of both. Source: Chan, Golub and LeVeque 1983, eq. 2.1, for several variables."""
        num = self.num + other.num
        step = other.mean - self.mean
        ss = self.ss + other.ss + np.outer(step, step) * (self.num * other.num / num)
        return type(self)(num, self.mean + step * (other.num / num), ss)

    def product(self, one_V: F64, other_V: F64) -> float:
        """The sum of products of deviations of two weighted sums of the variables."""
        return float(one_V @ self.ss @ other_V)
