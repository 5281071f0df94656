"""What a Python worker of Spark holds: heavy things loaded once, files of the storage at hand, as many threads as the task has cores.

Kept apart from the jobs: the file that spark-submit starts is pickled by value, so a module-level dict there would be a new, empty
one in every task.
"""

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs
from pyspark import SparkFiles, TaskContext

from conf.errors import BadDataError, Fault
from conf.files import open_root
from conf.manifest import Manifest

T = TypeVar("T")

_HELD: dict[str, tuple[Any, Any]] = {}


def once(kind: str, key: object, load: Callable[[], T]) -> T:
    """`load()`, remembered in this process for as long as `key` stays the same.

    One value a kind: the next day's model takes the place of the last one, so that a backfill in one session does not pile them up.
    """
    held = _HELD.get(kind)
    if held is None or held[0] != key:
        _HELD.pop(kind, None)  # free the old one before the new one is loaded
        held = (key, load())
        _HELD[kind] = held
    value: T = held[1]
    return value


def task_cpus() -> int:
    """Cores of the running task (spark.task.cpus); outside a task every core that this process may use."""
    context = TaskContext.get()
    return context.cpus() if context is not None else len(os.sched_getaffinity(0))


def local_file(uri: str, sha256: str) -> str:
    """A local path of the file, its sha256 checked: the file itself on a local storage, else a copy made once on this machine.

    Raises:
        BadDataError: the file is missing or has another sha256.
    """
    filesystem, path = open_root(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        _check(path, sha256)
        return path
    folder = _scratch()
    copy = folder / f"{sha256}-{Path(path).name}"
    if not copy.exists():
        partial = folder / f"{copy.name}.{secrets.token_hex(4)}"  # workers of one machine may fetch at the same time
        with filesystem.open_input_stream(path) as source, open(partial, "wb") as target:
            while chunk := source.read(1 << 22):
                target.write(chunk)
        os.replace(partial, copy)
    _check(str(copy), sha256)
    return str(copy)


def mapped(key: object, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `make()`, which one Python worker of this machine calls for all of them: they share the pages of its files.

    key: what the arrays are made of; its `repr` must tell it from every other.
    """
    place = _scratch() / hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    with open(f"{place}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = Path(f"{place}.{secrets.token_hex(4)}")  # of a worker that was killed while it wrote, it stays with the lock's folder
            partial.mkdir()
            for name, array in make().items():
                np.save(partial / f"{name}.npy", array)
            os.replace(partial, place)
    return {path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in place.iterdir()}


def read_columns(files: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The columns (None = all) of Parquet files given by path or URI, in the order of the files; at least one file."""
    tables = []
    for uri in files:
        filesystem, path = open_root(uri)
        with filesystem.open_input_file(path) as handle:
            tables.append(pq.ParquetFile(handle).read(columns=None if columns is None else list(columns)))
    return pa.concat_tables(tables)


def manifest_of(folder: str, table: str) -> Manifest:
    """The manifest in a run folder (path or URI) of that table.

    Raises:
        BadDataError: it is missing, damaged, or of another table.
    """
    filesystem, path = open_root(folder)
    fix = f"give a run folder, as this prints it: trichannel path {table}"
    try:
        with filesystem.open_input_stream(f"{path}/manifest.json") as stream:
            manifest = Manifest.from_json(json.loads(stream.read()))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise BadDataError(folder, [Fault("manifest.json is missing or damaged", repr(error), fix)]) from None
    if manifest.table != table:
        raise BadDataError(folder, [Fault(f"want table {table}", f"found {manifest.table}", fix)])
    return manifest


def _scratch() -> Path:
    """Spark's own folder on an executor, removed with it; elsewhere a private temporary folder."""
    if TaskContext.get() is not None:
        folder = Path(SparkFiles.getRootDirectory()) / "trichannel"
        folder.mkdir(exist_ok=True)
        return folder
    return once("scratch", None, lambda: Path(tempfile.mkdtemp(prefix="trichannel-")))


def _check(path: str, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while chunk := handle.read(1 << 22):
                digest.update(chunk)
    except FileNotFoundError:
        raise BadDataError(path, [Fault("the file is missing", fix="roll back, or run the job that wrote it")]) from None
    if digest.hexdigest() != sha256:
        fault = Fault(
            "the file is damaged", f"sha256 {digest.hexdigest()[:16]}..., want {sha256[:16]}...", "roll back, or run its job again"
        )
        raise BadDataError(path, [fault])
