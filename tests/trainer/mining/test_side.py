"""What is drawn from the tables of a search."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conf.sections.training import Mining
from trainer.backends.single import SingleBackend
from trainer.mining.refresh import by_cluster, mine, sample
from trainer.mining.side import ARRAYS, Key, Side
from trainer.shared import Shared

KEY = Key(1, 2, 3)
ROWS = torch.arange


def shared() -> Shared:
    return Shared(SingleBackend(), lambda: None)


def three_blobs(interests: int = 1, per_blob: int = 20) -> tuple[Tensor, Tensor]:
    """(float[n, K, D] tight around three directions, the blob of each entity)."""
    generator = torch.Generator().manual_seed(4)
    blob = torch.arange(3 * per_blob) % 3
    centre = torch.eye(3)[blob][:, None].expand(-1, interests, -1)
    return 7 * centre + 0.3 * torch.randn(len(blob), interests, 3, generator=generator), blob


def mined(vectors: Tensor, idx: Tensor | None = None, most: int | None = None, **given: object) -> Side:
    ids = 10 + 2 * torch.arange(len(vectors)) if idx is None else idx
    settings = Mining.model_validate({"clusters": 3, **given})
    return mine(ids, lambda at: vectors[at], settings, shared(), seed=5, most=most)[0]


@pytest.mark.parametrize("interests", [1, 2])
def test_p61_a_search_excludes_the_entity_itself_and_sorts(interests: int) -> None:
    vectors, _ = three_blobs(interests)
    vectors[10] = vectors[40]  # twins
    side = mined(vectors)
    entity = side.neighbours // interests
    assert not (entity == torch.arange(60)[:, None, None]).any()
    assert (side.similarities.diff(dim=2) <= 0).all()
    assert entity[10, 0, 0] == 40
    assert entity[40, 0, 0] == 10


@pytest.mark.parametrize("how", ["near", "literal"])
@pytest.mark.parametrize("interests", [1, 2])
def test_p62_hard_negatives_never_come_from_the_anchors_blob(interests: int, how: str) -> None:
    vectors, blob = three_blobs(interests)
    side = mined(vectors)
    assert side.num_clusters == 3
    drawn = side.hard_negatives(side.anchors, ROWS(60), 8, how=how, key=KEY)  # type: ignore[arg-type]
    assert drawn.valid_BM.all()
    assert (blob[drawn.entity_BM] != blob[:, None]).all()
    assert torch.equal(drawn.idx_BM, side.anchors[drawn.entity_BM])
    assert len(torch.unique(blob[drawn.entity_BM])) == 3


def test_near_takes_the_closest_clusters_only() -> None:
    # four directions in a plane, so that each has one closest other
    angle = torch.tensor([0.0, 0.5, 3.0, 3.5])[torch.arange(40) % 4]
    vectors = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None]
    side = mined(vectors, clusters=4, near_clusters=1)
    near = side.hard_negatives(side.anchors, ROWS(40), 5, how="near", key=KEY)
    assert (near.entity_BM % 4 == torch.tensor([1, 0, 3, 2])[torch.arange(40) % 4, None]).all()
    literal = side.hard_negatives(side.anchors, ROWS(40), 5, how="literal", key=KEY)
    assert {int(b) for b in literal.entity_BM[::4].unique() % 4} == {1, 2, 3}


def test_positives_are_different_neighbours_similar_enough_and_of_the_same_cluster() -> None:
    vectors, blob = three_blobs()
    side = mined(vectors, neighbours=4)
    drawn = side.positives(side.anchors, ROWS(60), 3, min_similarity=0.5, key=KEY)
    assert drawn.valid_BM.all()
    assert (blob[drawn.entity_BM] == blob[:, None]).all()
    for at, row in enumerate(drawn.entity_BM.tolist()):
        assert len(set(row)) == 3
        assert set(row) <= set(side.neighbours[at, 0].tolist())
    assert not side.positives(side.anchors, ROWS(60), 1, min_similarity=1.1, key=KEY).valid_BM.any()
    # a neighbour that fell into another cluster might be drawn as a hard negative: it is no positive
    apart = Side.of(side.arrays() | {"clusters": side.clusters.clone()})
    apart.clusters[side.neighbours[0, 0].long()] = (side.clusters[0, 0] + 1) % 3
    assert not apart.positives(side.anchors[:1], ROWS(1), 1, min_similarity=0.5, key=KEY).valid_BM.any()


def test_an_entity_near_in_several_vectors_is_drawn_once() -> None:
    vectors = torch.ones(2, 3, 4)
    side = mined(vectors, idx=torch.tensor([3, 8]), clusters=1)
    drawn = side.positives(torch.tensor([3, 8]), ROWS(2), 5, min_similarity=0.5, key=KEY)
    assert drawn.valid_BM.sum(dim=1).tolist() == [1, 1]
    assert drawn.idx_BM[drawn.valid_BM].tolist() == [8, 3]


def test_neighbours_and_oneself_are_rejected_as_hard_negatives() -> None:
    # two clusters of two; the neighbours of each are all others, so that nobody is left to draw
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), dim=1)[:, None]
    side = mined(vectors, clusters=2, neighbours=3)
    assert not side.hard_negatives(side.anchors, ROWS(4), 6, how="near", key=KEY).valid_BM.any()
    fewer = mined(vectors, clusters=2, neighbours=1)
    assert fewer.hard_negatives(fewer.anchors, ROWS(4), 6, how="near", key=KEY).valid_BM.all()


def test_one_cluster_has_no_hard_negatives() -> None:
    side = mined(torch.ones(3, 1, 4) + torch.eye(3, 4)[:, None], clusters=5)
    assert side.num_clusters == 1
    assert not side.hard_negatives(side.anchors, ROWS(3), 2, how="near", key=KEY).valid_BM.any()


def test_zero_vectors_and_strangers_draw_nothing_and_are_not_drawn() -> None:
    vectors, _ = three_blobs()
    vectors[7] = 0
    side = mined(vectors)
    asked = torch.tensor([10 + 2 * 7, 11, 99])  # the zero vector; two that are not in the tables
    assert not side.positives(asked, ROWS(3), 2, min_similarity=-1, key=KEY).valid_BM.any()
    assert not side.hard_negatives(asked, ROWS(3), 2, how="near", key=KEY).valid_BM.any()
    assert not (side.members == 7).any()
    assert not (side.neighbours == 7).any()
    everyone = mined(torch.zeros(4, 1, 3))
    assert not everyone.hard_negatives(everyone.anchors, ROWS(4), 2, how="near", key=KEY).valid_BM.any()


def test_draws_are_keyed_by_global_row_and_step() -> None:
    vectors, _ = three_blobs()
    side = mined(vectors)
    whole = side.hard_negatives(side.anchors, ROWS(60), 4, how="near", key=KEY)
    part = side.hard_negatives(side.anchors[20:30], ROWS(60)[20:30], 4, how="near", key=KEY)
    assert torch.equal(whole.idx_BM[20:30], part.idx_BM)
    other = side.hard_negatives(side.anchors, ROWS(60), 4, how="near", key=Key(1, 3, 3))
    assert not torch.equal(whole.idx_BM, other.idx_BM)
    positives = side.positives(side.anchors, ROWS(60), 1, min_similarity=0, key=KEY)
    assert torch.equal(positives.idx_BM[5:9], side.positives(side.anchors[5:9], ROWS(60)[5:9], 1, min_similarity=0, key=KEY).idx_BM)


@pytest.mark.parametrize("interests", [1, 2])
def test_those_outside_the_sample_look_for_neighbours_in_it(interests: int) -> None:
    vectors, blob = three_blobs(interests)
    side = mined(vectors, most=30)
    assert torch.equal(side.bank, sample(side.anchors, 30))
    assert len(side.vectors) == 30
    places = side.bank[side.neighbours.long() // interests]
    assert (places != torch.arange(60)[:, None, None]).all()
    assert (blob[places] == blob[:, None, None]).all()
    assert torch.equal(side.clusters[side.bank].flatten(0, 1), side.clusters[side.bank].view(-1))
    hard = side.hard_negatives(side.anchors, ROWS(60), 4, how="near", key=KEY)
    assert hard.valid_BM.all()
    assert torch.isin(hard.idx_BM, side.anchors[side.bank]).all()
    assert (blob[side.bank[hard.entity_BM]] != blob[:, None]).all()
    torch.testing.assert_close(
        side.vectors_of(hard.entity_BM), F.normalize(vectors, dim=-1)[side.bank[hard.entity_BM]], atol=1e-3, rtol=1e-3
    )


def test_members_stand_by_cluster() -> None:
    members, offsets = by_cluster(torch.tensor([1, -1, 0, 1, 2], dtype=torch.int32), 3)
    assert members.tolist() == [2, 0, 3, 4]
    assert offsets.tolist() == [0, 1, 3, 4]


def test_the_search_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = three_blobs()
    want = mined(vectors)
    monkeypatch.setattr("trainer.mining.refresh.ROWS", 8)
    got = mined(vectors)
    for name in ARRAYS:
        torch.testing.assert_close(getattr(got, name), getattr(want, name))


@pytest.mark.parametrize("interests", [1, 2])
def test_the_share_with_a_positive_is_that_of_those_for_which_one_is_drawn(interests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.mining.refresh._MEASURED", 7)
    vectors, _ = three_blobs(interests)
    vectors[:9] = torch.eye(3).roll(1, 0).repeat(3, 1)[:, None] * torch.tensor([1.0, -1, 1])  # some that are far from all others
    given = Mining(clusters=3, neighbours=3, min_similarity=0.99)
    side, told = mine(torch.arange(1, 61), lambda at: vectors[at], given, shared(), seed=5)
    drawn = side.positives(side.anchors, ROWS(60), 1, min_similarity=0.99, key=KEY)
    assert told["with_positive"] == pytest.approx(float(drawn.valid_BM.float().mean()))
    assert told["similarity"] == pytest.approx(float(side.similarities[:, :, 0].mean()), abs=1e-6)
    assert (told["bank"], told["search_recall"]) == (60, 1)
