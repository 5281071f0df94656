"""Counter-based draws: known values of splitmix64, a twin in Python's own integers, and statistics."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.draws import below, mix, permutation, seed_of, u01, words64

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)


def twin_mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def twin(seed: int, *words: int) -> int:
    x = seed % 2**64
    for word in words:
        x = twin_mix(x ^ (word * 0x9E3779B97F4A7C15) % 2**64)
    return x


def test_mix_gives_the_published_splitmix64_sequence():
    """The first outputs of splitmix64 with seed 1234567, as listed on Rosetta Code."""
    state, outputs = 1234567, []
    for _ in range(5):
        outputs.append(int(mix(np.uint64(state))))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_chain_values_never_change():
    """Stored masks and samples depend on these: a change of the generator must be seen."""
    assert [int(words64(1, 2, 3)), int(words64(7, 0))] == [twin(1, 2, 3), twin(7, 0)]
    assert [f"{int(words64(1, 2, 3)):016x}", f"{int(words64(7, 0)):016x}"] == ["8e87b5a1647dbbff", "63cbe1e459320dd7"]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(-(2**70), 2**70), words=st.lists(st.one_of(U64, I64), max_size=4))
def test_equals_the_twin_in_python_integers(seed, words):
    assert int(words64(seed, *words)) == twin(seed, *words)
    assert float(u01(seed, *words)) == (twin(seed, *words) >> 11) * 2.0**-53


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint32", "uint64"])
def test_the_type_of_a_word_does_not_matter(dtype):
    assert np.array_equal(words64(3, np.arange(100, dtype=dtype), 5), words64(3, np.arange(100), 5))


def test_negative_words_wrap():
    assert int(words64(3, np.int32(-1))) == int(words64(3, -1)) == int(words64(3, 2**64 - 1))


def test_words_broadcast_like_numpy_and_one_by_one_is_the_same():
    rows, columns = np.arange(5)[:, None], np.arange(7)
    table = u01(9, rows, 4, columns)
    assert table.shape == (5, 7)
    assert all(table[i, j] == u01(9, i, 4, j) for i in range(5) for j in range(7))


def test_uniform_by_chi_square_and_uncorrelated_between_neighbours():
    draws = u01(11, np.arange(200_000))
    counts = np.bincount((draws * 256).astype(int), minlength=256)
    expected = len(draws) / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 165 < chi_square < 360  # 255 degrees of freedom: 255 +- 4.6 sigma
    assert draws.min() >= 0
    assert draws.max() < 1
    for other in (u01(11, np.arange(1, 200_001)), u01(12, np.arange(200_000)), u01(11, np.arange(200_000), 0)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.011  # 5 sigma


def test_order_of_words_matters():
    assert u01(1, 2, 3) != u01(1, 3, 2)


@settings(max_examples=100, deadline=None)
@given(bound=st.integers(1, 2**53), seed=U64)
def test_below_stays_below(bound, seed):
    draws = below(bound, seed, np.arange(50))
    assert draws.dtype == np.int64
    assert draws.min() >= 0
    assert draws.max() < bound


def test_below_reaches_every_value_evenly():
    counts = np.bincount(below(7, 5, np.arange(70_000)), minlength=7)
    assert np.abs(counts - 10_000).max() < 500  # 5 sigma


@pytest.mark.parametrize("num", [0, 1, 2, 10, 1000])
def test_permutation_holds_each_number_once_and_depends_on_seed_and_words(num):
    order = permutation(num, 3, 1)
    assert sorted(order) == list(range(num))
    assert np.array_equal(order, permutation(num, 3, 1))
    if num == 1000:
        assert not np.array_equal(order, permutation(num, 3, 2))
        assert not np.array_equal(order, permutation(num, 4, 1))


def test_every_order_of_three_is_as_likely():
    orders = [tuple(permutation(3, 8, epoch)) for epoch in range(6_000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts) < 150  # 5 sigma


def test_seed_of_a_name_is_the_same_everywhere():
    expected = int.from_bytes(hashlib.sha256(b"tower.weight").digest()[:8], "little") >> 1
    assert seed_of("tower.weight") == expected < 2**63
    assert seed_of("tower.weight") != seed_of("tower.bias")
