"""Arrays that the workers of one host share: memory-mapped files without a name.

What one worker of a host can read or build alone (features, co-occurrence, histories), it does for all of them. What is costly all
workers compute together: rows in chunks at fixed places, whatever the number of workers, so that 1, 2 and 3 of them get the same bits;
each chunk travels to all workers, and one on each host writes it down. Once every worker has the files open, they are unlinked: nothing
stays behind, however a worker ends (see trainer.scratch for one that is killed while it writes).
"""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from conf.errors import UNEXPECTED, Fault, TrainingError
from conf.files import storage_faults
from trainer.backends import Backend
from trainer.backends.single import SingleBackend
from trainer.scratch import WHERE, scratch

Compute = Callable[[slice], tuple[Tensor, ...]]
"""Rows start..stop of some arrays, the first dimension of each being rows; at least one row is asked for."""

_CHUNKS = 8  # computed by a worker between two talks


class Shared:
    """Makes such arrays. device: of what is computed. beat: called as work goes on. folder: for the files; None = $TMPDIR, or the system's.

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
        with self._folder() as (folder, writes):
            with ExitStack() as stack:
                files: list[IO[bytes]] = []
                for parts in self._rounds(num, compute, chunk):
                    if writes and not files:
                        paths = [folder / f"{name}.npy" for name in names]
                        files = [stack.enter_context(_begun(path, num, part)) for path, part in zip(paths, parts, strict=True)]
                    for file, part in zip(files, parts if writes else (), strict=True):
                        file.write(part.cpu().numpy().tobytes())
            self.backend.agree_any(False)  # written
            return self._mapped(folder)

    def once(self, build: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What `build` makes on one worker of each host, by name, mapped into the memory of every worker.

        Workers that have a host to themselves get it as built: a file would cost time and room, and save nobody's memory.

        Raises:
            TrainingError: it failed on another worker, of what is told; with the exit code that worker ends with.
            StorageError: the disk of temporary files is full or not writable.
        """
        if self.backend.size == 1:
            return dict(sorted(build().items()))
        with self._folder() as (folder, writes):
            is_alone = self.backend.agree_min(int(writes)) == 1  # as is everybody else
            built: dict[str, Tensor] = {}
            failure: Exception | None = None
            try:
                if writes:
                    built = dict(sorted(build().items()))
                if writes and not is_alone:
                    _write(folder, built)
            except Exception as error:  # the others wait to hear of it
                failure = error
            self._agree(failure)
            return built if is_alone else self._mapped(folder)

    def _agree(self, failure: Exception | None) -> None:
        """Go on where no worker has failed; else all leave with the cause."""
        code = 0 if failure is None else int(getattr(failure, "exit_code", UNEXPECTED))
        worst = -self.backend.agree_min(-code)
        if not worst:
            return
        said = torch.tensor(list(str(failure or "").encode()), dtype=torch.uint8, device=self.device)
        told = bytes(self.backend.gather_ids(said).tolist()).decode()
        if failure is not None:
            raise failure
        fault = Fault("another worker failed at what all of its host share", " ".join(told.split())[:300], "see its own message")
        raise TrainingError(f"worker {self.backend.rank}", [fault], exit_code=worst)

    def _mapped(self, folder: Path) -> dict[str, Tensor]:
        # copy-on-write, since torch warns of read-only arrays; nobody writes, so there is one copy a host
        files = sorted(folder.glob("*.npy"))
        mapped = {file.name.removesuffix(".npy"): torch.from_numpy(np.load(file, mmap_mode="c")) for file in files}
        self.backend.agree_any(False)  # opened by all
        self.beat()
        return mapped

    def _rounds(self, num: int, compute: Compute, chunk: int) -> Iterator[tuple[Tensor, ...]]:
        """Consecutive rows of the arrays, the same ones on every worker."""
        own, size = chunk * _CHUNKS, self.backend.size
        for start in range(0, num, own * size):
            first = start + self.backend.rank * own
            parts: list[tuple[Tensor, ...]] = []
            # every worker as often as the first, which has the most to do: encoding is collective where tables are divided over workers
            for at in range(first, first + min(own, num - start), chunk):
                part = slice(at, min(at + chunk, num)) if at < num else slice(0, 1)
                parts.append(tuple(x if at < num else x[:0] for x in compute(part)))  # of no work only the shapes are of use
                self.beat()
            yield tuple(self.backend.gather_ids(torch.cat(columns)) for columns in zip(*parts, strict=True))

    @contextmanager
    def _folder(self) -> Iterator[tuple[Path, bool]]:
        """A folder of the host, and whether this worker is the one that writes there."""
        own = torch.tensor([secrets.randbits(62)], device=self.device)
        base = self.folder or Path(tempfile.gettempdir())
        with scratch(base, f"{int(self.backend.gather_ids(own)[0]):x}") as made:
            yield made


def alone() -> Shared:
    """Of a process that shares with nobody."""
    return Shared(SingleBackend(), lambda: None)


def _write(folder: Path, arrays: Mapping[str, Tensor]) -> None:
    with storage_faults(str(folder), place=WHERE):
        for name, array in arrays.items():
            with _begun(folder / f"{name}.npy", len(array), array) as file:
                file.write(np.ascontiguousarray(array.numpy()).data)


def _begun(path: Path, num: int, part: Tensor) -> IO[bytes]:
    """A file of format npy for `num` rows like those of `part`, open for writing them: a full disk is then an error, not a signal."""
    kind, file = part[:0].cpu().numpy().dtype, path.open("wb")
    np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": (num, *part.shape[1:])})  # type: ignore[no-untyped-call]
    return file
