"""The entry of a training: what horovodrun, torchrun and the pipeline start.

    python -m trainer.train --config demo --ds 2026-01-31
    horovodrun -np 2 --gloo python -m trainer.train --config demo --ds 2026-01-31
    torchrun --standalone --nproc-per-node 2 -m trainer.train --config demo --ds 2026-01-31

Reads samples, user_feat, item_feat, user_state and the sizes of the vocabularies; publishes the artefact `model` (model.pt, metrics.jsonl).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn

import torch

from conf.command import Request, RunStatus, Timer, add_arguments, guarded, request
from conf.errors import Fault, TrainingError, TrichannelError, UsageError
from conf.inputs import input_manifests, previous_manifests, seen_inputs, unchanged
from conf.launchers import LAUNCHERS
from conf.settings import Settings
from conf.storage import Manifest, Publication, Record
from trainer.backends import Backend, build_backend
from trainer.batches import Batches, Samples, survey
from trainer.checkpoints import Checkpoints, fingerprint, work_folder
from trainer.deferred import deferred_init
from trainer.devices import device_of
from trainer.encoders import ENCODERS, build_encoder
from trainer.export import read_model
from trainer.fit import Fit, Fitted
from trainer.loop import Loop, Model
from trainer.mining import build_miner
from trainer.objectives import build_objectives
from trainer.optimizers import Optimizers
from trainer.plan import describe
from trainer.publish import counters_of, publish_model
from trainer.tables import Tables
from trainer.tracking import PUBLISHED, tracked
from trainer.validation import read_queries
from trainer.warm_start import Warm, begin, same_numbers, warm_weights
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


def leave(exit_code: int) -> NoReturn:
    """End this worker; after a failure within seconds, though the clean-up of Horovod or NCCL may wait for a worker that is gone."""
    if exit_code != 0:
        Watchdog(_EXIT_S).start()
    sys.exit(exit_code)


def leaving_word(body: Callable[[], int]) -> int:
    """Run the body; of the workers that fail of a known cause, the first writes it to the file that $TRICHANNEL_FAILURE names."""
    try:
        return body()
    except TrichannelError as error:
        path = os.environ.get("TRICHANNEL_FAILURE")
        if path:
            with suppress(OSError), open(path, "x", encoding="utf-8") as file:  # it exists: an earlier one is the cause of ours
                json.dump({"exit_code": error.exit_code, "error": "; ".join(map(str, error.faults))}, file)
        raise


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
        settings = self.asked.settings
        torch.set_num_threads(settings.trainer.threads)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # 8 % of a step
        self.backend = start_backend(settings.trainer.launcher)
        self.device = device_of(settings.trainer.device)
        if self.device.type == "cuda":  # some of what we use has no deterministic form there
            torch.use_deterministic_algorithms(True, warn_only=True)
        publication = self._begin()
        if publication is None and self.backend.rank == 0:
            return
        manifests = self.manifests or input_manifests(JOB, self.asked.store, self.asked.ds, settings)
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
        tables = Tables.read(asked.store, manifests, settings).to(self.device)
        beat()
        if settings.trainer.batches == "petastorm":
            from trainer.batches.petastorm import refuse_pickled_schema

            refuse_pickled_schema(asked.store.files_of(manifests["samples"]))
        clicks, num_items = settings.trainer.clicks_per_row, tables.catalogue.num_items
        samples = survey(asked.store, manifests["samples"], backend, num_items=num_items, clicks_per_row=clicks)
        beat()
        queries = read_queries(samples, settings, tables.users, tables.user_state, rank=backend.rank, size=backend.size)
        queries = None if queries is None else queries.to(self.device)
        beat()
        shape = self._agreed_fingerprint(manifests)
        self.checkpoints = Checkpoints(asked.store.fs, work_folder(asked.store, asked.ds), shape)
        log: Callable[..., None] = _silent
        if backend.rank == 0:
            log = self.log = self.stack.enter_context(tracked(settings.trainer.mlflow, settings, f"{asked.ds} {asked.run_id}", asked.log))
        log("begin", stage=JOB, workers=backend.size, train_rows=samples.train_rows, valid_rows=samples.valid_rows, resume=self.resume)
        self.warm = self._read_warm(manifests, tables, log)
        loop = self._loop(tables, samples, settings, self.checkpoints)
        fitted = Fit(loop, queries, tables.eligible, self.checkpoints, log).run(resume=self.resume)
        if settings.split.refit and fitted.progress.best_epoch is not None:
            epochs = fitted.progress.best_epoch + 1
            both, again = samples.with_valid(), _with_epochs(settings, epochs)
            kept = Checkpoints(asked.store.fs, f"{self.checkpoints.folder}/refit", f"{shape}-refit-{epochs}")
            log("refit", stage=JOB, epochs=epochs, train_rows=both.train_rows)
            final = Fit(self._loop(tables, both, again, kept), None, tables.eligible, kept, log, phase="refit_").run(resume=self.resume)
            progress = replace(fitted.progress, lines=fitted.progress.lines + final.progress.lines)
            fitted = replace(fitted, weights=final.weights, progress=progress, refit_rows=both.train_rows)
        return samples, fitted

    def _read_warm(self, manifests: Mapping[str, Manifest], tables: Tables, log: Callable[..., None]) -> Warm | None:
        """The earlier model's weights; None = the model begins cold, and where one was asked for, the log says why."""
        asked, settings = self.asked, self.asked.settings
        if not settings.trainer.warm_start:
            return None
        if not self.previous or not same_numbers(self.previous["model"], manifests):
            why = "ids are numbered anew" if self.previous else "there is no earlier model to go on from"
            log("cold", stage=JOB, reason=why)
            return None
        file = next(file for file in asked.store.files_of(self.previous["model"]) if file.endswith("/model.pt"))
        fresh = deferred_init(ENCODERS[settings.model.encoder], settings, settings.registry(), tables.catalogue, tables.vocab_sizes)
        found = warm_weights(fresh, read_model(file), file)
        log("warm", stage=JOB, model=found.model_id, new_rows=sum(found.added.values()))
        return found

    def _loop(self, tables: Tables, samples: Samples, settings: Settings, checkpoints: Checkpoints) -> Loop:
        """The loop of a model at its start: fresh, or with the weights of an earlier day."""
        self.encoder = build_encoder(settings, settings.registry(), tables.catalogue, tables.vocab_sizes)
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
            miner=build_miner(
                settings, tables, samples, self.encoder, criterion, self.backend, beat=self.watchdog.beat, device=self.device
            ),
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
        recall = "none" if progress.best_recall is None else f"{progress.best_recall:.4f}"
        line = f"published {JOB} ds={asked.ds} run={record.run_id} seconds={self.timer.seconds:.1f} model={model_id}"
        self._finish(record, "ok", f"{line} epochs={progress.epoch} valid_recall@{settings.trainer.valid_at}={recall}", counters)

    def _finish(self, record: Record, state: str, line: str, counters: Mapping[str, Any]) -> None:
        if self.status is not None:
            self.status.stage(JOB, state, self.timer.seconds, run_id=record.run_id, **counters)
        if not self.is_stage:
            self.asked.log("stage", stage=JOB, status=state, seconds=round(self.timer.seconds, 3), **counters)
        print(line, flush=True)

    def _expired(self, sentence: str) -> None:
        if self.status is not None:
            self.status.__exit__(TrainingError, TrainingError(f"job {JOB}, ds={self.asked.ds}", [sentence]), None)


_EXIT_S = 20.0  # for the way out after a failure
_GO, _SKIP, _STOP = 0, 1, 100  # what rank 0 tells the others; _STOP + exit code


# The variable that shows how a process was started, with the number of workers in it: (its launcher, the backend that goes with it).
_STARTED_BY = {"HOROVOD_SIZE": ("horovodrun", "horovod"), "WORLD_SIZE": ("torchrun", "ddp")}


def start_backend(launcher: str) -> Backend:
    """The backend of the launcher; raises UsageError where it does not fit how the process was started, or is not installed."""
    name = LAUNCHERS[launcher].backend
    starts = {backend: (program, os.environ.get(variable)) for variable, (program, backend) in _STARTED_BY.items()}
    own = starts.pop(name, ("", None))[1]
    for backend, (program, workers) in starts.items():
        if own is None and workers not in (None, "1"):
            found = f"started by {program} with {workers} workers"
            raise UsageError("trainer.launcher", [Fault(f"trainer.launcher is {launcher}", found, f"set trainer.launcher: {backend}")])
    if name == "ddp" and own is None:
        fix = "start it by trichannel train or torchrun, or set trainer.launcher: single"
        raise UsageError("trainer.launcher", [Fault(f"trainer.launcher is {launcher}", "started by plain Python", fix)])
    try:
        return build_backend(name)
    except ImportError as error:
        fix = "type scripts/build_horovod and pip install the wheel it names, or set trainer.launcher: ddp or single"
        raise UsageError("trainer.launcher", [Fault(f"{name} is not installed", str(error), fix)]) from error


def _with_epochs(settings: Settings, epochs: int) -> Settings:
    return settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"epochs": epochs})})


def _silent(event: str, **values: Any) -> None:
    """The log of ranks other than 0."""


if __name__ == "__main__":
    leave(main())
