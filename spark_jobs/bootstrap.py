"""The Poisson bootstrap by unit: replicates of two means and their relative gain, from sums that may be made anywhere in any order.

Each unit weighs Poisson(1) in each replicate, which for many units is drawing them with replacement, without knowing how many there are.
The weight is a pure function of (seed, unit, replicate), so any partitioning gives the same replicates.

Source: Chamandy et al. 2012, "Estimating uncertainty for massive data streams".
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from conf.draws import words64
from spark_jobs.kernels.poisson import poisson_weights
from spark_jobs.significance import gain_of

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

REPLICATES: Final = 2_000
_BLOCK: Final = 512  # units whose weights are held at once: 8 MB for 2,000 replicates


def weights(units: I64, num: int, seed: int) -> F64:
    """float64[n, num], whole: how often each replicate draws each unit, mean 1 and variance 1."""
    found = np.empty((len(units), num))
    poisson_weights(words64(seed, units), _thresholds(), found)
    return found


@cache
def _thresholds() -> U64:
    # Up to the weight whose distribution function rounds to 1: no draw reaches it.
    steps = stats.poisson.cdf(np.arange(40), 1.0)
    last = int(np.argmax(steps >= 1.0))
    return np.asarray(np.ceil(steps[: last + 1] * 2.0**53), dtype=np.uint64)


def weighted_sums(units: I64, values_NC: F64, *, num: int, seed: int) -> F64:
    """float64[num, C]: each replicate's sum of the units' values. Those of disjoint sets of units add up to those of all."""
    total = np.zeros((num, values_NC.shape[1]))
    for start in range(0, len(units), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += weights(units[block], num, seed).T @ values_NC[block]
    return total


def gains(sums_a_BC: F64, sums_b_BC: F64) -> F64:
    """float64[B, C]: the relative gain of B over A in each replicate; NaN where A's sum is 0."""
    return gain_of(sums_a_BC, sums_b_BC)
