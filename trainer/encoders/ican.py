"""ICAN as in MicRec: the fields of what a user clicked attend to one another; the multi-domain parts are left out."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conf.fields import Registry
from conf.sections.encoders import Ican
from conf.settings import Settings
from trainer.catalogue import Catalogue
from trainer.encoders.encoder import Batch
from trainer.encoders.fields import FieldEncoder
from trainer.encoders.layers import Dense, Linear, Norm

RELEASED_STD = 0.02  # of the attention's weights at the start, in ICAN's code


class Block(nn.Module):
    """float[n, R, W] -> float[n, R, W]: one transformer block over R rows (post-norm), or its attention alone, unscaled (attn_only).

    Source: Vaswani et al. 2017, "Attention is all you need", 3.1-3.3; attn_only as in ICAN's code.
    """

    def __init__(self, width: int, given: Ican) -> None:
        super().__init__()
        if width % given.heads:
            raise ValueError(f"model.ican.heads ({given.heads}) must divide the width of an embedding ({width})")
        self.heads = given.heads
        self.scale = 1.0 if given.attn_only else (width // given.heads) ** -0.5
        std = RELEASED_STD if given.attn_only else None
        self.query, self.key, self.value = (Linear(width, width, std) for _ in range(3))
        self.rest = None if given.attn_only else Rest(width)

    def forward(self, x_nRW: Tensor, known_nR: Tensor | None) -> Tensor:
        """known: which rows may be attended to, one at least; None = all."""
        query, key, value = (part(x_nRW).unflatten(2, (self.heads, -1)) for part in (self.query, self.key, self.value))
        score_nHRS = torch.einsum("nrhv,nshv->nhrs", query, key) * self.scale
        if known_nR is not None:
            score_nHRS = score_nHRS.masked_fill(~known_nR[:, None, None, :], -torch.inf)
        mixed_nRW = torch.einsum("nhrs,nshv->nrhv", score_nHRS.softmax(dim=3), value).flatten(2)
        return mixed_nRW if self.rest is None else self.rest(x_nRW, mixed_nRW)


class Rest(nn.Module):
    """What follows the attention in a transformer block: output layer, residuals, norms, two dense layers with ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out, self.norm_attention, self.norm_dense = Dense(width, width), Norm(width), Norm(width)
        self.dense = nn.Sequential(Dense(width, 4 * width), nn.ReLU(), Dense(4 * width, width))

    def forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """float[..., W]."""
        x = self.norm_attention(x + self.out(mixed))
        out: Tensor = self.norm_dense(x + self.dense(x))
        return out


class ICAN(FieldEncoder):
    """user = MLP(transformer over behaviour rows, flattened; user fields); item = MLP(item fields). Inner product.

    Behaviour rows: one an item field, the mean of that field over the clicks (fields); or one a click, the sum of its fields
    (positions), with a learned vector for each position and the clicks that are missing left out.

    Source: MicRec (Xie et al. 2022) eq. 6 and 7; Xie et al. 2020, "Internal and contextual attention network for cold-start
    multi-channel matching in recommendation", and its code.
    """

    similarity = "inner_product"

    def __init__(self, settings: Settings, registry: Registry, catalogue: Catalogue, vocab_sizes: Mapping[str, int]) -> None:
        super().__init__(settings, registry, catalogue, vocab_sizes)
        given, self.length = settings.model.ican, settings.model.history
        self.positions = Linear(self.width, self.length) if given.behaviour_rows == "positions" else None
        rows = self.length if self.positions is not None else len(registry.item)
        self.block = Block(self.width, given)
        if given.activation == "tanh":
            self.activation = nn.Tanh
        last = [nn.Tanh()] if given.activation == "tanh" else []
        widths = (self.width * (rows + len(registry.user)), self.features_dim)
        self.user_tower, self.item_tower = (self.dense(width, settings.model.hidden, self.dim).extend(last) for width in widths)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """float[B, 1, D]."""
        clicked, known_BL = self.clicked_fields(batch, uh)
        if self.positions is None:
            num_B1 = known_BL.sum(dim=1, keepdim=True).clamp(min=1)
            rows_BRW = self.block(torch.stack([(field * known_BL[:, :, None]).sum(dim=1) / num_B1 for field in clicked], dim=1), None)
        else:
            known_BL = known_BL[:, : self.length]
            sum_BLW = torch.stack(clicked).sum(dim=0)[:, : self.length] + self.positions.weight[: known_BL.shape[1]]
            rows_BRW = self.block(sum_BLW, known_BL) * known_BL[:, :, None]
        input_BE = torch.cat([rows_BRW.flatten(1), *self.embedded(self.user_ids(batch, um))], dim=1)
        vectors_BD: Tensor = self.user_tower(self.dropped(input_BE, noise))
        return vectors_BD[:, None, :]
