"""Small networks from an encoder's vectors into the space where a loss compares them.

Those of MIC's user-item contrast make the joint space, which the model file keeps; the others are dropped once training is over.
"""

from typing import Final

from torch import nn

from trainer.encoders.layers import Dense

JOINT: Final = "joint."  # before the names of weights that are not the encoder's, but of the way into the joint space


def projection(kind: str, dim: int) -> nn.Module:
    """As wide as what comes in. mlp: MIC 3.4, non-linear. Raises ValueError for an unknown kind."""
    if kind == "mlp":
        return nn.Sequential(Dense(dim, dim), nn.ReLU(), Dense(dim, dim))
    if kind == "linear":
        return Dense(dim, dim)
    if kind == "identity":
        return nn.Identity()
    raise ValueError(f"unknown projection {kind!r}; known: identity, linear, mlp")


def joint_space(kind: str, dim: int) -> nn.ModuleDict:
    """Side ("user", "item") -> its projection into the joint space; raises ValueError for an unknown kind."""
    return nn.ModuleDict({side: projection(kind, dim) for side in ("user", "item")})
