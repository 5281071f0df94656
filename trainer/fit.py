"""Epochs with validation, early stopping and checkpoints, from a fresh model or from where a run was cut."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from conf.errors import Fault, TrainingError, UsageError
from trainer.backends import replicated, shards_of
from trainer.checkpoints import Checkpoints
from trainer.diagnostics import PREFIX, collapsed
from trainer.loop import ENCODER, Loop, below
from trainer.meter import Meter, line, rounded
from trainer.validation import Queries, recall

LOG_STEPS = 50  # steps that a "step" line of metrics.jsonl averages over


@dataclass
class Progress:
    """How far a training is. epoch, step: the next step to take. stale: epochs since the best one. lines: of metrics.jsonl so far."""

    epoch: int = 0
    step: int = 0
    best_recall: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """weights: the encoder's, tables whole, and those of the joint space, of the best epoch where there was validation, else of the
    last; on rank 0, elsewhere none.

    dropped: rows an epoch leaves out.

    refit_rows: train and validation rows that the weights were trained on once validation had chosen the epoch; 0 = they were not.
    """

    weights: dict[str, Tensor]
    progress: Progress
    steps: int
    dropped: int
    refit_rows: int = 0


class Fit:
    """One training.

    Args:
        loop: its miner, where it has one, is asked before every step whether a search is due.
        queries: None = no validation (nothing was held out): every epoch is run, and the last one taken.
        eligible: int64[n], item_idx that validation recommends from.
        log: called with an event and its values; on rank 0 only.
        phase: before the kind of each line of metrics.jsonl.
    """

    def __init__(
        self,
        loop: Loop,
        queries: Queries | None,
        eligible: Tensor,
        checkpoints: Checkpoints,
        log: Callable[..., None],
        *,
        phase: str = "",
    ) -> None:
        self._loop, self._queries, self._eligible = loop, queries, eligible
        self._checkpoints, self._log, self._phase = checkpoints, log, phase
        self._settings, self._backend = loop.settings.trainer, loop.backend
        self._progress = Progress()
        self._window, self._epoch = Meter(), Meter()  # of the line under way, of the epoch under way

    def run(self, *, resume: bool) -> Fitted:
        """Train until the last epoch or until patience ends; collective.

        Raises:
            UsageError: fewer train rows than a batch; a checkpoint of other settings. TrainingError: a loss that is not finite.
        """
        plan = self._loop.batches.plan(0)
        steps = self._backend.agree_min(plan.steps)
        if steps == 0:
            rows = plan.dropped
            raise UsageError(
                "trainer.batch", [Fault(f"{self._settings.batch} rows a batch, but only {rows} train rows", fix="make it smaller")]
            )
        if self._loop.miner is not None:
            self._loop.miner.begin(steps)
        if resume:
            self._resume()
        self._backend.broadcast_(self._loop.model.encoder)
        self._backend.broadcast_(self._loop.model.criterion)
        progress = self._progress
        while progress.epoch < self._settings.epochs and not (self._queries is not None and progress.stale >= self._settings.patience):
            self._run_epoch(steps)
        return Fitted(self._weights(), progress, steps, plan.dropped)

    # ---- one epoch -------------------------------------------------------------------------------------------------

    def _run_epoch(self, steps: int) -> None:
        progress = self._progress
        first = progress.step
        self._mine(progress.epoch * steps + first)
        best = {} if progress.best_recall is None else {f"best recall@{self._settings.valid_at}": progress.best_recall}
        with closing(self._loop.epoch(progress.epoch, start=first, steps=steps, watch=LOG_STEPS, beside=best)) as taken:
            for values in taken:
                progress.step += 1
                self._window.add(values)
                self._epoch.add(values)
                done = progress.epoch * steps + progress.step
                if self._window.steps == LOG_STEPS:
                    self._window = self._close(self._window, "step", done)
                if progress.step < steps:
                    if done % self._settings.checkpoint_steps == 0:
                        self._save()
                    self._mine(done)
        self._finish_epoch(steps, first)

    def _mine(self, number: int) -> None:
        """Search before step `number` where it is due. A checkpoint of this step is made before: one that resumes searches again."""
        miner = self._loop.miner
        if miner is None or not miner.due(number):
            return
        values = miner.refresh(number)
        if self._backend.rank == 0:
            self._checkpoints.save_mined(miner.tables())
        self._loop.beat()
        self._progress.lines.append(line(f"{self._phase}search", self._progress.epoch, number, {**values}))
        self._log(f"{self._phase}search", stage="train", epoch=self._progress.epoch, step=number, **rounded({**values}))

    def _finish_epoch(self, steps: int, first: int) -> None:
        progress, done = self._progress, (self._progress.epoch + 1) * steps
        if self._window.steps:
            self._window = self._close(self._window, "step", done)
        extra: dict[str, float | int | None] = {"steps": steps, "samples_per_s": self._rate(steps - first, self._epoch.seconds)}
        if self._queries is not None:
            found = self._validate(self._queries)
            extra[f"recall@{self._settings.valid_at}"] = found
        self._epoch = self._close(self._epoch, "epoch", done, extra)
        progress.epoch, progress.step = progress.epoch + 1, 0
        self._save()

    def _validate(self, queries: Queries) -> float:
        progress, loop = self._progress, self._loop
        found = recall(loop.model.encoder, queries, self._eligible, at=self._settings.valid_at, backend=self._backend, beat=loop.beat)
        if progress.best_recall is None or found > progress.best_recall:
            progress.best_recall, progress.best_epoch, progress.stale = found, progress.epoch, 0
            self._checkpoints.save_best(self._replicated(), shards_of(loop.model.encoder))
        else:
            progress.stale += 1
        return found

    def _close(self, meter: Meter, kind: str, step: int, extra: dict[str, float | int | None] | None = None) -> Meter:
        """Write the meter's averages as a line of metrics.jsonl; return an empty meter."""
        values: dict[str, float | int | None] = {**meter.averages(self._backend)}
        values |= extra if extra is not None else {"samples_per_s": self._rate(meter.steps, meter.seconds)}
        self._progress.lines.append(line(self._phase + kind, self._progress.epoch, step, values))
        if kind == "epoch":
            told = {name: value for name, value in rounded(values).items() if not name.startswith(PREFIX)}
            self._log(f"{self._phase}epoch", stage="train", epoch=self._progress.epoch, step=step, **told)
            for side in collapsed(values):
                self._log("collapse", stage="train", epoch=self._progress.epoch, side=side, hint=f"all {side} have nearly the same vector")
        return Meter()

    def _rate(self, steps: int, seconds: float) -> float:
        return steps * self._settings.batch / max(seconds, 1e-9)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        window, epoch = self._window.state(self._backend), self._epoch.state(self._backend)
        state = {"model": self._loop.model.state_dict(), "progress": asdict(self._progress), "window": window, "epoch": epoch}
        mining = {} if self._loop.miner is None else {"mining": self._loop.miner.state()}
        self._checkpoints.save(state | mining, self._loop.model.rows())
        self._loop.beat()

    def _resume(self) -> None:
        state = self._checkpoints.load(self._log)
        place = -1 if state is None else state["progress"]["epoch"] * 2**40 + state["progress"]["step"]
        if self._backend.agree_any(place != self._backend.agree_min(place)):
            raise TrainingError(self._checkpoints.folder, [Fault("workers see different checkpoints", fix="is the root shared by all?")])
        if state is None:
            self._log("resume", stage="train", found="no checkpoint: beginning anew")
            return
        self._loop.model.load_state_dict(state["model"], self._checkpoints.load_rows())
        self._progress = Progress(**state["progress"])
        if self._loop.miner is not None:
            self._loop.miner.restore(state["mining"], self._checkpoints.load_mined)
        self._window, self._epoch = Meter.restore(state["window"]), Meter.restore(state["epoch"])
        self._log("resume", stage="train", epoch=self._progress.epoch, step=self._progress.step)

    def _weights(self) -> dict[str, Any]:
        if self._backend.rank != 0:
            return {}
        if self._progress.best_epoch is not None:
            return self._checkpoints.load_best()
        return self._replicated() | below(ENCODER, self._checkpoints.load_whole())

    def _replicated(self) -> dict[str, Tensor]:
        """What the model file keeps, without divided tables."""
        return replicated(self._loop.model.encoder) | self._loop.model.criterion.joint_weights()


__all__ = ["LOG_STEPS", "Fit", "Fitted", "Progress"]
