"""Building an index: by the factory that the settings name, or the kind that meets their goals; below the recall goal it is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from conf.errors import Fault, GateError
from conf.sections.retrieval import Index
from retrieval.index_choice import Goals, Trial, ranked, reasons
from retrieval.index_inputs import Vectors
from retrieval.index_measure import exact, make, recall_of, trials, widen
from retrieval.ragged import F32
from retrieval.vector_index import VectorIndex, effort_of, set_effort

_DIGITS = {"recall": 4, "queries_per_s": 0, "build_s": 3, "day_s": 3}  # of a trial that are told


@dataclass(frozen=True)
class Asked:
    """What an index is asked. vectors: its rows. queries: float32[Q, K, D], those that measure. num: how many a day asks."""

    vectors: Vectors
    is_unit: bool
    queries: F32
    num: int


@dataclass(frozen=True)
class Built:
    """An index with what was measured of it. build_s: seconds to train and add. tried: of each kind what it reached, and `why`."""

    index: VectorIndex
    factory: str
    effort: int
    recall: float
    build_s: float
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
    index, build_s = make(name, asked.vectors, settings.factory, is_unit=asked.is_unit)
    effort = effort_of(index.searcher, nprobe=settings.nprobe, ef_search=settings.ef_search)
    set_effort(index.searcher, effort)
    recall = recall_of(index, exact(index, asked.queries, at=settings.recall_at))
    if recall < settings.min_recall:
        what = f"{name}: recall@{settings.recall_at} is {recall:.4f}, want {settings.min_recall}"
        fix = "raise index.nprobe or index.ef_search, let index.factory be auto or Flat, or lower index.min_recall"
        raise GateError("index", [Fault(what, f"factory {settings.factory}, effort {effort}", fix)])
    return Built(index, settings.factory, effort, recall, build_s)


def build_auto(name: str, asked: Asked, settings: Index) -> Built:
    """The fastest kind that meets both goals: on a sample of the vectors, and then its recall on all of them. Raises as `build_all`."""
    goals = Goals(settings.min_recall, settings.max_bytes)
    vectors, is_unit, queries = asked.vectors, asked.is_unit, asked.queries
    tried = trials(name, vectors, settings, is_unit=is_unit, queries=queries, asked=asked.num)
    missed: dict[str, float] = {}
    for trial in ranked(tried, goals):
        assert trial.effort is not None
        index, build_s = make(name, vectors, trial.factory, is_unit=is_unit)
        effort, recall = widen(index, exact(index, queries, at=settings.recall_at), goals.min_recall, begin=trial.effort)
        if recall >= goals.min_recall:
            return Built(index, trial.factory, effort, recall, build_s, told(tried, goals, taken=trial.kind, missed=missed))
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
    return [f"{name}: {one['factory']}: {one['why']} ({_reached(one)})" for name, made in built.items() for one in made.tried]


def _reached(one: Mapping[str, Any]) -> str:
    """What a trial measured, as text."""
    if one["recall"] is None:
        return "not measured"
    return f"recall {one['recall']}, {one['bytes'] / 1e6:.1f} MB, {one['queries_per_s']:,.0f} queries/s, {one['build_s']} s to build"
