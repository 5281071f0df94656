"""The rows that each worker holds of divided tables, as files: read again by as many workers, by another number, or by one as whole tables.

File number r of W holds rows r, r + W, ... of each table.
"""

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from conf.files import storage_faults

Rows = Mapping[str, Tensor]
"""name -> [rows of the file, ...]"""

_CHUNK = 1 << 20  # rows copied at a time


def deal(files: Sequence[Callable[[], Rows]], rank: int, size: int) -> dict[str, Tensor]:
    """Rows rank, rank + size, ... of each table, in memory that is a file (see `file_backed`).

    files: each opens one, in order of their workers. They are opened one by one, so what is held at a time is one of them, and of files
    that are mapped none.
    """
    num: dict[str, int] = {}
    for file in files:
        for name, rows in file().items():
            num[name] = num.get(name, 0) + len(rows)
    out: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        for name, rows in file().items():
            if name not in out:
                out[name] = file_backed((len(range(rank, num[name], size)), *rows.shape[1:]), rows.dtype)
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                row = number + len(files) * torch.arange(start, start + len(chunk))
                mine = row % size == rank
                out[name][row[mine] // size] = chunk[mine]
    return out


def file_backed(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor whose memory is a file without a name in the system's folder for temporary files: it may leave memory where that is short.

    Raises:
        StorageError: that folder has no room for it.
    """
    like = torch.empty(0, dtype=dtype).numpy().dtype
    size = math.prod(shape) * like.itemsize
    if size == 0:
        return torch.empty(*shape, dtype=dtype)
    with storage_faults(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here; written to through memory it would be a signal
        return torch.from_numpy(np.memmap(file, dtype=like, mode="r+", shape=tuple(shape)))
