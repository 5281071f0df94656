"""How kernels are compiled: once a machine where there is a place to keep them, else once a process."""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(function: Kernel, *, fastmath: frozenset[str] = frozenset()) -> Kernel:
    """`function` compiled at its first call, without Python's lock, and kept on disk beside the source or in the user's cache folder.

    fastmath: what the compiler may do with floats, in LLVM's words; by default nothing.
    """
    try:
        kernel: Any = numba.njit(cache=True, nogil=True, fastmath=set(fastmath))(function)
    except RuntimeError:  # numba finds no folder that it may write to, as in an executor without a home
        return cast(Kernel, numba.njit(nogil=True, fastmath=set(fastmath))(function))
    # numba takes a kept kernel for fresh as long as its own file is, and a kernel of another file may be compiled into it
    kernel._cache._cache_file._source_stamp = sources_stamp(function.__module__.rpartition(".")[0])
    return cast(Kernel, kernel)


@cache
def sources_stamp(package: str) -> str:
    """SHA-256 of this file and of all files of the package, in a folder or in a zip."""
    digest = hashlib.sha256(files(__package__).joinpath("compiled.py").read_bytes())
    for source in sorted((file for file in files(package).iterdir() if file.name.endswith(".py")), key=lambda file: file.name):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()
