import numpy as np
import pyarrow as pa
import pytest
import torch

from conf.errors import BadDataError
from tests.trainer import tiny
from trainer.randomness import u01
from trainer.related import Related


def pairs(rows: list[tuple[int, int, float]]) -> pa.Table:
    types = {"item_i": pa.int32(), "item_j": pa.int32(), "weight": pa.float32()}
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(types.items(), columns, strict=True)})


@pytest.mark.parametrize(("weights", "shares"), [((3.0, 1.0), (0.75, 0.25)), ((3.0, 2.0), (0.6, 0.4)), ((1.0, 0.0), (1.0, 0.0))])
def test_positives_are_drawn_by_weight(weights: tuple[float, float], shares: tuple[float, float]) -> None:
    # property P2.4
    found = Related.of_pairs(pairs([(2, 5, weights[0]), (2, 7, weights[1]), (3, 2, 9.0)]), 8, weighted=True)
    num = 100_000
    drawn, there = found.draw(torch.full((num,), 2), u01(4, torch.arange(num)))
    assert there.all()
    got = [int((drawn == item).sum()) for item in (5, 7)]
    assert sum(got) == num
    for count, share in zip(got, shares, strict=True):
        sigma = (num * share * (1 - share)) ** 0.5
        assert abs(count - num * share) <= 4 * sigma


def test_equal_ones_are_drawn_alike() -> None:
    found = tiny.related()["sem_nn"]
    drawn, there = found.draw(torch.full((90_000,), 1), u01(5, torch.arange(90_000)))
    assert there.all()
    counts = torch.bincount(drawn)
    assert counts.nonzero()[:, 0].tolist() == [2, 3]
    assert abs(int(counts[2]) - 45_000) < 600


def test_nothing_is_drawn_where_nothing_goes_with_an_item() -> None:
    drawn, there = tiny.related()["cooc"].draw(torch.tensor([7, 4, 9]), torch.tensor([0.5, 0.999999, 0.0], dtype=torch.float64))
    assert drawn.tolist() == [0, 5, 0]
    assert there.tolist() == [False, True, False]


def test_contains_equals_looking_it_up() -> None:
    rng = np.random.default_rng(3)
    rows = sorted({(int(i), int(j)) for i, j in rng.integers(1, 41, (300, 2)) if i != j})
    shuffled = [(*rows[n], 1.0) for n in rng.permutation(len(rows))]
    found = Related.of_pairs(pairs(shuffled), 40, weighted=False)
    items, others = torch.arange(1, 41), torch.arange(1, 41).expand(40, 40)
    want = [[(i, j) in set(rows) for j in range(1, 41)] for i in range(1, 41)]
    assert found.contains(items, others).tolist() == want
    assert found.count(items).tolist() == [sum(row) for row in want]


def test_of_lists_holds_the_pairs_of_the_lists() -> None:
    found = tiny.related()["sem_nn"]
    assert found.count(torch.arange(1, 10)).tolist() == [2, 1, 1, 1, 2, 0, 0, 0, 0]
    assert found.contains(torch.tensor([5]), torch.tensor([[4, 8, 5]])).tolist() == [[True, True, False]]


def test_of_users_holds_their_items() -> None:
    table = pa.table({"user_idx": [3, 1], "items": [[9, 2, 9], []]})
    found = Related.of_users(table, 4, 9)
    users, items = torch.arange(1, 5), torch.arange(1, 10).expand(4, 9)
    assert found.contains(users, items).nonzero().tolist() == [[2, 1], [2, 8]]
    with pytest.raises(BadDataError, match="item_i holds 3 to 3"):
        Related.of_users(table, 2, 9)


def test_empty_table() -> None:
    found = Related.of_pairs(pairs([]), 4, weighted=True)
    assert not found.contains(torch.tensor([1, 4]), torch.tensor([[2, 3], [1, 2]])).any()
    drawn, there = found.draw(torch.tensor([1, 4]), torch.zeros(2, dtype=torch.float64))
    assert drawn.tolist() == [0, 0]
    assert not there.any()


def test_unknown_items_are_refused() -> None:
    with pytest.raises(BadDataError, match="item_j holds 2 to 9"):
        Related.of_pairs(pairs([(1, 9, 1.0), (1, 2, 1.0)]), 8, weighted=True)
