"""ComiRec: several vectors a user, read out of the history by self-attention (SA) or dynamic routing (DR).

Source: Cen et al. 2020, "Controllable multi-interest framework for recommendation", and its code.
"""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conf.fields import PAD, Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch
from trainer.encoders.fields import FieldEncoder
from trainer.encoders.layers import Dense
from trainer.randomness import fill_normal_, fill_uniform_


class ComiRec(FieldEncoder):
    """K interests of the history's item_id embeddings; item = MLP(item fields), or the id's embedding. Inner product.

    Where there are user fields (or embeddings are not as wide as vectors), each interest goes with them through one MLP, ReLU.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.interests, self.length = settings.model.comirec.interests, settings.model.history
        self.user_tower: nn.Module = nn.Identity()
        if registry.user or self.width != self.dim:
            self.user_tower = self.dense(self.width * (1 + len(registry.user)), settings.model.hidden, self.dim)
        self.item_tower = self.dense_items(settings)

    @abstractmethod
    def read(self, clicked_BLW: Tensor, known_BL: Tensor) -> Tensor:
        """float[B, K, W] of the clicks that are known; at least one a row."""

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, K, D]."""
        ids_BL = self.clicked_ids(batch, uh)[:, : self.length]
        interest_BKW = self.read(self.table("item_id")(ids_BL), ids_BL != PAD)
        if isinstance(self.user_tower, nn.Identity):
            return interest_BKW
        fields = [field_BW[:, None].expand_as(interest_BKW) for field_BW in self.embedded(self.user_ids(batch, um))]
        input_BKE = torch.cat([interest_BKW, *fields], dim=2)
        vectors_BKD: Tensor = self.user_tower(self.dropped(input_BKE.flatten(1), noise).view_as(input_BKE))
        return vectors_BKD


class Positions(nn.Module):
    """A learned vector for each position of the history: Xavier uniform."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width))

    def reset(self, seed: int, name: str) -> None:
        """Fill the rows."""
        fill_uniform_(self.weight, (6 / sum(self.weight.shape)) ** 0.5, seed, f"{name}.weight")


class ComiRecSA(ComiRec):
    """A = softmax over clicks of W2 tanh(W1 (H + positions)), one column an interest; interests = A^T H. ComiRec 3.2, self-attentive."""

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.positions = Positions(self.length, self.width)
        self.attention = nn.Sequential(Dense(self.width, 4 * self.width), nn.Tanh(), Dense(4 * self.width, self.interests))

    def read(self, clicked_BLW: Tensor, known_BL: Tensor) -> Tensor:
        """See ComiRec: values are the embeddings without positions."""
        return torch.einsum("blk,blw->bkw", self.shares(clicked_BLW, known_BL), clicked_BLW)

    def shares(self, clicked_BLW: Tensor, known_BL: Tensor) -> Tensor:
        """float[B, L, K]: how much of each interest a click is; adds up to 1 over the known clicks, 0 elsewhere."""
        score_BLK: Tensor = self.attention(clicked_BLW + self.positions.weight[: clicked_BLW.shape[1]])
        return score_BLK.masked_fill(~known_BL[:, :, None], -torch.inf).softmax(dim=1)


class Routes(nn.Module):
    """float[L, K, W, W]: what a click at each position says to each interest. N(0, 1/W), or ComiRec's N(0, 1) (literal)."""

    def __init__(self, length: int, interests: int, width: int, *, literal: bool) -> None:
        super().__init__()
        self.std = 1.0 if literal else width**-0.5
        self.weight = nn.Parameter(torch.empty(length, interests, width, width))

    def reset(self, seed: int, name: str) -> None:
        """Fill them."""
        fill_normal_(self.weight, self.std, seed, f"{name}.weight")


class ComiRecDR(ComiRec):
    """Interests are capsules that the clicks agree on, by rounds of dynamic routing. ComiRec 3.2, algorithm 1.

    Logits start at 0. All rounds but the last see the clicks' words without gradient.
    """

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        given = settings.model.comirec
        self.rounds = given.rounds
        self.routes = Routes(self.length, self.interests, self.width, literal=given.init == "literal")

    def read(self, clicked_BLW: Tensor, known_BL: Tensor) -> Tensor:
        """See ComiRec."""
        said_BLKW = torch.einsum("blw,lkvw->blkv", clicked_BLW, self.routes.weight[: clicked_BLW.shape[1]])
        settled_BLKW = said_BLKW.detach()
        logit_BLK = torch.zeros_like(settled_BLKW[..., 0])
        for _ in range(self.rounds - 1):
            logit_BLK = logit_BLK + torch.einsum("blkw,bkw->blk", settled_BLKW, self._capsules(settled_BLKW, logit_BLK, known_BL))
        return self._capsules(said_BLKW, logit_BLK, known_BL)

    def _capsules(self, said_BLKW: Tensor, logit_BLK: Tensor, known_BL: Tensor) -> Tensor:
        share_BLK = logit_BLK.softmax(dim=2).masked_fill(~known_BL[:, :, None], 0)
        return squash(torch.einsum("blk,blkw->bkw", share_BLK, said_BLKW))


def squash(z: Tensor) -> Tensor:
    """|z|^2 / (1 + |z|^2) z / |z| over the last dimension: the direction stays, the length comes into [0, 1). Sabour et al. 2017, eq. 1."""
    square = (z * z).sum(dim=-1, keepdim=True)
    return square / (1 + square) * z / (square + 1e-9).sqrt()
