"""What each user would be recommended: against a slow twin, and what is drawn of it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.test_shared import on_workers
from trainer.mining import recommended
from trainer.mining.queries import UserQueries
from trainer.mining.recommended import Recommended, recommend
from trainer.mining.search import unit
from trainer.mining.side import Key

KEY = Key(1, 2, 3)
USERS, ITEMS = 7, 30


def queries() -> UserQueries:
    # users 10, 20, ...; each has clicked three items, one of which the catalogue of mining does not have
    hist = torch.tensor([[2 * u + 1, 2 * u + 3, 999] for u in range(USERS)], dtype=torch.int32)
    return UserQueries(10 * torch.arange(1, USERS + 1), hist, torch.full((USERS,), 3, dtype=torch.int32), None)


def vectors(interests: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(USERS, interests, 5, generator=generator), torch.randn(ITEMS, 1, 5, generator=generator)


def made(interests: int = 1, ranks: tuple[int, int] = (3, 12), workers: int = 1) -> Recommended:
    users, items = vectors(interests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recommended, "USERS", 3)
        patch.setattr(recommended, "_BLOCK", 8)
        idx = 1 + 2 * torch.arange(ITEMS)  # items 1, 3, 5, ...
        found: list[Recommended] = on_workers(
            workers,
            lambda shared: recommend(queries(), idx, lambda at: users[at], lambda at: items[at], shared, first=ranks[0], last=ranks[1]),
        )
    for each in found:
        assert torch.equal(each.listed, found[0].listed)
    return found[0]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("interests", [1, 3])
def test_equals_the_slow_twin(interests: int, workers: int) -> None:
    users, items = (unit(x).numpy() for x in vectors(interests))
    found = made(interests, workers=workers)
    for user in range(USERS):
        score = (users[user] @ items[:, 0].T).max(axis=0)
        fresh = [i for i in range(ITEMS) if 1 + 2 * i not in queries().hist[user].tolist()]
        want = sorted(fresh, key=lambda i, score=score: -score[i])[2:12]
        assert found.listed[user].tolist() == want
        np.testing.assert_allclose(found.similarities[user], score[want], atol=2e-3)


def test_short_catalogues_leave_places_empty() -> None:
    found = made(ranks=(3, 40))
    assert (found.listed >= 0).sum(dim=1).tolist() == [ITEMS - 2 - 2] * USERS  # two clicked ones, and the first two ranks
    drawn = found.draw(queries().idx, torch.arange(USERS), torch.zeros(USERS, 1, dtype=torch.int64), 38, least=-1, key=KEY)
    assert drawn.valid_BM.sum(dim=1).tolist() == [ITEMS - 4] * USERS


def test_known_items_dissimilar_ones_and_strangers_are_not_drawn() -> None:
    found = made()
    asked, rows = queries().idx, torch.arange(USERS)
    none = torch.zeros(USERS, 1, dtype=torch.int64)
    free = found.draw(asked, rows, none, 4, least=-1, key=KEY)
    assert free.valid_BM.all()
    assert all(len(set(row)) == 4 for row in free.idx_BM.tolist())
    assert torch.equal(free.idx_BM, found.items[free.entity_BM])
    known = found.draw(asked, rows, found.items[found.listed.long()][:, :9], 4, least=-1, key=KEY)  # one of ten is left
    assert known.valid_BM.sum(dim=1).tolist() == [1] * USERS
    assert known.idx_BM.amax(dim=1).tolist() == found.items[found.listed[:, 9].long()].tolist()
    near = found.draw(asked, rows, none, 10, least=0.4, key=KEY)
    assert near.valid_BM.sum() == (found.similarities >= 0.4).sum()
    assert not found.draw(asked + 1, rows, none, 4, least=-1, key=KEY).valid_BM.any()
    there, liked = found.liked(asked, found.items[found.listed.long()][:, :9])
    assert there.all()
    assert liked.sum(dim=1).tolist() == [9] * USERS
    assert not torch.cat(found.liked(asked + 1, found.items[found.listed.long()])).any()
    part = found.draw(asked[2:4], rows[2:4], none[2:4], 4, least=-1, key=KEY)
    assert torch.equal(part.idx_BM, free.idx_BM[2:4])  # keyed by the global row
