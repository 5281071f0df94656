"""Small networks from an encoder's vectors into the space where a loss compares them; dropped once training is over."""

from torch import nn

from trainer.encoders.layers import Dense


def projection(kind: str, dim: int) -> nn.Module:
    """As wide as what comes in. mlp: MIC 3.4, non-linear. Raises ValueError for an unknown kind."""
    if kind == "mlp":
        return nn.Sequential(Dense(dim, dim), nn.ReLU(), Dense(dim, dim))
    if kind == "linear":
        return Dense(dim, dim)
    if kind == "identity":
        return nn.Identity()
    raise ValueError(f"unknown projection {kind!r}; known: identity, linear, mlp")
