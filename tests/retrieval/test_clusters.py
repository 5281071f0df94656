"""Clusters: planted blobs are found, zero vectors have none, and neither threads, batches nor parts of the index change them."""

import faiss
import numpy as np
import pytest

from retrieval.clusters import centre_index, clusters_of, directions, find_centres, num_clusters, sample_of
from retrieval.index_parts import StackedRows
from retrieval.vector_index import VectorIndex, unit
from tests.retrieval.small_world import flat_index

SIZES = (60, 8, 4)  # uneven: seeds drawn uniformly would often miss a small one


def blobs(seed, sizes=SIZES, dim=8):
    """(float32[n, D] tight and far apart, int[n] which blob)."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    middles = np.linalg.qr(rng.normal(size=(dim, dim)))[0][: len(sizes)]
    return unit((middles[which] + rng.normal(size=(len(which), dim)) * 1e-3).astype(np.float32)), which


def slow_clusters(centres, vectors_BKD):
    """Row by row: the mean of the unit vectors, its cosine with every centre in float64, rounded to float32; the first of the best."""
    found = []
    for vectors in vectors_BKD.astype(np.float64):
        lengths = np.linalg.norm(vectors, axis=1)
        mean = np.mean([v / n if n > 1e-6 else v * 0 for v, n in zip(vectors, lengths, strict=True)], axis=0)
        cosines = [np.float32(mean @ c / np.linalg.norm(mean)) for c in centres.astype(np.float64)] if np.linalg.norm(mean) > 1e-6 else []
        found.append(int(np.argmax(cosines)) if cosines else -1)
    return found


@pytest.mark.parametrize(
    ("num", "clusters"), [(1, 1), (2, 1), (3, 1), (63, 31), (64, 64), (4_096, 64), (10_000, 100), (1 << 20, 1024), (25_000_000, 1024)]
)
def test_the_square_root_within_bounds_and_half_of_few(num, clusters):
    assert num_clusters(num) == clusters


@pytest.mark.parametrize("seed", range(20))
def test_p6_2_three_far_apart_tight_blobs_are_found(seed):
    points, which = blobs(seed)
    centres = find_centres(points, 3, seed=seed)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)
    found = clusters_of(centre_index(centres), points[:, None])
    assert len(set(zip(which.tolist(), found.tolist(), strict=True))) == len(set(found.tolist())) == 3


def test_neither_another_run_nor_more_threads_change_the_centres():
    points = unit(np.random.default_rng(0).normal(size=(9_000, 16)).astype(np.float32))
    once = find_centres(points, 70)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        np.testing.assert_array_equal(find_centres(points, 70), once)
        assert faiss.omp_get_max_threads() == 2  # others get their threads back
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(("num_points", "clusters"), [(0, 1), (1, 1), (5, 2), (12, 6), (64, 64)])
def test_few_points_have_half_as_many_clusters(num_points, clusters, capfd):
    points = unit(np.random.default_rng(1).normal(size=(num_points, 4)).astype(np.float32))
    centres = find_centres(points, 64)
    assert centres.shape == (clusters, 4)
    assert np.isfinite(centres).all()
    assert capfd.readouterr() == ("", "")


def test_equal_points_are_one_cluster():
    points = np.tile(unit(np.array([[3.0, 4.0]], dtype=np.float32)), (40, 1))
    centres = find_centres(points, 20)
    assert np.isfinite(centres).all()
    assert len(set(clusters_of(centre_index(centres), points[:, None]).tolist())) == 1


@pytest.mark.parametrize("interests", [1, 3])
def test_clusters_equal_the_slow_twin_and_do_not_depend_on_the_rows_beside(interests):
    rng = np.random.default_rng(interests)
    vectors = rng.normal(size=(500, interests, 6)).astype(np.float32) * rng.uniform(0.1, 9, (500, interests, 1)).astype(np.float32)
    vectors[::50] = 0
    centres = centre_index(find_centres(directions(vectors[1:50]), 24))
    whole = clusters_of(centres, vectors)
    assert whole.dtype == np.int32
    assert whole.tolist() == slow_clusters(centres.vectors, vectors)
    assert (whole == -1).tolist() == [row % 50 == 0 for row in range(500)]
    for size in (1, 7, 499):
        parts = [clusters_of(centres, vectors[start : start + size]) for start in range(0, 500, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_ties_go_to_the_smaller_cluster():
    centres = centre_index(np.array([[0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.float32))
    assert clusters_of(centres, np.array([[[2, 0]], [[0, 1]], [[1, 1]]], dtype=np.float32)).tolist() == [1, 0, 0]


def test_of_several_interests_the_mean_direction_counts_whatever_their_order_and_length():
    centres = centre_index(np.eye(2, dtype=np.float32))
    mostly_second = np.array([[[100, 0], [0, 1], [0, 1]], [[0, 1], [0, 1], [100, 0]]], dtype=np.float32)
    assert clusters_of(centres, mostly_second).tolist() == [1, 1]
    cancelling = np.array([[[1, 2], [-2, -4]], [[0, 0], [3, 0]], [[1e-7, 0], [1e-8, 0]]], dtype=np.float32)
    assert clusters_of(centres, cancelling).tolist() == [-1, 0, -1]


def test_the_sample_is_by_hash_without_zero_vectors_and_the_same_from_an_index_in_parts():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(20_000, 3)).astype(np.float32)
    vectors[::10] = 0
    whole = flat_index(np.arange(1, 20_001) * 2, vectors)
    sample = sample_of(whole)
    assert len(sample) == 18_000  # 141 clusters would take 36,096
    parts = StackedRows([whole.vectors[:77], whole.vectors[77:]])
    np.testing.assert_array_equal(sample_of(VectorIndex(None, whole.ids, parts, True)), sample)


def test_a_large_index_is_sampled_at_256_a_cluster(monkeypatch):
    monkeypatch.setattr("retrieval.clusters._POINTS", 4)
    users = np.random.default_rng(5).normal(size=(900, 2, 3)).astype(np.float32)
    index = flat_index(np.repeat(np.arange(900), 2), users.reshape(-1, 3))
    sample = sample_of(index)
    assert len(sample) == 4 * 64
    own = {row.tobytes() for row in directions(unit(users))}
    assert {row.tobytes() for row in sample} <= own  # rows of one user stay together
