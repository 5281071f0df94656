"""Batches of `samples` as dicts of tensors, from Petastorm or from pyarrow: the same ones for the same seed and epoch."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt
import torch

from conf.fields import Registry
from conf.masks import masking_of, masks_of, masks_of_batch
from conf.settings import Settings
from trainer.batches.arrow import read_arrow
from trainer.batches.columns import WEIGHTS, Decoded, columns_for, mask_columns, mask_names
from trainer.batches.order import Epoch, Piece, RowGroup, plan_epoch, rows_of, skip_rows
from trainer.batches.prefetch import Prefetched
from trainer.batches.survey import Samples, survey
from trainer.catalogue import UserTable
from trainer.encoders.encoder import Batch

Source = Callable[[Sequence[RowGroup], Sequence[str], int], Generator[Decoded, None, None]]

_AHEAD = 8  # batches made before they are asked for


def _petastorm(groups: Sequence[RowGroup], columns: Sequence[str], history: int) -> Generator[Decoded, None, None]:
    from trainer.batches.petastorm import read_petastorm  # takes a second to import: only where it is used

    return read_petastorm(groups, columns, history)


SOURCES: dict[str, Source] = {"petastorm": _petastorm, "arrow": read_arrow}


class Batches:
    """One rank's batches, epoch by epoch. masking: how their views hide fields.

    Args:
        users: the user table, from which multi-valued user fields are looked up; None where there are none.
        rank, size: this worker and the number of workers; size divides settings.trainer.streams.
        device: where batches go; to a GPU through pinned memory, by the thread that makes them ahead.

    Raises:
        ValueError: unknown source, or streams that the workers cannot share equally.
    """

    def __init__(
        self, samples: Samples, settings: Settings, users: UserTable | None, *, rank: int, size: int, device: torch.device | str = "cpu"
    ) -> None:
        trainer = settings.trainer
        if trainer.batches not in SOURCES:
            raise ValueError(f"unknown source of batches {trainer.batches!r}; known: {', '.join(sorted(SOURCES))}")
        if trainer.streams % size:
            raise ValueError(f"trainer.streams ({trainer.streams}) must be a multiple of the number of workers ({size})")
        self._samples, self._settings, self._users = samples, settings, users
        self._registry: Registry = settings.registry()
        self._rank, self._size, self._device = rank, size, torch.device(device)
        self._stored_masks = settings.samples.masks.stored and not any(group.cut for group in samples.groups)
        self.masking = masking_of(settings, samples.mask_patterns)

    def plan(self, epoch: int) -> Epoch:
        """The rows of an epoch, in order; the same on every rank."""
        trainer = self._settings.trainer
        return plan_epoch(self._samples.groups, seed=trainer.seed, epoch=epoch, streams=trainer.streams, batch=trainer.batch)

    def epoch(self, epoch: int, *, start: int = 0) -> Prefetched[Batch]:
        """This rank's batches start.. of the epoch, made ahead by a thread; close it."""
        return Prefetched(lambda: self._batches(self.plan(epoch), start), _AHEAD)

    def _batches(self, plan: Epoch, start: int) -> Iterator[Batch]:
        trainer = self._settings.trainer
        per_stream = trainer.batch // trainer.streams
        own = trainer.streams // self._size
        row = np.arange(self._rank * own * per_stream, (self._rank + 1) * own * per_stream)
        draw = self._draw(plan.number)
        with ExitStack() as stack:
            chosen = plan.streams[self._rank * own :][:own]
            streams = [stack.enter_context(closing(self._stream(pieces, plan.number, start * per_stream))) for pieces in chosen]
            for number in range(start, plan.steps):
                taken = [part for stream in streams for part in stream.take(per_stream)]
                rows = {name: np.concatenate([part[name] for part in taken]) for name in taken[0]}
                yield self._to_batch(rows, row, draw, plan.number * plan.steps + number)

    def _stream(self, pieces: Sequence[Piece], epoch: int, skip: int) -> "_Stream":
        settings = self._settings
        masks = mask_columns(settings.samples.masks.strategy, self._draw(epoch)) if self._stored_masks else ()
        columns = columns_for(self._registry, clicks_per_row=settings.trainer.clicks_per_row) + masks
        left = list(skip_rows(pieces, skip))
        decoded = SOURCES[settings.trainer.batches]([piece.group for piece in left], columns, settings.model.history)
        return _Stream(left, decoded, seed=settings.trainer.seed, epoch=epoch)

    def _draw(self, epoch: int) -> int:
        """The stored mask draw that the epoch uses."""
        return epoch % self._settings.samples.masks.draws

    def _to_batch(self, rows: Decoded, row: npt.NDArray[np.int64], draw: int, number: int) -> Batch:
        def whole(name: str) -> torch.Tensor:
            return torch.from_numpy(rows[name].astype(np.int64))

        batch = {name: whole(name) for name in ("sample_id", "user_idx", "item_idx", "hist", "hist_len")}
        batch["row"] = torch.from_numpy(row)
        for name in (name for name in WEIGHTS if name in rows):
            batch[name] = torch.from_numpy(rows[name].astype(np.float32))
        batch["draw"] = torch.full_like(batch["row"], draw)
        if not self._stored_masks:
            sample_id, hist_len = rows["sample_id"].astype(np.int64), rows["hist_len"].astype(np.int64)
            rows = {**rows, **masks_of(self.masking, sample_id, hist_len, draw)}
        masks = self._settings.samples.masks
        for mask in mask_names(masks.strategy):
            batch[mask] = whole(f"{mask}{draw}")
        if masks.strategy == "cfm" and masks.cfm_seed == "per_batch":
            batch |= {name: torch.from_numpy(mask) for name, mask in masks_of_batch(self.masking, len(row), number).items()}
        for field in self._registry.user:
            if field.role == "single":
                batch[f"user.{field.name}"] = whole(field.name)
            elif self._users is not None:
                batch[f"user.{field.name}"] = self._users.multi[field.name][batch["user_idx"]].long()
        if self._device.type != "cpu":
            return {name: column.pin_memory().to(self._device, non_blocking=True) for name, column in batch.items()}
        return batch


class _Stream:
    """One stream's rows, handed out in order; close it."""

    def __init__(self, pieces: Sequence[Piece], decoded: Generator[Decoded, None, None], *, seed: int, epoch: int) -> None:
        self._decoded = decoded
        self._rows = self._permuted(pieces, decoded, seed, epoch)
        self._current: Decoded = {}
        self._at = self._size = 0

    @staticmethod
    def _permuted(pieces: Sequence[Piece], decoded: Iterator[Decoded], seed: int, epoch: int) -> Iterator[Decoded]:
        for piece, columns in zip(pieces, decoded, strict=True):
            rows = rows_of(piece, columns["split"].astype(np.int8), seed=seed, epoch=epoch)
            yield {name: column[rows] for name, column in columns.items() if name != "split"}

    def take(self, count: int) -> Iterator[Decoded]:
        """The next `count` rows, in one part or several."""
        while count:
            if self._at == self._size:
                self._current = next(self._rows)
                self._at, self._size = 0, len(self._current["sample_id"])
            stop = min(self._at + count, self._size)
            yield {name: column[self._at : stop] for name, column in self._current.items()}
            count -= stop - self._at
            self._at = stop

    def close(self) -> None:
        """End the reading."""
        # another stream's error keeps this one's reader alive, until a garbage collection in any thread, its own too, would join it
        self._decoded.close()


__all__ = ["SOURCES", "Batches", "Epoch", "Prefetched", "Samples", "survey"]
