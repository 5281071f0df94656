"""The compiled draws are those of conf.draws."""

import numpy as np

from conf.draws import words64
from spark_jobs.kernels.draws import mix


def test_a_chain_of_words_is_that_of_conf_draws():
    x = np.uint64(9)
    for word in (0, 5, -2, 2**40):
        x = mix(np.uint64(x), word)
    assert np.uint64(x) == words64(9, 0, 5, -2, 2**40)
