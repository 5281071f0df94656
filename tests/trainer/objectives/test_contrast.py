"""InfoNCE: closed forms, a slow twin, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.objectives.contrast import ROWS, nce, nce_over, nce_rows, rest_of_product, rest_of_scores


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def yes(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def plain(pos: Tensor, neg: Tensor, **settings: float | bool) -> float:
    return float(nce(pos, yes(pos), neg, yes(neg), **settings))  # type: ignore[arg-type]


def test_closed_forms() -> None:
    # property P5.1
    assert plain(column(1), column(0), temperature=1) == pytest.approx(0.3132617, abs=1e-7)
    assert plain(column(1), column(0), temperature=0.1) == pytest.approx(4.53989e-5, abs=1e-9)
    assert plain(column(1), column(0), temperature=0.1, include_pos=False) == pytest.approx(-10)
    for num in (1, 2, 50):
        same = torch.full((3, num), 0.4, dtype=torch.float64)
        assert plain(same[:, :1], same, temperature=0.3) == pytest.approx(math.log(num + 1))


def slow(
    pos: Tensor, pos_valid: Tensor, neg: Tensor, neg_valid: Tensor, temperature: float, include_pos: bool
) -> tuple[list[float], list[bool]]:
    losses, counted = [], []
    for i in range(len(pos)):
        negatives = [math.exp(float(neg[i, m]) / temperature) for m in range(neg.shape[1]) if neg_valid[i, m]]
        terms = []
        for p in range(pos.shape[1]):
            if pos_valid[i, p] and (include_pos or negatives):
                e = math.exp(float(pos[i, p]) / temperature)
                terms.append(-math.log(e / (sum(negatives) + (e if include_pos else 0))))
        losses.append(sum(terms) / len(terms) if terms else 0.0)
        counted.append(bool(terms))
    return losses, counted


@given(seed=st.integers(0, 10**6), include_pos=st.booleans(), num_pos=st.integers(1, 4), num_neg=st.integers(0, 5))
def test_equals_the_slow_twin(seed: int, include_pos: bool, num_pos: int, num_neg: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pos, neg = (torch.rand(6, num, generator=generator, dtype=torch.float64) * 2 - 1 for num in (num_pos, num_neg))
    pos_valid, neg_valid = (torch.rand(6, num, generator=generator) < 0.6 for num in (num_pos, num_neg))
    want, want_counted = slow(pos, pos_valid, neg, neg_valid, 0.3, include_pos)
    got, counted = nce_rows(pos, pos_valid, neg, neg_valid, temperature=0.3, include_pos=include_pos)
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert counted.tolist() == want_counted
    mean = sum(want) / max(sum(want_counted), 1)
    assert float(nce(pos, pos_valid, neg, neg_valid, temperature=0.3, include_pos=include_pos)) == pytest.approx(mean)
    if include_pos:  # property P5.12
        assert (got >= 0).all()


def test_anchor_without_negatives() -> None:
    pos = column(0.7, 0.2).requires_grad_()
    neg = torch.tensor([[0.1], [0.3]], dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[False], [True]])
    loss, counted = nce_rows(pos, yes(pos), neg, valid, temperature=0.1)
    assert counted.tolist() == [True, True]
    assert loss[0] == 0
    loss.sum().backward()
    assert pos.grad is not None
    assert neg.grad is not None
    assert pos.grad[0] == 0
    assert neg.grad[0] == 0
    assert pos.grad[1] != 0
    _, counted = nce_rows(pos, yes(pos), neg, valid, temperature=0.1, include_pos=False)
    assert counted.tolist() == [False, True]


@pytest.mark.parametrize("include_pos", [True, False])
def test_nothing_counts(include_pos: bool) -> None:
    pos, neg = column(0.7, 0.2).requires_grad_(), torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss = nce(pos, ~yes(pos), neg, ~yes(neg), temperature=0.1, include_pos=include_pos)
    assert loss == 0
    loss.backward()  # still joined to the graph
    assert pos.grad is not None
    assert neg.grad is not None
    assert pos.grad.abs().max() == neg.grad.abs().max() == 0


def test_invalid_entries_never_matter() -> None:
    pos, neg = column(0.7, 0.2), torch.tensor([[0.1, 1e30], [0.3, torch.nan]], dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, False], [True, False]])
    loss = nce(pos, yes(pos), neg, valid, temperature=0.1)
    assert loss.item() == pytest.approx(plain(pos, neg[:, :1].detach(), temperature=0.1))
    loss.backward()
    assert neg.grad is not None
    assert neg.grad[:, 1].abs().max() == 0
    assert neg.grad.isfinite().all()


@pytest.mark.parametrize("include_pos", [True, False])
def test_gradients_by_finite_differences(include_pos: bool) -> None:
    # property P5.13; row 1 has no valid negative, row 2 no valid positive
    generator = torch.Generator().manual_seed(3)
    pos, neg = (torch.randn(4, num, generator=generator, dtype=torch.float64, requires_grad=True) for num in (2, 5))
    pos_valid = torch.tensor([[True, True], [True, True], [False, False], [True, False]])
    neg_valid = torch.rand(4, 5, generator=generator) < 0.7
    neg_valid[1] = False
    assert torch.autograd.gradcheck(lambda p, n: nce(p, pos_valid, n, neg_valid, temperature=0.3, include_pos=include_pos), (pos, neg))


def test_extreme_logits_stay_finite() -> None:
    pos, neg = column(-1, 1).float().requires_grad_(), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss, _ = nce_rows(pos, yes(pos), neg, yes(neg), temperature=0.02)
    torch.testing.assert_close(loss, torch.tensor([100.0, 0.0]))
    loss.sum().backward()
    assert pos.grad is not None
    assert pos.grad.isfinite().all()


def test_nan_passes_through_for_the_loop_to_see() -> None:
    pos = column(torch.nan)
    assert math.isnan(plain(pos, column(0), temperature=1))


def test_faults() -> None:
    pos = column(1, 2)
    with pytest.raises(ValueError, match="temperature must be positive"):
        nce(pos, yes(pos), pos, yes(pos), temperature=0)
    with pytest.raises(ValueError, match="shapes disagree"):
        nce(pos, yes(pos), pos, yes(pos)[:1])


@given(seed=st.integers(0, 10**6), num_rows=st.integers(0, 5), num_columns=st.integers(0, 7))
def test_product_equals_scores(seed: int, num_rows: int, num_columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchor, column_ = (torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (num_rows, num_columns))
    valid = torch.rand(num_rows, num_columns, generator=generator) < 0.5
    weight = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    results = []
    extra = torch.randn(num_columns, generator=generator, dtype=torch.float64)
    for rest in (rest_of_scores(anchor @ column_.T + extra, valid), rest_of_product(anchor, column_, valid, extra)):
        finite = rest > -torch.inf
        gradients = torch.autograd.grad((rest[finite] * weight[finite]).sum(), (anchor, column_), allow_unused=True)
        results.append((rest, *(torch.zeros(1) if g is None or not g.any() else g for g in gradients)))
    torch.testing.assert_close(results[0], results[1])


def test_product_spans_row_chunks() -> None:
    anchor, column_ = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (2 * ROWS + 3, 5))
    valid = torch.ones(len(anchor), 5, dtype=torch.bool)
    torch.testing.assert_close(rest_of_product(anchor, column_, valid), rest_of_scores(anchor @ column_.T, valid))


def test_product_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    anchor, column_ = (torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 6))
    valid = torch.rand(4, 6, generator=generator) < 0.7
    pos = torch.randn(4, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    valid[1] = False
    for include_pos in (True, False):

        def value(p: Tensor, a: Tensor, c: Tensor, include_pos: bool = include_pos) -> Tensor:
            return nce_over(p, yes(p), rest_of_product(a, c, valid), include_pos=include_pos)[0]

        assert torch.autograd.gradcheck(value, (pos, anchor, column_))
