"""`trichannel doctor`: what is installed here, and for each fault what to type."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from conf.errors import OK, USAGE


@dataclass(frozen=True)
class Finding:
    """One line of the report. fix: what to type; "" = nothing is wrong."""

    name: str
    found: str
    fix: str = ""


def main() -> int:
    """Print every finding; 0 if nothing is wrong, else 2."""
    findings = [check() for check in CHECKS]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'ok ' if not finding.fix else 'BAD'}  {finding.name:{width}}  {finding.found}")
        if finding.fix:
            print(f"     {'':{width}}  type: {finding.fix}")
    return USAGE if any(finding.fix for finding in findings) else OK


def _python() -> Finding:
    found = sys.version.split()[0]
    return Finding(
        "Python", f"{found} at {sys.executable}", "" if sys.version_info[:2] == (3, 11) else "apt-get install -y python3.11-venv"
    )


def _java() -> Finding:
    java = str(Path(os.environ["JAVA_HOME"]) / "bin" / "java") if os.environ.get("JAVA_HOME") else shutil.which("java")
    fix = "apt-get install -y openjdk-17-jre-headless"
    if java is None:
        return Finding("Java", "not on PATH, and JAVA_HOME is not set", fix)
    try:
        text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("Java", f"{java}: {error}", fix)
    match = re.search(r'version "(\d+)', text)
    version = int(match.group(1)) if match else 0
    return Finding("Java", f"{version} at {java}", "" if version in (17, 21) else fix)


def _package(name: str, package: str, module: str, fix: str = "make setup") -> Callable[[], Finding]:
    def check() -> Finding:
        try:
            importlib.import_module(module)
            return Finding(name, metadata.version(package))
        except (ImportError, OSError, metadata.PackageNotFoundError) as error:
            return Finding(name, f"does not import: {error}", fix)

    return check


def _petastorm() -> Finding:
    # its own import prints deprecation warnings by the dozen, and it only works with pyarrow below 15
    code = (
        "import warnings; warnings.simplefilter('ignore'); import petastorm.reader, pyarrow\n"
        "print(petastorm.__version__, 'with pyarrow', pyarrow.__version__)"
    )
    return _in_python("Petastorm", code, "make setup")


def _torch() -> Finding:
    code = (
        "import torch, torch.distributed as dist\n"
        "names = [n for n, b in (('gloo', dist.is_gloo_available()), ('nccl', dist.is_nccl_available())) if b]\n"
        "print(torch.__version__, 'torch.distributed:', ', '.join(names))"
    )
    return _in_python("torch", code, "make setup")


def _horovod() -> Finding:
    code = (
        "import horovod, horovod.torch as hvd\n"
        "names = [n for n, b in (('gloo', hvd.gloo_built()), ('mpi', hvd.mpi_built()), ('nccl', hvd.nccl_built())) if b]\n"
        "print(horovod.__version__, 'controllers and operations:', ', '.join(names))"
    )
    return _in_python("Horovod", code, "scripts/build_horovod, then pip install the wheel it prints (make setup does both)")


def _in_python(name: str, code: str, fix: str) -> Finding:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return Finding(name, f"does not work: {last[0]}", fix)
    return Finding(name, done.stdout.strip().splitlines()[-1])


def _conf() -> Finding:
    import conf

    folder = Path(conf.__file__).parent
    ours = (folder / "demo.yaml").exists() and (folder / "tables.py").exists()
    return Finding("conf package", str(folder), "" if ours else "rename or move your own package 'conf', or start from another folder")


def _machine() -> Finding:
    memory_gb = psutil.virtual_memory().total / 2**30
    disk_gb = shutil.disk_usage(Path.cwd()).free / 2**30
    fix = "use a machine with 8 GB or more" if memory_gb < 7 else ""
    return Finding("machine", f"{os.cpu_count()} cores, {memory_gb:.0f} GB memory, {disk_gb:.0f} GB free here", fix)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _java,
    _package("Spark", "pyspark", "pyspark.sql"),
    _torch,
    _horovod,
    _package("FAISS", "faiss-cpu", "faiss"),
    _petastorm,
    _conf,
    _machine,
)
