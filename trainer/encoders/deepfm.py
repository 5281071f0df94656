"""DeepFM in two towers: dense layers and the FM terms of each side's own fields, brought together by one linear layer."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from conf.fields import Registry
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.fields import FieldEncoder
from trainer.encoders.layers import Dense


class Side(nn.Module):
    """float[n, F W] -> float[n, D]: W_o [MLP(fields) ; sum_f v_f ; 1/2 ((sum_f v_f)^2 - sum_f v_f^2)], squares by element."""

    def __init__(self, num_fields: int, width: int, deep: nn.Module, dim: int) -> None:
        super().__init__()
        self.num_fields, self.width, self.deep = num_fields, width, deep
        self.out = Dense(dim + 2 * width, dim)

    def forward(self, x_nE: Tensor) -> Tensor:
        """See the class."""
        fields_nFW = x_nE.view(-1, self.num_fields, self.width)
        sum_nW = fields_nFW.sum(dim=1)
        pairs_nW = (sum_nW.square() - fields_nFW.square().sum(dim=1)) / 2
        out_nD: Tensor = self.out(torch.cat([self.deep(x_nE), sum_nW, pairs_nW], dim=1))
        return out_nD


class DeepFM(FieldEncoder):
    """Each tower a `Side` over its fields, the history a user field (the mean of its item_id embeddings). Inner product.

    Fields of user and item meet only in the inner product, as everywhere in matching.

    Source: Guo et al. 2017, "DeepFM: A factorization-machine based neural network for CTR prediction"; in two towers as in MicRec
    (Xie et al. 2022) 5.2.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        self.user_tower = self._side(len(registry.user) + 1, settings.model.hidden)
        self.item_tower = self._side(len(registry.item), settings.model.hidden)

    def _side(self, num_fields: int, hidden: Sequence[int]) -> Side:
        return Side(num_fields, self.width, self.dense(num_fields * self.width, hidden, self.dim), self.dim)
