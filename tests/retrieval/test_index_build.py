"""Building by goals: the kinds compared on real vectors, the first choice that misses, the refusal."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conf.errors import GateError
from conf.sections.retrieval import Index
from retrieval import index_measure
from retrieval.index_build import SAMPLE_SEED, Asked, build_all, build_auto, choices
from retrieval.index_choice import KINDS, found_in_sample
from retrieval.index_inputs import Source, Vectors
from retrieval.index_measure import exact, make, measure_recall, widen
from retrieval.vector_index import set_effort

ROWS, DIM = 24_000, 64
WHOLE = 4 * DIM * ROWS  # bytes of the vectors


@pytest.fixture(scope="module")
def clustered():
    """Vectors around 200 centres, as a trained model has them."""
    return around_centres(0.1)


@pytest.fixture(scope="module")
def blurred():
    """The same, further from their centres."""
    return around_centres(0.7)


def around_centres(spread):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, DIM))
    matrix = centres[rng.integers(0, 200, ROWS)] + spread * rng.normal(size=(ROWS, DIM))
    return Vectors(np.arange(1, ROWS + 1, dtype=np.int32), matrix.astype(np.float32))


@dataclass(frozen=True)
class InMemory(Source):
    """Vectors that are at hand, as if they were read from files."""

    matrix: Any = None

    def vectors(self):
        return Vectors(self.ids, self.matrix[self.ids - 1])


def asked(vectors, *, is_unit=True, at=10, num=1_000_000):
    source = InMemory((), vectors.idx, matrix=vectors.matrix)
    return Asked(source, is_unit, vectors.matrix[::200, None], at, num, lambda factory: make("items", vectors, factory, is_unit=is_unit))


def sampled(vectors):
    return InMemory((), vectors.idx, matrix=vectors.matrix).sample(10_000, SAMPLE_SEED).ids


def settings(**given):
    return Index(**{"sample_rows": 10_000} | given)


def why(built):
    return {one["kind"]: one["why"] for one in built.tried}


def test_the_fastest_kind_that_finds_enough_is_taken_and_every_other_has_a_reason(clustered):
    built = build_auto("items", asked(clustered), settings())
    assert built.recall >= 0.95
    assert measure_recall(built.made.index, clustered.matrix[::200, None], at=10) == built.recall
    assert list(why(built)) == ["flat", "ivf", "hnsw", "ivf_sq8"]
    by_kind = {one["kind"]: one for one in built.tried}
    (taken,) = [one for one in built.tried if one["why"] == "taken"]
    assert taken["day_s"] <= by_kind["flat"]["day_s"]  # of whatever the clock showed: speeds are measured here
    assert by_kind["flat"]["recall"] == 1.0
    assert abs(by_kind["flat"]["bytes"] / WHOLE - 1) < 0.01
    assert by_kind["ivf_sq8"]["bytes"] < 0.5 * WHOLE
    assert len(choices({"items": built})) == 4


def test_little_memory_takes_codes(clustered):
    built = build_auto("items", asked(clustered), settings(max_memory=f"{WHOLE // 2000}kB"))
    assert built.factory == "IVF512,SQ8"
    assert built.recall >= 0.95
    assert why(built)["flat"] == "takes 6.1 MB, may take 3.1 MB"


def with_one_long(vectors, idx):
    """The vectors, that of idx a thousand times as long: it alone uses up the range of 8-bit numbers."""
    matrix = vectors.matrix.copy()
    matrix[idx - 1] *= 1000
    return Vectors(vectors.idx, matrix)


def test_a_kind_that_misses_the_goal_on_all_vectors_gives_way_to_the_next(clustered, monkeypatch):
    """The long vector is not in the sample: 8 bits a number look best there, and find too little of all."""
    rates = {"IndexIVFScalarQuantizer": 1e5}  # whatever this machine would measure
    monkeypatch.setattr(index_measure, "_rate", lambda index, queries, at: rates.get(type(index.searcher).__name__, 1e3))
    vectors = with_one_long(clustered, np.setdiff1d(clustered.idx, sampled(clustered))[0])
    built = build_auto("items", asked(vectors, is_unit=False), settings(max_memory=f"{(WHOLE + 4 * ROWS) // 1000}kB"))
    assert (built.factory, built.recall) == ("Flat", 1.0)
    told = why(built)
    assert told["flat"] == "taken"
    assert told["ivf_sq8"].endswith("on all vectors, want 0.95")
    assert told["ivf"].startswith("takes 6.3 MB")


def test_goals_that_nothing_meets_are_refused_with_what_each_reached(clustered):
    """The long vector is in the sample, and whole vectors do not fit."""
    vectors = with_one_long(clustered, sampled(clustered)[0])
    with pytest.raises(GateError) as refused:
        build_all({"items": asked(vectors, is_unit=False)}, settings(max_memory=f"{WHOLE // 2000}kB"))
    assert refused.value.exit_code == 4
    what = [fault.what for fault in refused.value.faults]
    assert what[0] == "items: no kind of index meets both goals"
    assert [text.split(":")[1].strip() for text in what[1:]] == ["IVF512,SQ8", "Flat", "IVF512,Flat", "HNSW32"]
    assert what[1].endswith("want 0.95")
    assert what[2].endswith("takes 6.1 MB, may take 3.1 MB")


@pytest.fixture
def scattered():
    """Vectors without clusters: a list of an IVF index holds few of a query's neighbours."""
    return Vectors(np.arange(1, 2001, dtype=np.int32), np.random.default_rng(2).normal(size=(2000, 16)).astype(np.float32))


def test_every_index_below_the_goal_is_named(scattered):
    with pytest.raises(GateError) as refused:
        build_all({name: asked(scattered) for name in ("items", "users")}, settings(factory="IVF16,Flat", nprobe=1))
    assert [fault.what.split(":")[0] for fault in refused.value.faults] == ["items", "users"]
    assert {fault.found for fault in refused.value.faults} == {"factory IVF16,Flat, effort 1"}


def test_the_choice_goes_by_the_recall_that_is_asked_for(clustered):
    """Of the 400 nearest more lie in lists further off than of the 10 nearest: the same kind must look into more of them."""
    efforts = {at: build_auto("items", asked(clustered, at=at), settings(max_memory=f"{WHOLE // 2000}kB")).effort for at in (10, 400)}
    assert efforts[400] > efforts[10]


def test_a_sample_tells_how_far_to_look_into_all_rows(blurred):
    """A cluster of 120 rows has 50 in the sample. The 100 nearest of all lie in one cluster; 100 of the sample lie in others as well, all
    about as far off.
    """
    built = build_auto("items", asked(blurred, at=100), settings(max_memory=f"{WHOLE // 2000}kB"))
    (trial,) = [one for one in built.tried if one["why"] == "taken"]
    assert trial["kind"] == "ivf_sq8"
    needed, recall = widen(built.made.index, exact(built.made.index, blurred.matrix[::200, None], at=100), 0.95)
    assert recall >= 0.95
    assert needed / 2 <= trial["effort"] <= needed * 2


def test_the_answer_shrinks_with_the_sample_where_a_share_of_the_rows_is_looked_at():
    found = {kind: found_in_sample(kind, 500, sample=50_000, rows=1_000_000) for kind in KINDS}
    assert found == {"flat": 25, "ivf": 25, "hnsw": 500, "ivf_sq8": 25, "ivf_pq": 25}
    assert found_in_sample("ivf", 500, sample=50_000, rows=10_000_000) == 10
    assert found_in_sample("ivf", 5, sample=50_000, rows=1_000_000) == 5


def test_a_given_factory_searches_as_hard_as_the_settings_say(scattered):
    built = build_all({"items": asked(scattered)}, settings(factory="IVF16,Flat", nprobe=16))["items"]
    assert (built.factory, built.effort, built.recall, list(built.tried)) == ("IVF16,Flat", 16, 1.0, [])
    set_effort(built.made.index.searcher, 1)
    assert measure_recall(built.made.index, scattered.matrix[::200, None], at=10) < 0.95
