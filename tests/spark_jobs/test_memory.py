"""Memory of a stage, as its report shows it."""

import time

import numpy as np

from spark_jobs.memory import peak_memory, tree_megabytes


def test_peak_memory_sees_what_was_allocated():
    before = tree_megabytes()
    with peak_memory(every_s=0.01) as peak:
        block = np.ones(50 * 2**20 // 8)
        assert block.sum() > 0
        tree_megabytes()
        time.sleep(0.1)
    assert peak.megabytes >= before + 40
