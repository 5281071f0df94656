"""Exact search with a fixed order of ties, and index files as a Python worker holds them."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark import TaskContext

from conf.files import hash_file, open_root
from retrieval import worker
from retrieval.index_inputs import Vectors
from retrieval.index_measure import make
from retrieval.index_shards import write_part
from retrieval.vector_index import IndexFiles, VectorIndex, unit
from tests.retrieval.small_world import flat_index, lists_of


def brute_force(index, queries_QKD, num):
    """Every score in float64, rounded to float32; best first, ties by smaller id; an id scores its best row and query vector."""
    result = []
    for query in unit(queries_QKD) if index.is_unit else queries_QKD:
        scores = (query.astype(np.float64) @ index.vectors.astype(np.float64).T).max(axis=0)
        best: dict[int, float] = {}
        for i, score in zip(index.ids.tolist(), np.clip(scores, -1, 1) if index.is_unit else scores, strict=True):
            best[i] = max(best.get(i, -np.inf), float(np.float32(score)))
        result.append(sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:num])
    return result


@pytest.mark.parametrize("num_queries", [1, 30])  # FAISS takes another path, with another order of addition, from 20 queries on
@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("num", [1, 10, 57, 400, 1000])
def test_p7_6_flat_index_equals_brute_force_with_the_tie_rule(num_queries, is_unit, num):
    rng = np.random.default_rng(num)
    vectors = rng.integers(-1, 2, (400, 5)).astype(np.float32)  # 243 different vectors at most: ties everywhere
    index = flat_index(np.sort(rng.choice(10_000, 400, replace=False)), vectors, is_unit=is_unit)
    queries = rng.integers(-1, 2, (num_queries, 1, 5)).astype(np.float32)
    assert lists_of(index.nearest(queries, num)) == brute_force(index, queries, num)


def test_twin_vectors_are_ordered_by_id_although_faiss_may_score_them_differently():
    """Equal vectors in different columns of a blocked product may differ in the last digit; here they must not."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(37, 48)).astype(np.float32)
    index = flat_index(np.arange(1, 37 * 9 + 1), np.tile(base, (9, 1)))
    queries = rng.normal(size=(64, 1, 48)).astype(np.float32)
    assert lists_of(index.nearest(queries, 20)) == brute_force(index, queries, 20)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_several_vectors_a_query_and_rows_an_id_give_the_best_pair(interests, rows_per_id, num, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (20 * rows_per_id, 4)).astype(np.float32)
    index = flat_index(np.repeat(np.arange(3, 23), rows_per_id), vectors)
    queries = rng.integers(-2, 3, (5, interests, 4)).astype(np.float32)
    assert lists_of(index.nearest(queries, num)) == brute_force(index, queries, num)


def test_each_query_may_ask_for_its_own_number_and_batch_equals_single():
    rng = np.random.default_rng(1)
    index = flat_index(np.arange(500), rng.normal(size=(500, 32)))
    queries, num = rng.normal(size=(40, 1, 32)).astype(np.float32), rng.integers(0, 520, 40)
    together = lists_of(index.nearest(queries, num))
    assert [len(one) for one in together] == np.minimum(num, 500).tolist()
    assert together == [lists_of(index.nearest(queries[q : q + 1], int(num[q])))[0] for q in range(40)]


def test_a_zero_vector_scores_0_on_both_sides():
    index = flat_index([4, 6, 9], np.array([[0, 0], [1, 0], [-1, 0]], dtype=np.float32))
    found = lists_of(index.nearest(np.array([[[2, 0]], [[0, 0]]], dtype=np.float32), 3))
    assert found == [[(6, 1.0), (4, 0.0), (9, -1.0)], [(4, 0.0), (6, 0.0), (9, 0.0)]]


def test_ids_minus_one_never_leak_and_short_answers_stay_short():
    """An IVF index that looks into one of 8 lists pads its answer with -1; nobody may see them."""
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=(200, 8)).astype(np.float32))
    searcher = faiss.index_factory(8, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    searcher.train(vectors)
    searcher.add(vectors)
    index = VectorIndex(searcher, np.arange(10, 210, dtype=np.int32), vectors, True)
    queries = rng.normal(size=(20, 1, 8)).astype(np.float32)
    assert (searcher.search(unit(queries)[:, 0], 100)[1] == -1).any()
    for one, exact in zip(lists_of(index.nearest(queries, 100)), brute_force(index, queries, 200), strict=True):
        assert 0 < len(one) < 100
        assert one == [pair for pair in exact if pair in one]  # a part of the truth, in its order


def test_rows_of_and_cosines_of_known_ids():
    index = flat_index([3, 3, 7], np.array([[1, 0], [0, 1], [3, 4]], dtype=np.float32), is_unit=False)
    assert index.rows_of(np.array([7, 3, 4, -1, 900], dtype=np.int32)).tolist() == [2, 0, -1, -1, -1]
    queries = np.array([[[5, 0], [0, 2]]], dtype=np.float32)
    cosines = index.cosines(queries, np.zeros(2, dtype=np.int64), np.array([3, 7], dtype=np.int32))
    np.testing.assert_allclose(cosines, [1.0, 0.8], atol=1e-7)


def test_an_empty_index_finds_nothing():
    index = flat_index([], np.empty((0, 3), dtype=np.float32))
    assert lists_of(index.nearest(np.ones((2, 1, 3), dtype=np.float32), 5)) == [[], []]
    assert index.rows_of(np.array([1], dtype=np.int32)).tolist() == [-1]


# ---- in a Python worker ----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """stored(factory) -> the files of an index of 400 vectors."""

    def write(factory):
        vectors = Vectors(np.arange(1, 401, dtype=np.int32), np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32))
        made = make("items", vectors, factory, is_unit=True).index
        names = write_part("items", made.searcher, made.ids, made.vectors, tmp_path)
        sha256 = {name: hash_file(*open_root(str(tmp_path / name)))[1] for name in names}
        return IndexFiles(str(tmp_path), "items", True, 4, sha256, ("items",))

    return write


def mapped_files():
    """Names of the files that are mapped into the memory of this process."""
    return {Path(line.split(maxsplit=5)[5].strip()) for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}


@pytest.mark.parametrize(("factory", "names"), [("Flat", ["items.faiss"]), ("IVF8,SQ8", ["items.faiss", "items_vectors.npy"])])
def test_rows_and_codes_stay_in_files_that_are_mapped(stored, factory, names):
    """Or each Python worker of a machine would hold a copy of its own."""
    files = stored(factory)
    places = {Path(files.folder) / name for name in names}
    assert not places & mapped_files()
    index = files.open()
    assert places <= mapped_files()
    assert isinstance(index.vectors, np.memmap) == ("items_vectors.npy" in names)


def test_an_index_is_opened_once_a_worker_and_anew_when_it_is_another(stored, monkeypatch):
    files, opened, whole = stored("Flat"), [], IndexFiles.open
    monkeypatch.setattr(worker, "_HELD", {})
    monkeypatch.setattr(IndexFiles, "open", lambda self: opened.append(self) or whole(self))
    assert files.held() is replace(files).held()  # as each task unpickles its own
    assert len(opened) == 1
    replace(files, effort=2).held()
    assert len(opened) == 2


def test_a_search_uses_as_many_threads_as_the_task_has_cores(stored, monkeypatch):
    before, files = faiss.omp_get_max_threads(), stored("Flat")
    try:
        for cores in (3, 1):
            monkeypatch.setattr(TaskContext, "get", lambda cores=cores: SimpleNamespace(cpus=lambda: cores))
            assert worker.task_cpus() == cores
            files.held()
            assert faiss.omp_get_max_threads() == cores
        monkeypatch.setattr(TaskContext, "get", lambda: None)
        assert worker.task_cpus() == len(os.sched_getaffinity(0))
    finally:
        faiss.omp_set_num_threads(before)
