"""Which kind of index to take: what was measured of each kind, set against the goals. Numbers in, a choice and its reasons out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2, sqrt

# Of so few rows an exact search takes less time than measuring what could be faster: 4,000 queries/s of width 64 on 2 cores.
EXACT_ROWS = 20_000
_TRAINING_ROWS = 10_000  # product codes have 256 centres a byte, each of at least 39 rows
_LEAST_FOUND = 10
_TIE = 1.25  # times as slow as the fastest: that near, the simpler kind is taken


def lists(rows: int) -> int:
    """Lists of an IVF index of so many rows: the power of two nearest to 4 sqrt(rows), if each has the 39 rows that FAISS wants."""
    return max(1, min(1 << round(log2(4 * sqrt(max(1, rows)))), rows // 39))


def parts(dim: int) -> int:
    """Bytes of a product code: the largest divisor of dim up to half of it, an eighth of the vector."""
    return max(part for part in range(1, max(2, dim // 2 + 1)) if dim % part == 0)


@dataclass(frozen=True)
class Kind:
    """A kind of index. factory: its string for so many rows of that width. row_bytes: what a row of that width takes at least.

    by_share: a query is compared with a share of the rows, all or some lists of them; else with about as many, however many there are.
    """

    factory: Callable[[int, int], str]
    row_bytes: Callable[[int], int]
    by_share: bool = True


# The simplest first. An IVF index keeps 8 bytes of id a row, HNSW32 at least 64 links of 4 bytes.
KINDS: Mapping[str, Kind] = {
    "flat": Kind(lambda rows, dim: "Flat", lambda dim: 4 * dim),
    "ivf": Kind(lambda rows, dim: f"IVF{lists(rows)},Flat", lambda dim: 4 * dim + 8),
    "hnsw": Kind(lambda rows, dim: "HNSW32", lambda dim: 4 * dim + 256, by_share=False),
    "ivf_sq8": Kind(lambda rows, dim: f"IVF{lists(rows)},SQ8", lambda dim: dim + 8),
    "ivf_pq": Kind(lambda rows, dim: f"IVF{lists(rows)},PQ{parts(dim)}", lambda dim: parts(dim) + 8),
}


@dataclass(frozen=True)
class Goals:
    """What an index must reach. min_recall: 0 to 1. max_bytes: memory it may take."""

    min_recall: float
    max_bytes: int


@dataclass(frozen=True)
class Trial:
    """What is known of one kind for all rows, measured on a sample and scaled up; of a kind that was not measured only its size.

    bytes: of the index. effort: the least that reached the recall goal on the sample, or the most there is. queries_per_s, build_s: on
    the machine that measured. day_s: seconds to build it and answer every query of the day.
    """

    kind: str
    factory: str
    bytes: int
    effort: int | None = None
    recall: float | None = None
    queries_per_s: float | None = None
    build_s: float | None = None
    day_s: float | None = None

    def fault(self, goals: Goals) -> str:
        """What keeps it from the goals, as text; "" where it meets both."""
        missed = []
        if self.recall is not None and self.recall < goals.min_recall:
            missed.append(f"recall {self.recall:.4f}, want {goals.min_recall:g}")
        if self.bytes > goals.max_bytes:
            missed.append(f"takes {megabytes(self.bytes)}, may take {megabytes(goals.max_bytes)}")
        return "; ".join(missed)


def worth_it(rows: int, dim: int, goals: Goals) -> tuple[list[str], list[Trial]]:
    """(the kinds to measure, those that are too large whatever they find).

    Product codes find less than 8 bits a number and are no faster once trained: they are for what fits in no other way.
    """
    bytes_of = {name: rows * kind.row_bytes(dim) for name, kind in KINDS.items()}
    fitting = [name for name, size in bytes_of.items() if size <= goals.max_bytes]
    if "flat" in fitting and rows <= EXACT_ROWS:
        return ["flat"], []
    large = [Trial(name, KINDS[name].factory(rows, dim), size) for name, size in bytes_of.items() if size > goals.max_bytes]
    if "ivf_sq8" in fitting or rows < _TRAINING_ROWS:
        fitting = [name for name in fitting if name != "ivf_pq"]
    return fitting, large


def found_in_sample(kind: str, at: int, *, sample: int, rows: int) -> int:
    """How many of a query's nearest the recall of a kind is measured by on a sample, to tell what it reaches of `at` among all rows.

    Of the rows near a query a sample has its share. A kind that looks into a share of the rows is asked for that share of the answer, at
    least 10: for all `at` it would have to look much further into the sample than it has to into the whole.
    """
    return min(at, max(_LEAST_FOUND, round(at * sample / rows))) if KINDS[kind].by_share else at


def scaled(trial: Trial, *, sample: int, rows: int, dim: int, queries: int) -> Trial:
    """A measured trial of `sample` rows as it would be of `rows`, with `queries` a day.

    Where a query is compared with a share of the rows, the rate falls as they grow; that of HNSW hardly does.
    """
    assert trial.queries_per_s is not None
    assert trial.build_s is not None
    growth = rows / sample
    rate, build_s = trial.queries_per_s / (growth if KINDS[trial.kind].by_share else 1), trial.build_s * growth
    size, factory = round(trial.bytes * growth), KINDS[trial.kind].factory(rows, dim)
    return replace(trial, factory=factory, bytes=size, queries_per_s=rate, build_s=build_s, day_s=build_s + queries / rate)


def ranked(trials: Sequence[Trial], goals: Goals) -> list[Trial]:
    """Those that meet both goals; first the one to take, the fastest or the simplest of those nearly as fast, then by time."""
    seconds = {trial: trial.day_s for trial in trials if trial.day_s is not None and not trial.fault(goals)}
    if not seconds:
        return []
    best = next(trial for trial, day_s in seconds.items() if day_s <= _TIE * min(seconds.values()))
    return [best, *sorted(seconds.keys() - {best}, key=lambda trial: (seconds[trial], trial.kind))]


def reasons(trials: Sequence[Trial], goals: Goals, *, taken: str | None, missed: Mapping[str, float]) -> dict[str, str]:
    """Of each kind why it was taken or not, in one phrase. missed: recall of kinds that met the goals on the sample only."""
    taken_s = next((trial.day_s for trial in trials if trial.kind == taken), None)
    return {trial.kind: _reason(trial, goals, taken=taken, taken_s=taken_s, missed=missed, alone=len(trials) == 1) for trial in trials}


def _reason(trial: Trial, goals: Goals, *, taken: str | None, taken_s: float | None, missed: Mapping[str, float], alone: bool) -> str:
    if trial.kind in missed:
        return f"recall {missed[trial.kind]:.4f} on all vectors, want {goals.min_recall:g}"
    if trial.kind == taken:
        return f"taken: exact, and up to {EXACT_ROWS:,} vectors nothing else pays" if alone else "taken"
    if trial.fault(goals) or trial.day_s is None or taken_s is None:
        return trial.fault(goals)
    return f"slower: {trial.day_s:.1f} s for the day, {taken_s:.1f} s" if trial.day_s > taken_s else "not much faster, and less simple"


def megabytes(count: int) -> str:
    """1,234,567 bytes as "1.2 MB"."""
    return f"{count / 1e6:,.1f} MB"
