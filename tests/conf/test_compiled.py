"""Kernels kept on disk: of today's sources, of all of them."""

import os
import subprocess
import sys
from pathlib import Path

import conf.compiled

CALL = """
import numpy as np
from sums.outer import outer
print(outer(np.arange(3)))
"""
KERNEL = """
from conf.compiled import compiled
{imports}
@compiled
def {name}(x):
    return {value}
"""


def run(folder: Path) -> str:
    where = os.environ | {"PYTHONPATH": str(Path(conf.compiled.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", CALL], cwd=folder, env=where, text=True, capture_output=True, check=True).stdout.strip()


def test_a_kernel_is_compiled_anew_when_one_of_another_file_that_it_calls_has_changed(tmp_path: Path) -> None:
    """numba itself looks at the file of the outer kernel only."""
    package = tmp_path / "sums"
    package.mkdir()
    (package / "__init__.py").touch()
    inner = package / "inner.py"
    outer = KERNEL.format(imports="from sums.inner import inner\n", name="outer", value="inner(x) + 1")
    (package / "outer.py").write_text(outer)
    inner.write_text(KERNEL.format(imports="", name="inner", value="x.sum()"))
    assert run(tmp_path) == "4"
    kept = {file: file.stat().st_mtime_ns for file in package.rglob("*.nbc")}
    assert run(tmp_path) == "4"
    assert {file: file.stat().st_mtime_ns for file in package.rglob("*.nbc")} == kept, "compiled anew without need"
    inner.write_text(KERNEL.format(imports="", name="inner", value="x.sum() * 10"))
    assert run(tmp_path) == "31"
