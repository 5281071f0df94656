import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from conf import draws
from conf.fields import EMPTY, MASK, OOV, PAD, Field
from trainer.deferred import materialize_module
from trainer.encoders.layers import Table, dropout, history_ids, masked_ids
from trainer.randomness import words64

FIELDS = (Field("one", "item", "single"), Field("many", "item", "multi"))


def table(sparse: bool = False) -> Table:
    made = torch.nn.ModuleDict({"t": Table(20, 3, init=0.5, sparse=sparse).to("meta")})
    materialize_module(made, seed=1)
    inner = made["t"]
    assert isinstance(inner, Table)
    return inner


def test_pad_row_is_zero_for_good_and_mask_row_learns() -> None:
    t = table()
    assert t.weight[[PAD, MASK]].abs().max() == 0
    assert (t.weight[OOV:].abs().amax(dim=1) > 0).all()
    t(torch.tensor([PAD, MASK, OOV, EMPTY])).sum().backward()
    assert t.weight.grad is not None
    assert t.weight.grad[:5, 0].tolist() == [0, 1, 1, 1, 0]


def test_mean_skips_pad() -> None:
    t = table()
    got = t.mean(torch.tensor([[4, 6, 0], [0, 0, 0], [7, 7, 8]]))
    torch.testing.assert_close(got[0], (t.weight[4] + t.weight[6]) / 2)
    assert got[1].abs().max() == 0
    torch.testing.assert_close(got[2], (2 * t.weight[7] + t.weight[8]) / 3)


def test_sparse_and_dense_gradients_agree() -> None:
    dense, sparse = table(), table(sparse=True)
    ids = torch.tensor([[4, 6, 0], [6, 6, 1]], dtype=torch.int32)
    for t in (dense, sparse):
        (t.mean(ids) * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert sparse.weight.grad is not None
    assert sparse.weight.grad.is_sparse
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@given(seed=st.integers(0, 10**6), num_rows=st.integers(0, 5), length=st.integers(1, 7))
def test_sums_of_rows_equal_looking_all_up(seed: int, num_rows: int, length: int) -> None:
    ids = torch.from_numpy(draws.below(9, seed, np.arange(num_rows)[:, None], np.arange(length)))
    ids = ids.masked_fill(ids < 4, PAD)  # among others rows of PAD alone
    weight = torch.rand(num_rows, 3, generator=torch.Generator().manual_seed(seed))
    fast, slow = table(sparse=True), table(sparse=True)
    total = fast.total(ids)
    want = slow(ids).sum(dim=1)
    torch.testing.assert_close(total, want)
    for made in (total, want):
        (made * weight).sum().backward()
    assert fast.weight.grad is not None
    assert slow.weight.grad is not None
    assert fast.weight.grad._indices()[0].tolist() == ids[ids != PAD].unique().tolist()
    torch.testing.assert_close(fast.weight.grad.to_dense(), slow.weight.grad.to_dense())


def test_masked_ids() -> None:
    ids = {"one": torch.tensor([4, 5, 2, 7]), "many": torch.tensor([[4, 5], [6, 0], [0, 0], [0, 0]])}
    clean = masked_ids(FIELDS, ids, None)
    assert clean["one"].tolist() == [4, 5, 2, 7]
    assert clean["many"].tolist() == [[4, 5], [6, 0], [OOV, 0], [OOV, 0]]  # no value = OOV
    # bit 0 = "one", bit 1 = "many"
    masked = masked_ids(FIELDS, ids, torch.tensor([0b01, 0b10, 0b11, 0b00]))
    assert masked["one"].tolist() == [MASK, 5, MASK, 7]
    assert masked["many"].tolist() == [[4, 5], [MASK, 0], [MASK, 0], [OOV, 0]]


def test_history_ids() -> None:
    item_ids = torch.tensor([[4, 5, 6, 0], [7, 0, 0, 0], [0, 0, 0, 0], [8, 9, 10, 11]])
    length = torch.tensor([3, 1, 0, 4])
    assert history_ids(item_ids, length, None).tolist() == [[4, 5, 6, 0], [7, 0, 0, 0], [EMPTY, 0, 0, 0], [8, 9, 10, 11]]
    # all bits set: only the most recent stays; an empty history stays EMPTY
    assert history_ids(item_ids, length, torch.full((4,), 0b1111)).tolist() == [[0, 0, 6, 0], [7, 0, 0, 0], [EMPTY, 0, 0, 0], [0, 0, 0, 11]]
    assert history_ids(item_ids, length, torch.tensor([0b010, 0, 1, 0b0101])).tolist()[0::3] == [[4, 0, 6, 0], [0, 9, 0, 11]]


def test_empty_batches() -> None:
    assert history_ids(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), None).shape == (0, 4)
    ids = {"one": torch.zeros(0, dtype=torch.int64), "many": torch.zeros(0, 2, dtype=torch.int64)}
    assert masked_ids(FIELDS, ids, torch.zeros(0, dtype=torch.int64))["many"].shape == (0, 2)


def test_dropout_keeps_the_mean_and_needs_noise() -> None:
    x = torch.ones(500, 64)
    assert dropout(x, 0.3, None) is x
    got = dropout(x, 0.3, words64(1, torch.arange(500)))
    assert abs(got.mean() - 1) < 0.02
    torch.testing.assert_close(got.unique(), torch.tensor([0, 1 / 0.7]), rtol=1e-4, atol=0)
    torch.testing.assert_close(dropout(x[:2], 0.3, words64(1, torch.tensor([17, 401]))), got[[17, 401]])
