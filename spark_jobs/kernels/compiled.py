"""How kernels are compiled: once a machine where there is a place to keep them, else once a process."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(function: Kernel) -> Kernel:
    """`function` compiled at its first call, without Python's lock, and kept on disk beside the source or in the user's cache folder."""
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # numba finds no folder that it may write to, as in an executor without a home
        return cast(Kernel, numba.njit(nogil=True)(function))
