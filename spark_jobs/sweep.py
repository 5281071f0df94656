"""Many trainings of one day that differ in a few settings: an Optuna study that a kill only pauses, and its table at the end.

Every trial trains under a variant of its own, named by its settings, from the tables that are there; production's stay as they are.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from conf import jobs
from conf.command import Request, Timer
from conf.errors import Fault, SettingsError, TrainingError, UsageError
from conf.inputs import input_manifests
from conf.names import check_name
from conf.settings import Settings, load
from conf.storage import MAIN, Store

Space = Mapping[str, "Choices | Range"]

EXAMPLE = "trainer.optimizer.lr: {low: 0.0001, high: 0.01, log: true}"


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]

    def draw(self, trial: Any, name: str) -> Any:
        """The trial's value."""
        return self.values[trial.suggest_categorical(name, list(range(len(self.values))))]

    @property
    def some(self) -> tuple[Any, ...]:
        """Values that a trial may have."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between low and high, both included; whole where both are; log: its logarithm is what is drawn."""

    low: float
    high: float
    log: bool = False

    def draw(self, trial: Any, name: str) -> Any:
        """The trial's value."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), log=self.log)

    @property
    def some(self) -> tuple[Any, ...]:
        """Values that a trial may have."""
        return self.low, self.high


# ---- what is varied --------------------------------------------------------------------------------------------------


def read_space(file: str, asked: Request) -> Space:
    """Settings by dotted name and the values they may take; raises SettingsError with every fault of the file."""
    try:
        data = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(file, [Fault("cannot be read", str(error.strerror), "give --space FILE")]) from error
    except yaml.YAMLError as error:
        raise SettingsError(file, [Fault("not valid YAML", " ".join(str(error).split()))]) from None
    if not isinstance(data, dict) or not data:
        raise SettingsError(file, [Fault("names no setting to vary", fix=f"for instance {EXAMPLE}")])
    space: dict[str, Choices | Range] = {}
    faults: list[Fault] = []
    for name, given in data.items():
        try:
            space[str(name)] = parsed = _parse(given)
            for value in parsed.some:
                check(str(name), value, asked)
        except ValueError as error:
            faults.append(Fault(f"{name}: {error}", fix=f"for instance {EXAMPLE}"))
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(file, faults)
    return space


def _parse(given: Any) -> Choices | Range:
    """Raises ValueError where it is neither a list nor a range."""
    if isinstance(given, list) and given:
        return Choices(tuple(given))
    known = {"low", "high", "log"}
    if not isinstance(given, dict) or not {"low", "high"} <= set(given) <= known:
        raise ValueError(f"found {given!r}; want a list of values, or low, high and perhaps log")
    numbers = [given["low"], given["high"]]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers) or numbers[0] >= numbers[1]:
        raise ValueError(f"low {numbers[0]!r} and high {numbers[1]!r} are not two numbers in that order")
    if given.get("log") and numbers[0] <= 0:
        raise ValueError("log needs a low above 0")
    return Range(numbers[0], numbers[1], bool(given.get("log", False)))


def check(name: str, value: Any, asked: Request) -> None:
    """Raises SettingsError for a setting that does not exist or cannot be so, ValueError for one that shapes an earlier table."""
    varied = settings_with({name: value}, asked)
    shaped = [job for job in jobs.upstream("train", varied) if jobs.config_hash(job, varied) != jobs.config_hash(job, asked.settings)]
    if shaped:
        raise ValueError(f"shapes what job {shaped[-1]} makes; a sweep varies the training only")
    if jobs.config_hash("train", varied) == jobs.config_hash("train", asked.settings) and varied == asked.settings:
        return
    if jobs.config_hash("train", varied) == jobs.config_hash("train", asked.settings):
        raise ValueError("has no part in the training")


def settings_with(values: Mapping[str, Any], asked: Request) -> Settings:
    """The request's settings with these values; raises SettingsError where they do not go together."""
    return load(asked.config, [*asked.overrides, *overrides_of(values)])


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """As --set takes them."""
    return [
        f"{name}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}" for name, value in values.items()
    ]


# ---- the study -------------------------------------------------------------------------------------------------------


def sweep(asked: Request, space: Space, *, name: str, trials: int, journal: str | None = None) -> int:
    """Run trials until the study has so many; print its table, the best first. One that was cut is gone on with.

    Raises:
        UsageError: Optuna is not installed; a variant other than main; a root without a place for the journal.
        NotReadyError: the tables that a training reads are not there.
    """
    optuna = _optuna()
    if asked.variant != MAIN:
        raise UsageError(
            "trichannel sweep", [Fault(f"--variant {asked.variant}", fix="leave it out: every trial has a variant of its own")]
        )
    input_manifests("train", asked.store, asked.ds, asked.settings)
    file = journal or _journal(asked.settings, check_name("--study", name))
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    sampler = optuna.samplers.TPESampler(seed=asked.settings.trainer.seed)
    study = optuna.create_study(
        study_name=f"{name} {asked.ds}", storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
    )
    for cut in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(cut.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(cut.params)  # its variant is named by its settings: training goes on from its checkpoint
    done = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)))
    study.optimize(_objective(asked, space, name, optuna), n_trials=max(0, trials - done))
    rows = [(t.value, t.number, t.state.name.lower(), dict(t.user_attrs)) for t in study.get_trials(deepcopy=False)]
    print(table(rows, at=asked.settings.trainer.valid_at))
    return 0


def _objective(asked: Request, space: Space, name: str, optuna: Any) -> Callable[[Any], float]:
    def train(trial: Any) -> float:
        values = {key: given.draw(trial, key) for key, given in space.items()}
        trial.set_user_attr("set", " ".join(overrides_of(values)))
        timer = Timer()
        try:
            settings = settings_with(values, asked)
            found = recall_of(trained(asked, values, settings, name), settings)
        except (SettingsError, TrainingError) as error:  # values that do not go together, or a loss that is not finite: the study goes on
            trial.set_user_attr("why", "; ".join(map(str, error.faults)))
            raise optuna.TrialPruned from error
        trial.set_user_attr("seconds", round(timer.seconds, 1))
        asked.log("trial", study=name, trial=trial.number, recall=found, **values)
        return found

    return train


def trained(asked: Request, values: Mapping[str, Any], settings: Settings, name: str) -> Request:
    """Train with these values in their variant, or find it done; returns the trial's own request.

    Raises:
        TrainingError: the trainer failed.
    """
    from spark_jobs.launcher import train

    digest = hashlib.sha256(repr(sorted(overrides_of(values))).encode()).hexdigest()[:8]
    variant = check_name("--study", f"{name}-{digest}")
    own = replace(
        asked, settings=settings, overrides=(*asked.overrides, *overrides_of(values)), variant=variant, run_id=f"{asked.run_id}-{digest}"
    )
    train(own, resume=True)
    return own


def recall_of(own: Request, settings: Settings) -> float:
    """The validation recall of the trial's model; raises UsageError where nothing was held out."""
    counters = Store.of(settings, own.variant).manifest("model", own.ds, settings).counters
    found = counters[f"recall@{settings.trainer.valid_at}"]
    if found is None:
        raise UsageError(
            "trichannel sweep", [Fault("no clicks were held out to compare trials by", fix="set split.valid_k or split.valid_days")]
        )
    return float(found)


def table(rows: Sequence[tuple[float | None, int, str, Mapping[str, Any]]], *, at: int) -> str:
    """One line a trial, the best first, and how to run with the best one's settings."""
    ranked = sorted(rows, key=lambda row: (row[0] is None, -(row[0] or 0.0), row[1]))
    lines = [f"recall@{at:<4} trial  seconds  settings"]
    for value, number, state, attributes in ranked:
        found = f"{value:.4f}" if value is not None else state
        note = f"   ({attributes['why']})" if "why" in attributes else ""
        lines.append(f"{found:>10} {number:>6} {attributes.get('seconds', ''):>8}  {attributes.get('set', '')}{note}")
    if ranked and ranked[0][0] is not None:
        best = ranked[0][3]["set"]
        lines.append(f"best trial={ranked[0][1]} recall@{at}={ranked[0][0]:.4f} {' '.join(f'--set {word}' for word in best.split())}")
    return "\n".join(lines)


def _journal(settings: Settings, name: str) -> str:
    root = settings.storage.root
    if "://" in root:
        raise UsageError("trichannel sweep", [Fault(f"{root} cannot hold the study's journal", fix="give --journal FILE")])
    folder = Path(root) / "_sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"{name}.journal")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("trichannel sweep", [Fault("Optuna is not installed", str(error), "pip install 'trichannel[sweep]'")]) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
