"""Checkpoints of a training that is under way: whole or absent, checked when read, the previous one kept.

ROOT/<variant>/_work/train/ds=D/checkpoints.json   what is kept: replaced atomically, after the files it names
ROOT/<variant>/_work/train/ds=D/<name>.pt          weights, optimiser state, progress; the weights of the best epoch; what mining found;
                                                   each worker's rows of divided tables
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import torch
from pyarrow import fs as pafs
from torch import Tensor

from conf.errors import BadDataError, Fault, UsageError
from conf.files import hash_file, storage_faults, write_atomic
from conf.settings import Settings
from conf.storage import Store
from trainer.backends import Backend
from trainer.backends.single import SingleBackend
from trainer.row_files import deal
from trainer.torch_files import write_torch

INDEX = "checkpoints.json"

# What may differ between the run that wrote a checkpoint and the one that resumes: none of it changes a step.
_FREE = {"launcher", "workers", "threads", "device", "batches", "epochs", "patience", "checkpoint_steps", "mlflow", "watchdog_s"}


@dataclass(frozen=True)
class SavedFile:
    """A file in the work folder. rows: files of the tables that are divided over the workers, in their order; see trainer.row_files."""

    name: str
    sha256: str
    rows: tuple["SavedFile", ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """From what the index holds."""
        return cls(entry["name"], entry["sha256"], tuple(SavedFile.of(rows) for rows in entry.get("rows", ())))


@dataclass(frozen=True)
class Kept:
    """One checkpoint. best: the weights of the best epoch so far, None before the first validation. mined: tables of the last search."""

    state: SavedFile
    best: SavedFile | None
    mined: SavedFile | None = None

    @property
    def files(self) -> list[SavedFile]:
        """Those there are."""
        return [file for saved in (self.state, self.best, self.mined) if saved for file in (saved, *saved.rows)]


class Checkpoints:
    """The checkpoints of one variant and day. Rank 0 writes, and each rank its rows of divided tables; all may read.

    fingerprint: names what shapes every step; a checkpoint of another one is refused.
    """

    def __init__(self, filesystem: pafs.FileSystem, folder: str, fingerprint: str, backend: Backend | None = None) -> None:
        self._fs, self.folder, self._fingerprint = filesystem, folder, fingerprint
        self._backend = backend or SingleBackend()
        self._kept: list[Kept] = []  # newest first, two at most
        self._best: SavedFile | None = None
        self._mined: SavedFile | None = None

    def save(self, state: Mapping[str, Any], rows: Mapping[str, Tensor] | None = None) -> None:
        """Keep a state of tensors, numbers, strings and containers of them; the older of two kept ones is removed.

        rows: this rank's, of divided tables by name. Collective where there are any; else of rank 0 alone.

        Raises:
            StorageError: the disk is full or not writable; the earlier checkpoints stand.
        """
        with storage_faults(self.folder):
            own = self._write_rows(rows)
            if self._backend.rank == 0:
                self._kept = [Kept(self._write("state", state, own), self._best, self._mined), *self._kept[:1]]
                self._write_index()
                self._remove_unnamed()

    def save_best(self, weights: Mapping[str, Any], rows: Mapping[str, Tensor] | None = None) -> None:
        """Keep the weights of the best epoch so far; they count from the next `save` on. rows: as of `save`."""
        with storage_faults(self.folder):
            own = self._write_rows(rows)
            if self._backend.rank == 0:
                self._best = self._write("best", weights, own)

    def save_mined(self, tables: Mapping[str, Any]) -> None:
        """Keep what mining found last; it counts from the next `save` on. Too large to be written with every checkpoint."""
        with storage_faults(self.folder):
            self._mined = self._write("mined", tables)

    def load(self, log: Callable[..., None]) -> dict[str, Any] | None:
        """The newest whole state, or None where there is no checkpoint. A damaged one is logged, and the one before it used.

        Raises:
            UsageError: the checkpoint belongs to other settings or inputs. BadDataError: none is whole.
        """
        index = self._read_index()
        if index is None:
            return None
        if index["fingerprint"] != self._fingerprint:
            fault = Fault("the checkpoint was made with other settings or inputs", fix="leave out --resume to begin anew")
            raise UsageError(self.folder, [fault])
        faults = []
        for entry in index["kept"]:
            best, mined = (SavedFile.of(entry[name]) if entry.get(name) else None for name in ("best", "mined"))
            kept = Kept(SavedFile.of(entry["state"]), best, mined)
            try:
                for file in kept.files[1:]:
                    self._check(file)
                state = self._read(kept.state)
            except BadDataError as error:
                log("damaged", stage="train", error=str(error))
                faults += error.faults
                continue
            self._kept, self._best, self._mined = [kept], kept.best, kept.mined
            return state
        raise BadDataError(self.folder, faults)

    def load_rows(self) -> dict[str, Tensor]:
        """This rank's rows of the state that was loaded, however many workers wrote them."""
        return self._rows(self._kept[0].state, self._backend.rank, self._backend.size)

    def load_whole(self) -> dict[str, Tensor]:
        """The divided tables of the state that was saved or loaded last, whole."""
        return self._whole(self._kept[0].state)

    def load_best(self) -> dict[str, Any]:
        """What `save_best` kept last, tables whole; raises BadDataError if it is damaged."""
        assert self._best is not None
        return self._read(self._best) | self._whole(self._best)

    def load_mined(self) -> dict[str, Any]:
        """What `save_mined` kept last; raises BadDataError if it is damaged."""
        assert self._mined is not None
        return self._read(self._mined)

    def dump(self, name: str, content: Mapping[str, Any]) -> str:
        """Keep something to look at after a failure; return where. It stays until the next successful training."""
        path = f"{self.folder}/{name}.dump"
        with storage_faults(self.folder):
            write_torch(self._fs, path, content)
        return path

    def clear(self) -> None:
        """Remove the work folder."""
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self.folder)

    # ---- files -----------------------------------------------------------------------------------------------------

    def _write(self, kind: str, content: Mapping[str, Any], rows: Sequence[SavedFile] = ()) -> SavedFile:
        name = f"{kind}-{secrets.token_hex(4)}.pt"
        return SavedFile(name, write_torch(self._fs, f"{self.folder}/{name}", content).sha256, tuple(rows))

    def _write_rows(self, rows: Mapping[str, Tensor] | None) -> list[SavedFile]:
        """The files of all ranks, once all are written."""
        if not rows:
            return []
        own = self._write("rows", rows)
        told = self._backend.gather_ids(torch.tensor(list(f"{own.name} {own.sha256}".encode())))
        words = (bytes(text).decode().split() for text in told.view(self._backend.size, -1).tolist())
        return [SavedFile(name, sha256) for name, sha256 in words]

    def _whole(self, saved: SavedFile) -> dict[str, Tensor]:
        for file in saved.rows:
            self._check(file)
        return self._rows(saved, 0, 1)

    def _rows(self, saved: SavedFile, rank: int, size: int) -> dict[str, Tensor]:
        return deal([partial(self._opened, file) for file in saved.rows], rank, size)

    def _opened(self, file: SavedFile) -> dict[str, Tensor]:
        """What a file holds that was checked before, mapped where it is local."""
        path = f"{self.folder}/{file.name}"
        if isinstance(self._fs, pafs.LocalFileSystem):
            return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        with self._fs.open_input_file(path) as stream:
            return dict(torch.load(stream, map_location="cpu", weights_only=True))

    def _check(self, file: SavedFile) -> None:
        path = f"{self.folder}/{file.name}"
        try:
            found = hash_file(self._fs, path)[1]
        except FileNotFoundError:
            raise BadDataError(path, [Fault(f"checkpoint {file.name} is missing")]) from None
        if found != file.sha256:
            fault = Fault(f"checkpoint {file.name} is damaged", f"sha256 {found[:12]}, want {file.sha256[:12]}", "leave out --resume")
            raise BadDataError(path, [fault])

    def _read(self, file: SavedFile) -> dict[str, Any]:
        self._check(file)
        with self._fs.open_input_file(f"{self.folder}/{file.name}") as stream:
            return dict(torch.load(stream, map_location="cpu", weights_only=True))

    def _write_index(self) -> None:
        content = {"fingerprint": self._fingerprint, "kept": [asdict(kept) for kept in self._kept]}
        write_atomic(self._fs, f"{self.folder}/{INDEX}", json.dumps(content, indent=1))

    def _read_index(self) -> dict[str, Any] | None:
        path = f"{self.folder}/{INDEX}"
        try:
            with self._fs.open_input_stream(path) as stream:
                return dict(json.loads(stream.read()))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BadDataError(path, [Fault("is not valid JSON", str(error), "leave out --resume to begin anew")]) from None

    def _remove_unnamed(self) -> None:
        named = {file.name for kept in self._kept for file in kept.files}
        for info in self._fs.get_file_info(pafs.FileSelector(self.folder)):
            if info.base_name.endswith((".pt", ".pt.tmp")) and info.base_name not in named:
                self._fs.delete_file(info.path)


def work_folder(store: Store, ds: str) -> str:
    """Where the checkpoints of a day live, a path on `store.fs`."""
    return f"{store.base}/{store.variant}/_work/train/ds={ds}"


def fingerprint(settings: Settings, seen: Mapping[str, str]) -> str:
    """16 hex digits over all that shapes a step: settings of model, losses and order of rows, and the content of the input tables."""
    values = settings.model_dump(mode="json")
    shaping = {name: values[name] for name in ("model", "base", "objectives", "mining")}
    shaping["trainer"] = {key: value for key, value in values["trainer"].items() if key not in _FREE}
    shaping["valid"] = values["channels"]["seen"]
    shaping["inputs"] = {table: identity.rsplit(" ", 1)[-1] for table, identity in seen.items()}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]
