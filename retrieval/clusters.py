"""Clusters of users and of items: k-means++ on the driver, on a sample of what an index holds; any row's cluster is its nearest centre.

Source: MIC (Lu et al. 2022) 3.3.2; Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding"; Dhillon and
Modha 2001, "Concept decompositions for large sparse text data using clustering" (spherical k-means).
"""

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from conf.draws import words64
from retrieval.ragged import F32, I32
from retrieval.vector_index import EPS, VectorIndex, unit

NO_CLUSTER = -1  # of a row without a direction
_POINTS = 256  # a cluster at most: what the centres are found on
_ITERATIONS = 20
_SEED = 24  # of the sample and of the first centres: any fixed number does


def num_clusters(num: int) -> int:
    """How many clusters for `num` users or items: sqrt(num), within 64 and 1024; of fewer than that, half as many as they are.

    1024 as for a training on CPU: the centres are found on the driver, by one thread.
    """
    wanted = min(max(round(num**0.5), 64), 1024)
    return wanted if num >= wanted else max(1, num // 2)


def directions(vectors_BKD: F32) -> F32:
    """float32[B, D]: the mean of the unit vectors of each row, at unit length; zero where they are zero or cancel out.

    Several interests count alike (decision): one user has one cluster, whichever interest comes first.
    """
    return _unit_or_zero(_unit_or_zero(vectors_BKD).mean(axis=1))


def _unit_or_zero(vectors: F32) -> F32:
    has_length = np.einsum("...d,...d->...", vectors, vectors, dtype=np.float64) >= EPS**2
    scaled: F32 = unit(vectors) * has_length[..., None]
    return scaled


def sample_of(index: VectorIndex) -> F32:
    """float32[n, D]: the directions of the users or items of an index, of 256 a cluster at most those whose ids have the smallest hashes.

    Those without a direction are left out. The same ids and vectors give the same sample, whatever the kind of index and its parts.
    """
    ids = np.unique(index.ids)
    chosen = np.argsort(words64(_SEED, ids), kind="stable")[: _POINTS * num_clusters(len(ids))]
    rows = index.rows_of(ids[np.sort(chosen)])[:, None] + np.arange(index.rows_per_id)
    points = directions(index.unit_vectors[rows])
    with_direction: F32 = points[points.any(axis=1)]
    return with_direction


def find_centres(points_nD: F32, num: int, *, seed: int = _SEED) -> F32:
    """float32[C, D], C = num or, of fewer points, half as many as they are: k-means++ seeds after 20 iterations of spherical k-means.

    points_nD: unit vectors. Without any, the one centre is zero. One thread does it, so that neither the number of cores nor another
    run changes anything; 262,144 points of 64 numbers and 1024 centres, the most there are, take it about 25 s.
    """
    num_points, dim = points_nD.shape
    if not num_points:
        return np.zeros((1, dim), dtype=np.float32)
    wanted = num if num_points >= num else max(1, num_points // 2)
    kmeans = faiss.Kmeans(
        dim,
        wanted,
        niter=_ITERATIONS,
        spherical=True,
        seed=seed,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1,  # fewer than 39 make FAISS warn on stderr
        max_points_per_centroid=num_points,  # it shall not draw a sample of its own
    )
    with threadpool_limits(limits=1):
        kmeans.train(points_nD)
    assert kmeans.centroids is not None
    return kmeans.centroids


def centre_index(centre_CD: F32) -> VectorIndex:
    """The centres to search: an exhaustive index, so that what it answers for a row depends on no other row."""
    searcher = faiss.IndexFlatIP(centre_CD.shape[1])
    searcher.add(centre_CD)
    return VectorIndex(searcher, np.arange(len(centre_CD), dtype=np.int32), centre_CD, is_unit=True)


def clusters_of(centres: VectorIndex, vectors_BKD: F32) -> I32:
    """int32[B]: the centre of highest cosine with the direction of each row, ties to the smaller; -1 for a row without one."""
    points = directions(vectors_BKD)
    clusters: I32 = np.where(points.any(axis=1), centres.nearest(points[:, None], 1).values, NO_CLUSTER).astype(np.int32)
    return clusters
