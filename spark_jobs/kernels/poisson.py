"""Poisson weights of a bootstrap: how often each replicate draws each unit."""

import numpy as np

from conf.compiled import F64, U64, compiled
from spark_jobs.kernels.draws import mix


@compiled
def poisson_weights(state: U64, thresholds: U64, weights: F64) -> None:
    """weights[n, b] of unit n in replicate b, in place.

    state: words64(seed, unit) of conf.draws. thresholds: the distribution function at 0, 1, ... times 2^53, rounded up, the last one
    2^53 or more. The weight is the number of thresholds that u01(seed, unit, b) * 2^53 reaches.
    """
    for n in range(len(state)):
        for b in range(weights.shape[1]):
            word = mix(state[n], b) >> np.uint64(11)
            weight = 0
            while word >= thresholds[weight]:
                weight += 1
            weights[n, b] = weight
