"""A Python that has torch, numpy, pyarrow, pydantic and pyyaml, what these need, and nothing else: as GPU machines often are."""

import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("torch", "numpy", "pyarrow", "pydantic", "pyyaml")


def needed(names: tuple[str, ...] = PACKAGES) -> dict[str, Distribution]:
    """These distributions and all that they require here."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        wanted = [Requirement(text) for text in found[name].requires or ()]
        todo += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def bare_python(folder: Path) -> tuple[Path, Path]:
    """(the interpreter, a folder for PYTHONPATH): a virtual environment with no packages, and links to those that are needed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    packages = folder / "packages"
    packages.mkdir()
    installed = Path(sysconfig.get_path("purelib"))
    for one in needed().values():
        for name in {file.parts[0] for file in one.files or () if ".." not in file.parts and file.parts[0] != "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(installed / name)
    return folder / "venv" / "bin" / "python", packages
