"""AutoInt in two towers: the fields of each side attend to one another."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conf.fields import Registry
from conf.sections.encoders import AutoInt as Given
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.fields import FieldEncoder
from trainer.encoders.layers import Dense, Linear


class Interacting(nn.Module):
    """float[n, F, W] -> float[n, F, H W']: ReLU(heads of sum_k a_fk W_V e_k, side by side, + W_res e_f), a = softmax_k <W_Q e_f, W_K e_k>.

    Not scaled, as in the paper. AutoInt eq. 5-8.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.rest = (Linear(width, heads * head_width) for _ in range(4))

    def forward(self, x_nFW: Tensor) -> Tensor:
        """See the class."""
        query, key, value = (part(x_nFW).unflatten(2, (self.heads, -1)) for part in (self.query, self.key, self.value))
        share_nHFG = torch.einsum("nfhv,nghv->nhfg", query, key).softmax(dim=3)
        mixed_nFE = torch.einsum("nhfg,nghv->nfhv", share_nHFG, value).flatten(2)
        return torch.relu(mixed_nFE + self.rest(x_nFW))


class Side(nn.Module):
    """float[n, F W] -> float[n, D]: interacting layers over the fields, then one linear layer over all of them."""

    def __init__(self, num_fields: int, width: int, given: Given, dim: int) -> None:
        super().__init__()
        self.num_fields, self.width = num_fields, width
        inner = given.heads * given.head_width
        self.layers = nn.Sequential(*(Interacting(width if n == 0 else inner, given.heads, given.head_width) for n in range(given.layers)))
        self.out = Dense(num_fields * inner, dim)

    def forward(self, x_nE: Tensor) -> Tensor:
        """See the class."""
        out_nD: Tensor = self.out(self.layers(x_nE.view(-1, self.num_fields, self.width)).flatten(1))
        return out_nD


class AutoInt(FieldEncoder):
    """Each tower a `Side` over its fields, the history a user field (the mean of its item_id embeddings). Inner product.

    Source: Song et al. 2019, "AutoInt: Automatic feature interaction learning via self-attentive neural networks"; in two towers as
    in MicRec (Xie et al. 2022) 5.2.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        given = settings.model.autoint
        self.user_tower = Side(len(registry.user) + 1, self.width, given, self.dim)
        self.item_tower = Side(len(registry.item), self.width, given, self.dim)
