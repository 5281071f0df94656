import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from conf import draws
from trainer.objectives.negatives import REDRAWS, contains, known_columns, shared_set, uniform_negatives
from trainer.randomness import Purpose


def slow_uniform(num_items: int, known: list[int], row: int, slot: int, seed: int, step: int) -> tuple[int, bool]:
    for attempt in range(REDRAWS + 1):
        item = 1 + int(draws.below(num_items, seed, step, int(Purpose.NEGATIVES), row, slot, attempt))
        if item not in known:
            return item, True
    return item, False


@given(seed=st.integers(0, 2**40), step=st.integers(0, 2**40), num_items=st.integers(1, 30))
def test_uniform_equals_the_slow_twin(seed: int, step: int, num_items: int) -> None:
    known = torch.from_numpy(draws.below(num_items + 1, 5, np.arange(6)[:, None], np.arange(8)))
    rows = torch.tensor([0, 7, 3, 1000, 2**20, 5])
    items, valid = uniform_negatives(num_items, known, rows, 4, seed=seed, step=step)
    for b, row in enumerate(rows.tolist()):
        for slot in range(4):
            want = slow_uniform(num_items, [i for i in known[b].tolist() if i], row, slot, seed, step)
            assert (int(items[b, slot]), bool(valid[b, slot])) == want


def test_uniform_when_all_is_known() -> None:
    _, valid = uniform_negatives(3, torch.tensor([[1, 2, 3], [0, 0, 1]]), torch.arange(2), 50, seed=1, step=1)
    assert not valid[0].any()
    assert valid[1].sum() > 45  # item 1 four times in a row: 1 in 81


def test_what_was_clicked_beside_is_drawn_again_too() -> None:
    known, rows = torch.tensor([[1, 2], [3, 0]]), torch.arange(2)
    also = torch.tensor([[4, 5], [6, 6]])
    items, valid = uniform_negatives(
        9, known, rows, 200, seed=1, step=1, clicked=lambda items_BM: (items_BM[:, :, None] == also[:, None]).any(2)
    )
    want, want_valid = uniform_negatives(9, torch.cat([known, also], dim=1), rows, 200, seed=1, step=1)
    assert torch.equal(items, want)
    assert torch.equal(valid, want_valid)
    assert valid.sum() > 300


def test_draws_do_not_depend_on_the_other_rows() -> None:
    known = torch.zeros(10, 1, dtype=torch.int64)
    whole, _ = uniform_negatives(100, known, torch.arange(10), 5, seed=1, step=2)
    part, _ = uniform_negatives(100, known[:2], torch.tensor([7, 4]), 5, seed=1, step=2)
    torch.testing.assert_close(part, whole[[7, 4]])
    other, _ = uniform_negatives(100, known, torch.arange(10), 5, seed=1, step=3)
    assert not torch.equal(other, whole)


def test_uniform_is_uniform() -> None:
    items, _ = uniform_negatives(10, torch.zeros(5000, 1, dtype=torch.int64), torch.arange(5000), 4, seed=1, step=1)
    counts = torch.bincount(items.flatten(), minlength=11)[1:].double()
    assert (((counts - 2000) ** 2) / 2000).sum() < 28  # 9 degrees of freedom: p = 1e-3 at 27.9
    assert len(counts) == 10


def test_shared_set() -> None:
    for num_items, num in ((1, 5), (7, 7), (7, 6), (1000, 20), (100, 99)):
        items = shared_set(num_items, num, seed=3, step=4)
        assert len(items) == len(set(items.tolist())) == min(num, num_items)
        assert items.min() >= 1
        assert items.max() <= num_items
    assert shared_set(10**6, 5, seed=3, step=4).tolist() == shared_set(10**6, 50, seed=3, step=4)[:5].tolist()
    assert shared_set(10**6, 5, seed=3, step=5).tolist() != shared_set(10**6, 5, seed=3, step=4).tolist()


def test_shared_set_is_uniform() -> None:
    counts = torch.zeros(11)
    for step in range(4000):
        counts += torch.bincount(shared_set(10, 3, seed=2, step=step), minlength=11)
    # each item with probability 3/10
    assert (((counts[1:] - 1200) ** 2) / 1200).sum() < 28


def test_contains() -> None:
    got = contains(torch.tensor([[0, 2, 5], [1, 1, 9]]), torch.tensor([[2, 3, 5, 9], [1, 2, 9, 10]]))
    assert got.tolist() == [[True, False, True, False], [True, False, True, False]]


@given(seed=st.integers(0, 10**6), num_rows=st.integers(0, 6), num_columns=st.integers(0, 12))
def test_known_columns_equals_comparing_all_with_all(seed: int, num_rows: int, num_columns: int) -> None:
    known = torch.from_numpy(draws.below(7, seed, np.arange(num_rows)[:, None], np.arange(5)))
    columns = torch.from_numpy(1 + draws.below(6, seed + 1, np.arange(num_columns)))
    want = (known[:, :, None] == columns).any(dim=1)
    assert torch.equal(known_columns(known, columns), want)
