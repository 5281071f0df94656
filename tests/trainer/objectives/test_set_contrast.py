import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.objectives import set_contrast
from trainer.objectives.contrast import rest_of_scores
from trainer.objectives.set_contrast import rest_of_sets
from trainer.objectives.similarity import set_similarity


@settings(max_examples=60, deadline=None)  # the first call warms torch up
@given(seed=st.integers(0, 10**6), num_rows=st.integers(0, 5), num_columns=st.integers(0, 4), interests=st.integers(1, 3))
def test_equals_the_scores_all_at_once(seed: int, num_rows: int, num_columns: int, interests: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = (num_rows, interests, 3), (num_columns, 2, 3)
    # whole numbers: often several reach a maximum, and share its gradient
    anchor, column = (torch.randint(-1, 2, shape, generator=generator).double().requires_grad_() for shape in shapes)
    valid = torch.rand(num_rows, num_columns, generator=generator) < 0.6
    weight = torch.rand(num_rows, generator=generator, dtype=torch.float64)
    results = []
    for rest in (rest_of_scores(set_similarity(anchor, column), valid), rest_of_sets(anchor, column, valid)):
        finite = rest > -torch.inf
        gradients = torch.autograd.grad((rest[finite] * weight[finite]).sum(), (anchor, column), allow_unused=True)
        results.append((rest, *(torch.zeros(1) if g is None or not g.any() else g for g in gradients)))
    torch.testing.assert_close(results[0], results[1])


def test_spans_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    anchor, column = (torch.randn(n, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True) for n in (7, 5))
    valid = torch.rand(7, 5, generator=generator) < 0.7
    want = torch.autograd.grad(rest_of_scores(set_similarity(anchor, column), valid).sum(), (anchor, column))
    monkeypatch.setattr(set_contrast, "SCORES", 60)  # of 20 a row: 3 rows at a time
    torch.testing.assert_close(torch.autograd.grad(rest_of_sets(anchor, column, valid).sum(), (anchor, column)), want)


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    anchor, column = (torch.randn(n, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 6))
    valid = torch.rand(4, 6, generator=generator) < 0.7
    valid[:, 0] = True
    assert torch.autograd.gradcheck(lambda a, c: rest_of_sets(a, c, valid), (anchor, column))
