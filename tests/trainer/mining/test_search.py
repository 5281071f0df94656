"""Nearest neighbours: FAISS, the torch product and a slow twin agree."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.backends.single import SingleBackend
from trainer.mining import search
from trainer.mining.search import Faiss, Product, Search, build_search, unit
from trainer.shared import Shared


def shared() -> Shared:
    return Shared(SingleBackend(), lambda: None)


def bank(num: int, dim: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)), dim=1).half()


def by_faiss(vectors: Tensor, interests: int = 1) -> Search:
    pytest.importorskip("faiss")
    made, recall = build_search(vectors, interests, shared())
    assert isinstance(made, Faiss)
    assert recall == 1
    return made


WAYS = [Product, by_faiss]


@pytest.mark.parametrize("way", WAYS)
def test_equals_the_slow_twin(way: Callable[..., Search]) -> None:
    vectors = bank(60)
    rows, scores = way(vectors, 2)(unit(vectors), torch.arange(60) // 2, 5)
    exact = unit(vectors).numpy() @ unit(vectors).numpy().T  # float16 has changed the norms
    for q in range(60):
        others = [r for r in range(60) if r // 2 != q // 2]
        want = sorted(others, key=lambda r, q=q: -exact[q, r])[:5]
        assert rows[q].tolist() == want
        np.testing.assert_allclose(scores[q], exact[q, want], atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_p61_never_oneself_even_among_equal_vectors_and_best_first(way: Callable[..., Search]) -> None:
    vectors = torch.cat([bank(30)] * 3)  # each vector three times
    rows, scores = way(vectors)(vectors.float(), torch.arange(90), 6)
    assert not (rows == torch.arange(90)[:, None]).any()
    assert (scores.diff(dim=1) <= 0).all()
    twins = torch.arange(90)[:, None] % 30
    assert ((rows % 30 == twins).sum(dim=1) == 2).all()  # its two twins, and they come first
    assert (rows[:, :2] % 30 == twins).all()


@pytest.mark.parametrize("way", WAYS)
def test_too_few_vectors_zero_vectors_and_strangers(way: Callable[..., Search]) -> None:
    vectors = bank(4)
    vectors[2] = 0
    rows, scores = way(vectors)(vectors.float(), torch.arange(4), 3)
    assert [sorted(row) for row in rows.tolist()] == [[-1, 1, 3], [-1, 0, 3], [-1, -1, -1], [-1, 0, 1]]
    assert (scores[rows == -1] == 0).all()
    rows, _ = way(vectors)(vectors[:1].float(), torch.tensor([-1]), 3)  # one that has no row of its own
    assert rows[0, 0] == 0
    assert sorted(rows[0].tolist()) == [0, 1, 3]


def test_blocks_of_the_product_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = bank(50)
    want = Product(vectors)(vectors.float(), torch.arange(50), 7)
    monkeypatch.setattr(search, "_BLOCK", 6)
    got = Product(vectors)(vectors.float(), torch.arange(50), 7)
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1])


def test_without_faiss_the_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    assert isinstance(build_search(bank(5), 1, shared())[0], Product)


def test_many_vectors_are_searched_by_lists_that_find_most_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    monkeypatch.setattr(search, "NPROBE", 1)
    vectors = bank(1500, dim=6)
    made, recall = build_search(vectors, 1, shared())
    assert isinstance(made, Faiss)
    assert made.index.nlist == 155
    assert made.index.nprobe > 1  # one list finds too little, and was refused
    rows, _ = made(vectors.float(), torch.arange(1500), 10)
    exact, _ = Product(vectors)(vectors.float(), torch.arange(1500), 10)
    found = float((rows[:, :, None] == exact[:, None, :]).any(dim=2).float().mean())
    assert found == pytest.approx(recall, abs=0.02)
    assert recall >= 0.9


def test_equal_vectors_are_found_whichever_of_them_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    made, recall = build_search(bank(20).repeat(50, 1), 2, shared())  # by row, 0.82 are found, however many lists are searched
    assert isinstance(made, Faiss)
    assert recall == 1
    assert made.index.nprobe == search.NPROBE


def test_when_all_lists_are_searched_no_more_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "EXACT_ROWS", 100)
    monkeypatch.setattr(search, "MIN_RECALL", 1.1)  # out of reach
    made, recall = build_search(bank(400), 1, shared())
    assert isinstance(made, Faiss)
    assert made.index.nprobe == made.index.nlist
    assert recall == 1
