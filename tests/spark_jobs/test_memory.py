"""Memory of a stage, as its report shows it."""

import subprocess
import sys

MEASURE = """
import numpy as np
from spark_jobs.memory import peak_memory, tree_megabytes

before = tree_megabytes()
with peak_memory(every_s=0.01) as peak:
    block = np.ones(50 * 2**20 // 8)
    while peak.megabytes < tree_megabytes() - 5:
        pass
print(before, peak.megabytes)
"""


def test_peak_memory_sees_what_was_allocated():
    """In a process of its own: the tree of the test's process holds Spark and worker pools, whose memory comes and goes."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True)
    before, peak = map(int, done.stdout.split())
    assert before + 40 <= peak <= before + 80
