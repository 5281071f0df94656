"""Building an index: by the factory that the settings name, or the kind that meets their goals; below the recall goal it is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conf.errors import Fault, GateError
from conf.sections.retrieval import Index
from retrieval.index_choice import Goals, Trial, ranked, reasons
from retrieval.index_inputs import Source
from retrieval.index_measure import Made, exact, recall_of, trials, widen
from retrieval.ragged import F32
from retrieval.vector_index import effort_of, set_effort

_DIGITS = {"recall": 4, "queries_per_s": 0, "build_s": 3, "day_s": 3}  # of a trial that are told


SAMPLE_SEED = 21  # of the choice of vectors that kinds are measured on: any fixed number does


@dataclass(frozen=True)
class Asked:
    """What an index is asked.

    source: its rows. queries: float32[Q, K, D], those that measure. at: N of the measured recall. num: queries that a day asks. make:
    builds it of all rows by a factory string. parts: in so many parts.
    """

    source: Source
    is_unit: bool
    queries: F32
    at: int
    num: int
    make: Callable[[str], Made]
    parts: int = 1


@dataclass(frozen=True)
class Built:
    """An index with what was measured of it. tried: of each kind what it reached, and `why`."""

    made: Made
    factory: str
    effort: int
    recall: float
    tried: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def build_all(asked: Mapping[str, Asked], settings: Index) -> dict[str, Built]:
    """Build every index by name.

    Raises:
        GateError: one is below index.min_recall, or no kind meets both goals; with the faults of all.
        SettingsError: FAISS refuses the factory string, or cannot train it on so few vectors.
    """
    made, faults = dict[str, Built](), list[Fault]()
    for name, one in asked.items():
        try:
            made[name] = build_auto(name, one, settings) if settings.factory == "auto" else build(name, one, settings)
        except GateError as error:
            faults += error.faults
    if faults:
        raise GateError("index", faults)
    return made


def build(name: str, asked: Asked, settings: Index) -> Built:
    """The index that settings.factory says, with its recall measured. Raises as `build_all`."""
    made = asked.make(settings.factory)
    effort = effort_of(made.index.searcher, nprobe=settings.nprobe, ef_search=settings.ef_search)
    set_effort(made.index.searcher, effort)
    recall = recall_of(made.index, exact(made.index, asked.queries, at=asked.at))
    if recall < settings.min_recall:
        what = f"{name}: recall@{asked.at} is {recall:.4f}, want {settings.min_recall}"
        fix = "raise index.nprobe or index.ef_search, let index.factory be auto or Flat, or lower index.min_recall"
        raise GateError("index", [Fault(what, f"factory {settings.factory}, effort {effort}", fix)])
    return Built(made, settings.factory, effort, recall)


def build_auto(name: str, asked: Asked, settings: Index) -> Built:
    """The fastest kind that meets both goals: on a sample of the vectors, and then its recall on all of them. Raises as `build_all`."""
    # parts that the job counted itself are there to build the index, not to let it take more memory
    goals = Goals(settings.min_recall, settings.max_bytes * (1 if settings.shards == "auto" else asked.parts))
    source, is_unit, queries = asked.source, asked.is_unit, asked.queries
    sample = source.sample(settings.sample_rows, SAMPLE_SEED).vectors()
    tried = trials(name, sample, rows=source.rows, goals=goals, is_unit=is_unit, queries=queries, at=asked.at, asked=asked.num)
    missed: dict[str, float] = {}
    for trial in ranked(tried, goals):
        assert trial.effort is not None
        made = asked.make(trial.factory)
        effort, recall = widen(made.index, exact(made.index, queries, at=asked.at), goals.min_recall, begin=trial.effort)
        if recall >= goals.min_recall:
            return Built(made, trial.factory, effort, recall, told(tried, goals, taken=trial.kind, missed=missed))
        missed[trial.kind] = recall
    faults = [Fault(f"{name}: {one['factory']}: {one['why']}", _reached(one)) for one in told(tried, goals, taken=None, missed=missed)]
    fix = "lower index.min_recall, raise index.max_memory, or name an index.factory"
    raise GateError("index", [Fault(f"{name}: no kind of index meets both goals", fix=fix), *faults])


def told(tried: Sequence[Trial], goals: Goals, *, taken: str | None, missed: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each trial as the manifest, index.json and the report tell it, with `why` it was taken or not."""
    why = reasons(tried, goals, taken=taken, missed=missed)
    return [{**_rounded(asdict(trial)), "why": why[trial.kind]} for trial in tried]


def _rounded(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, _DIGITS[name]) if name in _DIGITS and value is not None else value for name, value in trial.items()}


def choices(built: Mapping[str, Built]) -> list[str]:
    """A line for each kind that was tried, for the log."""
    return [f"{name}: {one['factory']}: {one['why']} ({_reached(one)})" for name, index in built.items() for one in index.tried]


def _reached(one: Mapping[str, Any]) -> str:
    """What a trial measured, as text."""
    if one["recall"] is None:
        return "not measured"
    return f"recall {one['recall']}, {one['bytes'] / 1e6:.1f} MB, {one['queries_per_s']:,.0f} queries/s, {one['build_s']} s to build"
