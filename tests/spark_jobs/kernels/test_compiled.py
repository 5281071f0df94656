"""Kernels kept on disk: of today's sources, of all of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import spark_jobs.kernels

CALL = """
import numpy as np
from spark_jobs.kernels.outer import outer
print(outer(np.arange(3)))
"""
KERNEL = """
from spark_jobs.kernels.compiled import compiled
{imports}
@compiled
def {name}(x):
    return {value}
"""


def run(folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", CALL], cwd=folder, text=True, capture_output=True, check=True).stdout.strip()


def test_a_kernel_is_compiled_anew_when_one_of_another_file_that_it_calls_has_changed(tmp_path: Path) -> None:
    """numba itself looks at the file of the outer kernel only."""
    package = tmp_path / "spark_jobs" / "kernels"
    package.mkdir(parents=True)
    shutil.copy(Path(spark_jobs.kernels.__file__).with_name("compiled.py"), package)
    inner = package / "inner.py"
    outer = KERNEL.format(imports="from spark_jobs.kernels.inner import inner\n", name="outer", value="inner(x) + 1")
    (package / "outer.py").write_text(outer)
    inner.write_text(KERNEL.format(imports="", name="inner", value="x.sum()"))
    assert run(tmp_path) == "4"
    kept = {file: file.stat().st_mtime_ns for file in package.rglob("*.nbc")}
    assert run(tmp_path) == "4"
    assert {file: file.stat().st_mtime_ns for file in package.rglob("*.nbc")} == kept, "compiled anew without need"
    inner.write_text(KERNEL.format(imports="", name="inner", value="x.sum() * 10"))
    assert run(tmp_path) == "31"
