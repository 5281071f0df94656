"""Arrays that all workers compute together and the workers of one host share: memory-mapped files without a name.

Rows are computed in chunks at fixed places, whatever the number of workers, so that 1, 2 and 3 of them get the same bits. Each chunk
travels to all workers, and one on each host writes it down. Once every worker has the file open, it is unlinked: nothing stays
behind, however a worker ends.
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from conf.files import storage_faults
from trainer.backends import Backend

Compute = Callable[[slice], tuple[Tensor, ...]]
"""Rows start..stop of some arrays, the first dimension of each being rows; at least one row is asked for."""

_CHUNKS = 8  # computed by a worker between two talks


class Shared:
    """Makes such arrays. device: of what is computed. beat: called as work goes on. folder: for temporary files; None = the system's.

    Every method is collective.
    """

    def __init__(self, backend: Backend, beat: Callable[[], None], device: torch.device | str = "cpu", folder: Path | None = None) -> None:
        self.backend, self.beat, self.device, self.folder = backend, beat, torch.device(device), folder

    def everywhere(self, num: int, compute: Compute, *, chunk: int) -> tuple[Tensor, ...]:
        """The whole arrays in the memory of every worker, each worker computing its chunks; num >= 1."""
        rounds = list(self._rounds(num, compute, chunk))
        return tuple(torch.cat(parts) for parts in zip(*rounds, strict=True))

    def fill(self, num: int, names: Sequence[str], compute: Compute, *, chunk: int) -> dict[str, Tensor]:
        """The whole arrays by name, mapped into the memory of every worker; num >= 1.

        Raises:
            StorageError: the disk of temporary files is full or not writable.
        """
        with self._folder() as (folder, writes), storage_faults(str(folder)):
            with ExitStack() as stack:
                files: list[IO[bytes]] = []
                for parts in self._rounds(num, compute, chunk):
                    if writes and not files:
                        paths = [folder / f"{name}.npy" for name in names]
                        files = [stack.enter_context(_begun(path, num, part)) for path, part in zip(paths, parts, strict=True)]
                    for file, part in zip(files, parts if writes else (), strict=True):
                        file.write(part.cpu().numpy().tobytes())
            return self._mapped(folder, names)

    def once(self, names: Sequence[str], build: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What `build` makes on one worker of each host, by name, mapped into the memory of every worker."""
        with self._folder() as (folder, writes), storage_faults(str(folder)):
            if writes:
                for name, array in build().items():
                    np.save(folder / f"{name}.npy", array.numpy())
            return self._mapped(folder, names)

    def _mapped(self, folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
        self.backend.agree_any(False)  # written
        # copy-on-write, since torch warns of read-only arrays; nobody writes, so there is one copy a host
        mapped = {name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in names}
        self.backend.agree_any(False)  # opened by all
        self.beat()
        return mapped

    def _rounds(self, num: int, compute: Compute, chunk: int) -> Iterator[tuple[Tensor, ...]]:
        """Consecutive rows of the arrays, the same ones on every worker."""
        own, size = chunk * _CHUNKS, self.backend.size
        for start in range(0, num, own * size):
            first = start + self.backend.rank * own
            parts: list[tuple[Tensor, ...]] = []
            for at in range(first, min(first + own, num), chunk):
                parts.append(compute(slice(at, min(at + chunk, num))))
                self.beat()
            if not parts:  # less work than workers: only the shapes are of use
                parts = [tuple(x[:0] for x in compute(slice(0, 1)))]
            yield tuple(self.backend.gather_ids(torch.cat(columns)) for columns in zip(*parts, strict=True))

    @contextmanager
    def _folder(self) -> Iterator[tuple[Path, bool]]:
        """A folder of temporary files, and whether this worker is the one that writes there: the first to make it."""
        own = torch.tensor([secrets.randbits(62)], device=self.device)
        folder = (self.folder or Path(tempfile.gettempdir())) / f"trichannel-mining-{int(self.backend.gather_ids(own)[0]):x}"
        with storage_faults(str(folder)):
            try:
                folder.mkdir(mode=0o700)
                writes = True
            except FileExistsError:
                writes = False
        try:
            yield folder, writes
        finally:
            if writes:
                shutil.rmtree(folder, ignore_errors=True)


def _begun(path: Path, num: int, part: Tensor) -> IO[bytes]:
    """A file of format npy for `num` rows like those of `part`, open for writing them: a full disk is then an error, not a signal."""
    kind, file = part[:0].cpu().numpy().dtype, path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": (num, *part.shape[1:])})  # type: ignore[no-untyped-call]
    return file
