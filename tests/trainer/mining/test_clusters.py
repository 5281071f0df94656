"""k-means++: seeds by squared distance, Lloyd's iterations on the sphere."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.backends.single import SingleBackend
from trainer.mining import clusters
from trainer.mining.clusters import closest, find_centres, lloyd, near_centres, num_clusters, seed_centres, updated
from trainer.shared import Shared


def shared() -> Shared:
    return Shared(SingleBackend(), lambda: None)


def blobs(*sizes: int, spread: float = 0.05, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(unit vectors around as many orthogonal directions, the number of the direction of each)."""
    generator = torch.Generator().manual_seed(seed)
    blob_n = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return F.normalize(torch.eye(dim)[blob_n] + spread * torch.randn(sum(sizes), dim, generator=generator), dim=1), blob_n


def test_p62_finds_three_tight_blobs_for_every_seed_where_random_seeding_does_not() -> None:
    points, blob = blobs(200, 30, 30, spread=0.005)
    random_fails = 0
    for seed in range(20):
        found, _ = closest(points, find_centres(points, 3, shared(), seed=seed))
        assert len({(int(b), int(c)) for b, c in zip(blob, found, strict=True)}) == 3
        generator = torch.Generator().manual_seed(seed)
        start = points[torch.randperm(len(points), generator=generator)[:3]]
        found, _ = closest(points, lloyd(points, start, shared())[0])
        random_fails += len({(int(b), int(c)) for b, c in zip(blob, found, strict=True)}) != 3
    assert random_fails > 5


def test_p63_the_objective_never_grows_and_centres_have_norm_one() -> None:
    points = F.normalize(torch.randn(400, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    centres, history = lloyd(points, points[:7], shared())
    assert len(history) > 3
    assert all(after <= before + 1e-9 for before, after in pairwise(history))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(7))


def test_seeds_are_drawn_by_squared_distance() -> None:
    # from the first point, distances to the others are 0 (itself), 2 - sqrt 2 and 2: the second seed is the far one 77 % of the time
    points = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), dim=1)
    second = [seed_centres(points, 2, seed=seed) for seed in range(600)]
    far = [torch.equal(chosen[1], points[2]) for chosen in second if torch.equal(chosen[0], points[0])]
    assert len(far) > 150
    assert sum(far) / len(far) == pytest.approx(2 / (2 + 2 - 2**0.5), abs=0.1)


def test_equal_points_are_seeded_uniformly_each_once() -> None:
    points = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    for seed in range(5):
        chosen = seed_centres(points, 5, seed=seed)
        assert chosen[:, 1].sum() == 1  # the one that differs, and so each of the four equal ones
    assert len(seed_centres(points, 1, seed=0)) == 1


def test_an_empty_cluster_takes_half_of_the_largest() -> None:
    points, _ = blobs(40, 10)
    centres = torch.stack([points[0], points[45], -points[0]])
    new = updated(points, centres, closest(points, centres)[0].long())
    assert new[0] @ new[2] > 0.99  # both stand where the largest was
    assert not torch.equal(new[0], new[2])
    assert sorted(torch.bincount(closest(points, lloyd(points, centres, shared())[0])[0].long(), minlength=3).tolist())[0] > 0


def test_a_cluster_without_a_direction_keeps_its_centre() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    centres = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    assert torch.equal(updated(points, centres, torch.tensor([0, 0, 1]))[0], centres[0])


@pytest.mark.parametrize(
    ("num", "asked", "cuda", "want"),
    [
        *((1, None, False, 1), (10, None, False, 5), (64, None, False, 64), (10_000, None, False, 100), (10**8, None, False, 1024)),
        *((10**8, None, True, 4096), (5, 3, False, 3), (2, 3, False, 1), (3, 2, False, 2)),
    ],
)
def test_number_of_clusters(num: int, asked: int | None, cuda: bool, want: int) -> None:
    assert num_clusters(num, asked, cuda=cuda) == want


def test_near_centres_are_the_closest_others() -> None:
    centres = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.2, 1.0]]), dim=1)
    assert near_centres(centres, 1).tolist() == [[1], [0], [3], [2]]
    assert near_centres(centres, 10).shape == (4, 3)
    assert near_centres(centres[:1], 10).shape == (1, 0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs(70, 50, 30, spread=0.4)
    want = find_centres(points, 5, shared(), seed=3)
    monkeypatch.setattr(clusters, "CHUNK", 16)
    torch.testing.assert_close(find_centres(points, 5, shared(), seed=3), want)
