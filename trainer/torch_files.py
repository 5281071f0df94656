"""Files of tensors, written whole or not at all."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, cast

import torch
from pyarrow import fs as pafs


@dataclass(frozen=True)
class Written:
    """What a file holds."""

    bytes: int
    sha256: str


def write_torch(filesystem: pafs.FileSystem, path: str, content: Mapping[str, Any]) -> Written:
    """torch.save under another name, synced to disk, then renamed; raises the OSError of a full or refusing disk."""
    filesystem.create_dir(os.path.dirname(path))
    temporary = f"{path}.tmp"
    try:
        with filesystem.open_output_stream(temporary) as stream:
            hashing = _Hashing(stream)
            _save(content, hashing)
        if isinstance(filesystem, pafs.LocalFileSystem):
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
        filesystem.move(temporary, path)
    except OSError:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise
    return Written(hashing.size, hashing.digest.hexdigest())


def _save(content: Mapping[str, Any], hashing: "_Hashing") -> None:
    try:
        torch.save(dict(content), cast(IO[bytes], hashing))  # torch writes front to back and asks for nothing but write
    except RuntimeError:
        if hashing.error is not None:  # torch's own clean-up hides it
            raise hashing.error from None
        raise


class _Hashing:
    """A binary file for writing that hashes what passes through, and remembers what went wrong."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest, self.size = stream, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Pass all of the bytes on, hashed and counted; returns how many. What OSError the stream raises is also kept in `error`."""
        try:
            self._stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        size = memoryview(data).nbytes
        self.size += size
        return size

    def flush(self) -> None:
        self._stream.flush()
