"""The entry of a training: what horovodrun, torchrun and the pipeline start.

    python -m trainer.train --config demo --ds 2026-01-31
    horovodrun -np 2 --gloo python -m trainer.train --config demo --ds 2026-01-31
    torchrun --standalone --nproc-per-node 2 -m trainer.train --config demo --ds 2026-01-31

Reads samples, user_feat, item_feat, user_state and the sizes of the vocabularies; publishes the artefact `model` (model.pt, metrics.jsonl).
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from conf.command import Request, RunStatus, Timer, add_arguments, guarded, request
from conf.errors import Fault, TrainingError, TrichannelError, UsageError
from conf.inputs import input_manifests, previous_manifests, seen_inputs, unchanged
from conf.settings import Settings
from conf.storage import Manifest, Publication, Record
from conf.tables import TRAIN, VALID
from trainer.batches import Batches, Samples, survey
from trainer.checkpoints import Checkpoints, fingerprint, work_folder
from trainer.encoders import build_encoder
from trainer.fit import Fit, Fitted
from trainer.loop import Loop, Model
from trainer.mining import build_miner
from trainer.objectives import build_objectives
from trainer.optimizers import Optimizers
from trainer.plan import describe
from trainer.process import leave, leaving_word, start
from trainer.publish import counters_of, publish_model
from trainer.shared import Shared
from trainer.tables import Tables
from trainer.tracking import PUBLISHED, tracked
from trainer.validation import read_queries
from trainer.warm_start import Warm, begin, read_warm
from trainer.watchdog import Watchdog

JOB = "train"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = parse(argv)
    return guarded(lambda: leaving_word(lambda: run(request(arguments), resume=arguments.resume)))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a training; wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog=JOB, description="Train the two towers for one day and publish the model.")
    add_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of a run that was cut")
    return parser.parse_args(argv)


def run(asked: Request, *, resume: bool = False) -> int:
    """Train and publish, as one worker of however many the launcher started."""
    if asked.dry_run:
        print(describe(asked, resume=resume))
        return 0
    work = Work(asked, resume=resume)
    work.watchdog.start()
    try:
        with work.stack:
            work.run()
    finally:
        work.watchdog.stop()
    return 0


@dataclass
class Work:
    """One worker's part of a training."""

    asked: Request
    resume: bool
    stack: ExitStack = field(default_factory=ExitStack)
    timer: Timer = field(default_factory=Timer)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.asked.settings.trainer.watchdog_s, self._expired)
        self.is_stage = "TRICHANNEL_STAGE" in os.environ  # of the pipeline, which keeps status and log of the whole run
        self.status: RunStatus | None = None
        self.manifests: dict[str, Manifest] = {}
        self.warm: Warm | None = None
        self.log: Callable[..., None] = self.asked.log

    def run(self) -> None:
        """From start-up to publication; raises TrainingError when another worker is gone."""
        self.backend, self.device = start(self.asked.settings.trainer)
        publication = self._begin()
        if publication is None and self.backend.rank == 0:
            return
        manifests = self.manifests or input_manifests(JOB, self.asked.store, self.asked.ds, self.asked.settings)
        samples, fitted = self._fit(manifests)
        if publication is not None:
            self._publish(publication, manifests, samples, fitted)

    def _begin(self) -> Publication | None:
        """Rank 0 alone checks the inputs and takes the lock; the others hear whether to go on, and leave quietly where not.

        Returns: on rank 0 the publication, None where the current model is up to date; None on the others.
        """
        verdict, error, publication = _GO, None, None
        if self.backend.rank == 0:
            try:
                publication = self._prepare()
                verdict = _SKIP if publication is None else _GO
            except TrichannelError as caught:
                verdict, error = _STOP + caught.exit_code, caught
        agreed = -self.backend.agree_min(-verdict)
        if error is not None:
            raise error
        if self.backend.rank != 0 and agreed != _GO:
            raise SystemExit(0 if agreed == _SKIP else agreed - _STOP)
        return publication

    def _prepare(self) -> Publication | None:
        asked = self.asked
        if not self.is_stage:
            self.status = self.stack.enter_context(RunStatus(asked, JOB))
        streams = asked.settings.trainer.streams
        if streams % self.backend.size:
            fault = Fault(f"{self.backend.size} workers cannot share {streams} streams equally", fix="set trainer.streams to a multiple")
            raise UsageError("trainer.streams", [fault])
        self.manifests = input_manifests(JOB, asked.store, asked.ds, asked.settings)
        seen = seen_inputs(self.manifests | self.previous)
        record = unchanged(JOB, asked, seen)
        if record is not None:
            self._finish(record, "skipped", f"up to date {JOB} ds={asked.ds} run={record.run_id}", {})
            return None
        publishing = asked.store.publication(JOB, asked.ds, asked.run_id, asked.settings, inputs=seen, break_lock=asked.break_lock)
        return self.stack.enter_context(publishing)

    @cached_property
    def previous(self) -> dict[str, Manifest]:
        """The model of an earlier day that this one begins with; {} = it begins cold."""
        return previous_manifests(JOB, self.asked.store, self.asked.ds, self.asked.settings)

    def _fit(self, manifests: Mapping[str, Manifest]) -> tuple[Samples, Fitted]:
        asked, settings, backend, beat = self.asked, self.asked.settings, self.backend, self.watchdog.beat
        self.shared = Shared(backend, beat, self.device)
        tables = Tables.read(asked.store, manifests, settings, self.shared).to(self.device)
        beat()
        if settings.trainer.batches == "petastorm":
            from trainer.batches.petastorm import refuse_pickled_schema

            refuse_pickled_schema(asked.store.files_of(manifests["samples"]))
        clicks, num_items = settings.trainer.clicks_per_row, tables.catalogue.num_items
        counted = partial(survey, asked.store, manifests["samples"], backend, num_items=num_items, clicks_per_row=clicks)
        samples = counted()
        beat()
        queries = read_queries(samples, settings, tables.users, tables.user_state, self.shared)
        queries = None if queries is None else queries.to(self.device)
        beat()
        shape = self._agreed_fingerprint(manifests)
        self.checkpoints = Checkpoints(asked.store.fs, work_folder(asked.store, asked.ds), shape, backend)
        self.log = self._open_log()
        rows = {"train_rows": samples.train_rows, "valid_rows": samples.valid_rows}
        self.log("begin", stage=JOB, workers=backend.size, **rows, resume=self.resume)
        self.warm = read_warm(asked, self.previous, manifests, tables, self.log)
        loop = self._loop(tables, samples, settings, self.checkpoints)
        fitted = Fit(loop, queries, tables.eligible, self.checkpoints, self.log).run(resume=self.resume)
        if settings.split.refit and fitted.progress.best_epoch is not None:
            fitted = self._refit(fitted, fitted.progress.best_epoch + 1, tables, counted(trained=(TRAIN, VALID)), shape)
        return samples, fitted

    def _open_log(self) -> Callable[..., None]:
        """Where to tell what happens; ranks other than 0 tell nobody."""
        if self.backend.rank != 0:
            return _silent
        asked, settings = self.asked, self.asked.settings
        return self.stack.enter_context(tracked(settings.trainer.mlflow, settings, f"{asked.ds} {asked.run_id}", asked.log))

    def _refit(self, chosen: Fitted, epochs: int, tables: Tables, both: Samples, shape: str) -> Fitted:
        """A fresh model, trained on train and validation rows for the epochs that validation chose."""
        settings = self.asked.settings
        settings = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"epochs": epochs})})
        kept = Checkpoints(self.asked.store.fs, f"{self.checkpoints.folder}/refit", f"{shape}-refit-{epochs}", self.backend)
        self.log("refit", stage=JOB, epochs=epochs, train_rows=both.train_rows)
        loop = self._loop(tables, both, settings, kept)
        final = Fit(loop, None, tables.eligible, kept, self.log, phase="refit_").run(resume=self.resume)
        progress = replace(chosen.progress, lines=chosen.progress.lines + final.progress.lines)
        return replace(chosen, weights=final.weights, progress=progress, refit_rows=both.train_rows)

    def _loop(self, tables: Tables, samples: Samples, settings: Settings, checkpoints: Checkpoints) -> Loop:
        """The loop of a model at its start: fresh, or with the weights of an earlier day."""
        self.encoder = build_encoder(settings, settings.registry(), tables.catalogue, tables.vocab_sizes, self.backend)
        if self.warm is not None:
            begin(self.encoder, self.warm)
        criterion = build_objectives(settings, self.encoder).to(self.device)
        self.encoder.to(self.device)
        return Loop(
            model=Model(self.encoder, criterion, Optimizers(settings, self.encoder, criterion)),
            backend=self.backend,
            batches=Batches(samples, settings, tables.users, rank=self.backend.rank, size=self.backend.size, device=self.device),
            catalogue=tables.catalogue,
            item_counts=samples.item_counts.to(self.device),
            settings=settings,
            beat=self.watchdog.beat,
            dump=checkpoints.dump,
            miner=build_miner(settings, tables, samples, self.encoder, criterion, self.shared),
        )

    def _agreed_fingerprint(self, manifests: Mapping[str, Manifest]) -> str:
        """What shapes the training; raises TrainingError where workers read different tables or settings."""
        own = fingerprint(self.asked.settings, seen_inputs({**manifests, **self.previous}))
        number = int(own[:15], 16)
        if self.backend.agree_any(number != self.backend.agree_min(number)):
            fault = Fault("workers read different tables or settings", f"this one: {own}", "is the root shared by all? run it again")
            raise TrainingError(f"worker {self.backend.rank}", [fault])
        return own

    def _publish(self, publication: Publication, manifests: Mapping[str, Manifest], samples: Samples, fitted: Fitted) -> None:
        asked, settings, progress = self.asked, self.asked.settings, fitted.progress
        self.watchdog.beat()
        counters = counters_of(samples, fitted, settings, workers=self.backend.size)
        counters["warm_start"] = self.warm.model_id if self.warm is not None else None
        record, model_id = publish_model(publication, manifests, self.encoder, fitted, settings, counters)
        if settings.trainer.mlflow is not None:
            self.log(PUBLISHED, model=model_id, run=record.run_id, ds=asked.ds, variant=asked.variant)
        self.checkpoints.clear()
        line = f"published {JOB} ds={asked.ds} run={record.run_id} seconds={self.timer.seconds:.1f} model={model_id}"
        best, recall = "none", "none"  # without validation the last epoch is taken
        if progress.best_recall is not None:
            best, recall = str(progress.best_epoch), f"{progress.best_recall:.4f}"
        line += f" epochs={progress.epoch} best_epoch={best} valid_recall@{settings.trainer.valid_at}={recall}"
        folder = asked.store.uri(asked.store.run_folder("model", asked.ds, record.run_id))
        self._finish(record, "ok", f"{line} folder={folder}", counters)

    def _finish(self, record: Record, state: str, line: str, counters: Mapping[str, Any]) -> None:
        if self.status is not None:
            self.status.stage(JOB, state, self.timer.seconds, run_id=record.run_id, **counters)
        if not self.is_stage:
            self.asked.log("stage", stage=JOB, status=state, seconds=round(self.timer.seconds, 3), **counters)
        print(line, flush=True)

    def _expired(self, sentence: str) -> None:
        if self.status is not None:
            self.status.__exit__(TrainingError, TrainingError(f"job {JOB}, ds={self.asked.ds}", [sentence]), None)


_GO, _SKIP, _STOP = 0, 1, 100  # what rank 0 tells the others; _STOP + exit code


def _silent(event: str, **values: Any) -> None:
    """The log of ranks other than 0."""


if __name__ == "__main__":
    leave(main())
