import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from conf import draws
from trainer import randomness
from trainer.encoders.layers import dropout

WORDS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@given(seed=st.integers(0, 2**64 - 1), first=WORDS, second=st.integers(0, 2**63 - 1))
def test_same_numbers_as_conf_draws(seed: int, first: list[int], second: int) -> None:
    words = np.array(first, dtype=np.int64)
    want = draws.words64(seed, words, second)
    got = randomness.words64(seed, torch.from_numpy(words), second)
    np.testing.assert_array_equal(got.numpy().view(np.uint64), want)
    np.testing.assert_array_equal(randomness.u01(seed, torch.from_numpy(words), second).numpy(), draws.u01(seed, words, second))
    for bound in (1, 2, 7, 10**6, 2**40):
        want_below = draws.below(bound, seed, words, second)
        np.testing.assert_array_equal(randomness.below(bound, seed, torch.from_numpy(words), second).numpy(), want_below)


def test_words_broadcast() -> None:
    rows, slots = torch.arange(3)[:, None], torch.arange(4)
    got = randomness.words64(1, rows, slots)
    assert got.shape == (3, 4)
    assert int(got[2, 1]) == int(randomness.words64(1, 2, 1))


def test_keep_mask_depends_on_the_row_only() -> None:
    noise = randomness.words64(3, torch.arange(50))
    whole = randomness.keep_mask(noise, 37, 0.3)
    torch.testing.assert_close(randomness.keep_mask(noise[[41, 7]], 37, 0.3), whole[[41, 7]])
    torch.testing.assert_close(randomness.keep_mask(noise, 20, 0.3), whole[:, :20])


def test_keep_mask_rate() -> None:  # P3.5: element dropout keeps what it promises to, within four sigma
    for drop in (0.0, 0.2, 0.5, 0.9):
        kept = randomness.keep_mask(randomness.words64(9, torch.arange(1000)), 64, drop).double().mean()
        sigma = (drop * (1 - drop) / 64_000) ** 0.5
        assert abs(kept - (1 - drop)) <= 4 * sigma + 1e-5


def test_dropout_of_nothing_is_the_original() -> None:  # P3.5
    x = torch.randn(20, 6)
    noise = randomness.words64(4, torch.arange(20))
    torch.testing.assert_close(dropout(x, 0.0, noise), x, rtol=0, atol=0)
    dropped = dropout(x, 0.5, noise)
    torch.testing.assert_close(dropped[dropped != 0], 2 * x[dropped != 0])  # what is kept is scaled
    assert 0 < (dropped == 0).sum() < 120


def test_fill_uniform_gives_a_shard_its_rows_of_the_whole() -> None:
    whole, shard = torch.empty(100, 7), torch.empty(30, 7)
    randomness.fill_uniform_(whole, 0.5, 3, "embed.item_id.weight")
    randomness.fill_uniform_(shard, 0.5, 3, "embed.item_id.weight", first_row=60)
    torch.testing.assert_close(shard, whole[60:90], rtol=0, atol=0)
    other = torch.empty(100, 7)
    randomness.fill_uniform_(other, 0.5, 3, "embed.user_id.weight")
    assert not torch.equal(other, whole)


def test_fill_uniform_is_uniform() -> None:
    tensor = torch.empty(2000, 51)
    randomness.fill_uniform_(tensor, 0.25, 3, "x")
    assert tensor.min() >= -0.25
    assert tensor.max() < 0.25
    assert abs(tensor.mean()) < 4 * 0.25 / 3**0.5 / tensor.numel() ** 0.5
    assert abs(tensor.std() - 0.25 / 3**0.5) < 1e-3
    counts = torch.histc(tensor, bins=16, min=-0.25, max=0.25)
    chi_square = ((counts - tensor.numel() / 16) ** 2 / (tensor.numel() / 16)).sum()
    assert chi_square < 45  # 15 degrees of freedom: p = 1e-4 at 44


def test_fill_uniform_spans_row_chunks() -> None:
    tensor, tail = torch.empty(65536 + 3, 2), torch.empty(3, 2)
    randomness.fill_uniform_(tensor, 1.0, 1, "x")
    randomness.fill_uniform_(tail, 1.0, 1, "x", first_row=65536)
    torch.testing.assert_close(tensor[65536:], tail, rtol=0, atol=0)
