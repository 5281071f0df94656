"""The queue of what training made last."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.mining.recent import Recent
from trainer.mining.side import Drawn, Key

KEY = Key(1, 2, 3)


def vectors(num: int, interests: int = 1, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(num, interests, 4, generator=torch.Generator().manual_seed(seed)), dim=2)


def asked(queue: Recent, idx: Tensor, anchors: Tensor, num: int = 1, **given: float) -> Drawn:
    queue.hold(anchors.shape[1:])
    options = {"neighbours": 2, "min_similarity": -1.0, **given}

    def compare(rows: slice, queue_QKD: Tensor) -> Tensor:
        return anchors[rows, 0] @ queue_QKD[:, 0].float().T

    return queue.positives(idx, torch.arange(len(idx)), num, compare=compare, key=KEY, **options)  # type: ignore[arg-type]


def test_the_oldest_vectors_make_room() -> None:
    queue = Recent.empty(5)
    made = vectors(8)
    queue.remember(torch.tensor([1, 2, 3]), made[:3])
    assert queue.idx.tolist() == [1, 2, 3, 0, 0]
    queue.remember(torch.tensor([4, 5, 6]), made[3:6])
    assert queue.idx.tolist() == [6, 2, 3, 4, 5]
    torch.testing.assert_close(queue.vectors_of(torch.tensor([0, 4])), made[[5, 4]], atol=1e-3, rtol=1e-3)
    queue.remember(torch.arange(10, 17), vectors(7))  # more than there is room for: the last five
    assert sorted(queue.idx.tolist()) == [12, 13, 14, 15, 16]
    again = Recent.of(queue.state())
    assert (again.at, again.idx.tolist()) == (queue.at, queue.idx.tolist())
    assert torch.equal(again.vectors, queue.vectors)


def test_nearest_others_are_drawn() -> None:
    queue, made = Recent.empty(6), vectors(6)
    queue.remember(torch.arange(1, 7), made)
    anchors, idx = made[:3] + 0.01, torch.tensor([1, 2, 99])
    drawn = asked(queue, idx, anchors, 2)
    cosine = anchors[:, 0] @ made[:, 0].T
    cosine[0, 0] = cosine[1, 1] = -9  # never oneself
    for row in range(3):
        best = cosine[row].topk(2).indices + 1
        assert sorted(drawn.idx_BM[row].tolist()) == sorted(best.tolist())
    assert drawn.valid_BM.all()
    assert not asked(queue, idx, anchors, min_similarity=1.1).valid_BM.any()


def test_an_entity_in_several_places_is_drawn_once() -> None:
    queue = Recent.empty(4)
    queue.remember(torch.tensor([7, 7, 7]), vectors(1).expand(3, -1, -1))
    drawn = asked(queue, torch.tensor([1]), vectors(1), 2)
    assert drawn.valid_BM.sum() == 1


@pytest.mark.parametrize("num", [0, 3])
def test_an_empty_queue_gives_nothing(num: int) -> None:
    drawn = asked(Recent.empty(4), torch.arange(1, num + 1), vectors(num))
    assert drawn.valid_BM.shape == (num, 1)
    assert not drawn.valid_BM.any()
    assert Recent.empty(4).state()["vectors"].shape == (4, 0, 0)
