"""Near users and items: self left out, twins kept, several vectors a user compared as sets."""

import numpy as np
import pyarrow as pa
import pytest

from retrieval.clusters import find_centres
from retrieval.ragged import Ragged
from retrieval.search import make_search
from retrieval.similarity import make_user_search, near_items, near_users, set_similarity
from tests.retrieval.small_world import cosine, flat_index, top_of
from tests.retrieval.test_clusters import slow_clusters


def slow_set_similarity(a, b):
    forward = np.mean([max(cosine(x, y) for y in b) for x in a])
    backward = np.mean([max(cosine(x, y) for x in a) for y in b])
    return (forward + backward) / 2


def batch(idx, vectors):
    return pa.RecordBatch.from_arrays(
        [pa.array(idx, pa.int32()), pa.array(vectors.reshape(len(idx), -1).tolist(), pa.list_(pa.float32()))], names=["idx", "vector"]
    )


def result(batches):
    found = pa.Table.from_batches(batches)
    return {
        i: list(zip(n, s, strict=True))
        for i, n, s in zip(*(found[name].to_pylist() for name in ("idx", "neighbours", "similarities")), strict=True)
    }


def test_twins_stay_and_self_goes_by_id():
    vectors = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (4, 1))
    index = flat_index([1, 2, 3, 4], vectors)
    found = result(make_user_search(lambda: index, top_k=3, interests=1)([batch([2, 9], vectors[:2])]))
    assert found == {2: [(1, 1.0), (3, 1.0), (4, 1.0)], 9: [(1, 1.0), (2, 1.0), (3, 1.0)]}


@pytest.mark.parametrize("interests", [2, 3, 4])
def test_set_similarity_equals_its_formula_is_symmetric_and_blind_to_order(interests):
    rng = np.random.default_rng(interests)
    users = rng.normal(size=(8, interests, 5)).astype(np.float32)
    index = flat_index(np.repeat(np.arange(8), interests), users.reshape(-1, 5))
    everyone = Ragged.of([list(range(8))] * 8)
    found = set_similarity(index, users, everyone).reshape(8, 8)
    expected = [[slow_set_similarity(a, b) for b in users] for a in users]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found, found.T, atol=1e-7)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    np.testing.assert_allclose(set_similarity(index, users[:, ::-1], everyone).reshape(8, 8), found, atol=1e-7)


def test_several_interests_rank_users_by_set_similarity():
    rng = np.random.default_rng(0)
    users = rng.normal(size=(30, 2, 4)).astype(np.float32)
    index = flat_index(np.repeat(np.arange(1, 31), 2), users.reshape(-1, 4))
    found = result(make_user_search(lambda: index, top_k=29, interests=2)([batch(np.arange(1, 31), users)]))
    for user, neighbours in found.items():
        wanted = top_of({u + 1: slow_set_similarity(users[user - 1], users[u]) for u in range(30) if u != user - 1}, 29)
        assert [u for u, _ in neighbours] == [u for u, _ in wanted]
        np.testing.assert_allclose([s for _, s in neighbours], [s for _, s in wanted], atol=1e-6)


@pytest.mark.parametrize("interests", [2, 3])
def test_p4_7_copies_of_one_vector_find_the_same_users_as_one(interests):
    rng = np.random.default_rng(1)
    users = rng.normal(size=(50, 6)).astype(np.float32)
    single = flat_index(np.arange(1, 51), users)
    copied = np.repeat(users[:, None], interests, axis=1)
    several = flat_index(np.repeat(np.arange(1, 51), interests), copied.reshape(-1, 6))
    one = result(make_search(lambda: single, top_k=7, exclude_self=True)([batch(np.arange(1, 51), users)]))
    many = result(make_user_search(lambda: several, top_k=7, interests=interests)([batch(np.arange(1, 51), copied)]))
    assert {u: [i for i, _ in found] for u, found in many.items()} == {u: [i for i, _ in found] for u, found in one.items()}
    for user in one:
        np.testing.assert_allclose([s for _, s in many[user]], [s for _, s in one[user]], atol=1e-6)


def test_in_spark_vectors_of_a_user_are_gathered_in_order_of_interest(spark):
    rng = np.random.default_rng(2)
    users = rng.normal(size=(12, 3, 4)).astype(np.float32)
    index = flat_index(np.repeat(np.arange(1, 13), 3), users.reshape(-1, 4))
    rows = [(u + 1, k, users[u, k].tolist()) for u in range(12) for k in (2, 0, 1)]
    df = spark.createDataFrame(rows, "idx int, interest tinyint, vector array<float>").repartition(3)
    made = near_users(df, lambda: _pickled(index.ids, index.vectors), num=4, interests=3).collect()
    wanted = result(make_user_search(lambda: index, top_k=4, interests=3)([batch(np.arange(1, 13), users)]))
    assert {r.idx: list(zip(r.neighbours, r.similarities, strict=True)) for r in made} == wanted


def test_in_spark_items_that_are_not_in_the_index_are_asked_for_and_never_found(spark):
    vectors = np.eye(4, dtype=np.float32)
    rows = [(i + 1, 0, vectors[i].tolist()) for i in (1, 3)]
    items = spark.createDataFrame(rows, "idx int, interest tinyint, vector array<float>")
    made = near_items(items, lambda: _pickled(np.array([1, 3]), vectors[[0, 2]]), num=5).orderBy("idx").collect()
    assert [(r.idx, r.neighbours, r.similarities) for r in made] == [(2, [1, 3], [0.0, 0.0]), (4, [1, 3], [0.0, 0.0])]


@pytest.mark.parametrize("interests", [1, 2])
def test_with_centres_every_row_has_its_cluster_however_rows_are_batched(spark, interests):
    rng = np.random.default_rng(5)
    users = rng.normal(size=(40, interests, 4)).astype(np.float32)
    users[7] = 0
    index = flat_index(np.repeat(np.arange(1, 41), interests), users.reshape(-1, 4))
    centres = find_centres(np.ascontiguousarray(index.vectors[:30]), 6)
    search = make_user_search(lambda: index, top_k=3, interests=interests, centres=centres)
    plain = result(make_user_search(lambda: index, top_k=3, interests=interests)([batch(np.arange(1, 41), users)]))
    wanted = dict(zip(range(1, 41), slow_clusters(centres, users), strict=True))
    assert wanted[8] == -1
    for size in (40, 11, 1):
        found = list(search(batch(np.arange(a + 1, min(a + size, 40) + 1), users[a : a + size]) for a in range(0, 40, size)))
        assert result(found) == plain
        assert {i: c for part in found for i, c in zip(part["idx"].to_pylist(), part["cluster"].to_pylist(), strict=True)} == wanted
    rows = [(u + 1, k, users[u, k].tolist()) for u in range(40) for k in range(interests)]
    for partitions in (1, 64):
        df = spark.createDataFrame(rows, "idx int, interest tinyint, vector array<float>").repartition(partitions)
        made = near_users(df, lambda: _pickled(index.ids, index.vectors), num=3, interests=interests, centres=centres)
        assert {row.idx: row.cluster for row in made.collect()} == wanted


def _pickled(ids, vectors):
    """A FAISS index cannot be pickled: made in the worker."""
    return flat_index(ids, vectors)
