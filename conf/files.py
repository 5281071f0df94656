"""Files of any file system that pyarrow opens: written whole or not at all, hashed, and their failures named."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as pafs

from conf.errors import NOT_READY, USAGE, Fault, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)  # the last two: a file stands where a folder should


def open_root(root: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `root` and the path in it, without a slash at its end; a path without a scheme is local and made absolute.

    Raises:
        StorageError: no such file system (exit 2), its client is not installed (exit 2), or it does not answer (exit 3).
    """
    if "://" in root:
        try:
            filesystem, path = pafs.FileSystem.from_uri(root)
        except pa.ArrowInvalid as error:
            raise StorageError(root, [Fault("is no file system that pyarrow opens", str(error))], exit_code=USAGE) from error
        except OSError as error:
            if "Unable to load" not in str(error):
                raise StorageError(root, [Fault("cannot be reached", str(error))], exit_code=NOT_READY) from error
            fix = "install it (hdfs: Hadoop's, see docs/operations.md), or set another path"
            raise StorageError(root, [Fault("its client is not installed", str(error), fix)], exit_code=USAGE) from error
        return filesystem, path.rstrip("/")
    return pafs.LocalFileSystem(), str(Path(root).expanduser().resolve())


def write_atomic(filesystem: pafs.FileSystem, path: str, text: str) -> None:
    """Write the whole file or leave the old one: under another name first, synced to disk, then renamed over it."""
    temporary = f"{path}.tmp-{secrets.token_hex(4)}"
    if not isinstance(filesystem, pafs.LocalFileSystem):
        filesystem.create_dir(os.path.dirname(path))
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(text.encode())
        filesystem.move(temporary, path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def hash_file(filesystem: pafs.FileSystem, path: str) -> tuple[int, str]:
    """(bytes, sha256 hex) of a file."""
    digest, size = hashlib.sha256(), 0
    with filesystem.open_input_stream(path) as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def storage_faults(where: str, *, place: str = "storage.root") -> Iterator[None]:
    """Turn a full disk or a refused write into a StorageError that says what to do; place: the setting or variable that says where."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(where, [Fault("the disk is full", fix=f"free space or change {place}, then run again")]) from error
        if error.errno in _REFUSED:
            fault = Fault("cannot be written", error.strerror or str(error), f"set {place} to a folder you can write")
            raise StorageError(where, [fault], exit_code=USAGE) from error
        raise
