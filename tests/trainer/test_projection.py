import pytest
import torch

from trainer.deferred import materialize_module
from trainer.projection import projection


@pytest.mark.parametrize(("kind", "parameters"), [("identity", 0), ("linear", 2), ("mlp", 4)])
def test_as_wide_as_what_comes_in(kind: str, parameters: int) -> None:
    made = projection(kind, 3).to("meta")
    materialize_module(made, seed=1)
    assert made(torch.ones(2, 4, 3)).shape == (2, 4, 3)
    assert len(list(made.parameters())) == parameters


def test_unknown() -> None:
    with pytest.raises(ValueError, match="unknown projection 'cubic'; known: identity, linear, mlp"):
        projection("cubic", 3)
