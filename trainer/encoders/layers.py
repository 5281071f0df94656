"""The parts encoders are built of: embedding tables, dense layers, pooling, dropout. Each starts as a pure function of (seed, name)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf.fields import EMPTY, MASK, OOV, PAD, Field
from trainer.backends.backend import SparseTable
from trainer.randomness import fill_normal_, fill_uniform_, keep_mask


class Table(nn.Module):
    """Embedding table of one field: row PAD is zero for good, row MASK starts at zero and learns, the rest starts uniform in (-init, init).

    sparse: gradients hold only the rows in use (for row-wise optimisers).

    Source of the learned mask row: Yao et al. 2021, "Self-supervised learning for large-scale item recommendations" ("default embedding").
    """

    def __init__(self, num: int, dim: int, *, init: float, sparse: bool) -> None:
        super().__init__()
        self.init, self.sparse = init, sparse
        self.weight = (SparseTable if sparse else nn.Parameter)(torch.empty(num, dim))

    def reset(self, seed: int, name: str) -> None:
        """Fill the rows."""
        fill_uniform_(self.weight, self.init, seed, f"{name}.weight")
        self.weight[[PAD, MASK]] = 0

    def forward(self, ids: Tensor) -> Tensor:
        """int[...] -> float[..., dim]."""
        return F.embedding(ids, self.weight, padding_idx=PAD, sparse=self.sparse)

    def mean(self, ids_BM: Tensor) -> Tensor:
        """float[B, dim]: mean over the ids that are not PAD; zero where all are."""
        num_B1 = (ids_BM != PAD).sum(dim=1, keepdim=True)
        return self.total(ids_BM) / num_B1.clamp(min=1)

    def total(self, ids_BM: Tensor) -> Tensor:
        """float[B, dim]: sum over the ids that are not PAD."""
        if self.sparse and self.training and torch.is_grad_enabled():
            total_BD: Tensor = _TotalOfRows.apply(self.weight, ids_BM)  # type: ignore[no-untyped-call]
            return total_BD
        looked_up_BMD: Tensor = self(ids_BM)
        return looked_up_BMD.sum(dim=1)


class _TotalOfRows(torch.autograd.Function):
    """table[ids_BM].sum(dim=1), which never holds [B, M, D], neither forward nor backward; the gradient holds each row once."""

    @staticmethod
    def forward(ctx: Any, weight_VD: Tensor, ids_BM: Tensor) -> Tensor:
        """float[B, D]."""
        ctx.save_for_backward(ids_BM)
        ctx.shape = weight_VD.shape
        return F.embedding_bag(ids_BM, weight_VD, mode="sum")  # row PAD is zero

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """(sparse [V, D], None): of each row in use the gradients of the sums it went into, but of PAD, which does not learn."""
        (ids_BM,) = ctx.saved_tensors
        sorted_n, order_n = ids_BM.flatten().sort()
        num_pad = int((sorted_n == PAD).sum())
        rows_U, counts_U = torch.unique_consecutive(sorted_n[num_pad:], return_counts=True)
        which_n = torch.div(order_n[num_pad:], ids_BM.shape[1], rounding_mode="floor")
        values_UD = F.embedding_bag(which_n, grads[0].contiguous(), counts_U.cumsum(0) - counts_U, mode="sum")
        return torch.sparse_coo_tensor(rows_U[None], values_UD, ctx.shape, is_coalesced=True, check_invariants=False), None


class Dense(nn.Module):
    """Linear layer: Xavier uniform weights (Glorot and Bengio 2010; MIC 4.3), zero bias."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_out, num_in))
        self.bias = nn.Parameter(torch.empty(num_out))

    def reset(self, seed: int, name: str) -> None:
        """Fill weight and bias."""
        num_out, num_in = self.weight.shape
        fill_uniform_(self.weight, (6 / (num_in + num_out)) ** 0.5, seed, f"{name}.weight")
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """float[..., num_in] -> float[..., num_out]."""
        return F.linear(x, self.weight, self.bias)


class Linear(nn.Module):
    """Linear layer without bias: Xavier uniform weights, or N(0, std^2)."""

    def __init__(self, num_in: int, num_out: int, std: float | None = None) -> None:
        super().__init__()
        self.std, self.weight = std, nn.Parameter(torch.empty(num_out, num_in))

    def reset(self, seed: int, name: str) -> None:
        """Fill the weight."""
        if self.std is not None:
            fill_normal_(self.weight, self.std, seed, f"{name}.weight")
            return
        fill_uniform_(self.weight, (6 / sum(self.weight.shape)) ** 0.5, seed, f"{name}.weight")

    def forward(self, x: Tensor) -> Tensor:
        """float[..., num_in] -> float[..., num_out]."""
        return F.linear(x, self.weight)


class Norm(nn.Module):
    """Layer norm over the last dimension (Ba et al. 2016): gain starts at 1, bias at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))

    def reset(self, seed: int, name: str) -> None:
        """Gain 1, bias 0."""
        self.weight.fill_(1)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """float[..., width]."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


def tower(num_in: int, hidden: Sequence[int], num_out: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Hidden layers with their activation, then a linear one; DSSM (Huang et al. 2013) eq. 3, with a linear output."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [Dense(num_in, width), activation()]
        num_in = width
    return nn.Sequential(*layers, Dense(num_in, num_out))


def dropout(x_BE: Tensor, drop: float, noise_B: Tensor | None) -> Tensor:
    """Inverted dropout on elements, which of them a pure function of each row's noise; no noise, no dropout."""
    if noise_B is None or drop == 0:
        return x_BE
    if drop >= 1:
        return x_BE * 0
    return x_BE * keep_mask(noise_B, x_BE.shape[1], drop) / (1 - round(drop * 65536) / 65536)


def masked_ids(fields: Sequence[Field], ids: Mapping[str, Tensor], mask_B: Tensor | None, hidden: int = MASK) -> dict[str, Tensor]:
    """The ids of each field with `hidden` where the field's bit is set, and OOV for a multi field without a value.

    ids[name]: int[B] (single) or int[B, M] (multi). Masking comes before the lookup: the encoder sees one learned row instead (MASK), or
    zeros (PAD).
    """
    out: dict[str, Tensor] = {}
    for bit, field in enumerate(fields):
        values = ids[field.name]
        if field.role == "multi":
            values = _lone(values, (values == PAD).all(dim=1), OOV)
        if mask_B is not None:
            chosen_B = ((mask_B >> bit) & 1).bool()
            values = _lone(values, chosen_B, hidden) if values.dim() == 2 else values.masked_fill(chosen_B, hidden)
        out[field.name] = values
    return out


def _lone(ids_BM: Tensor, chosen_B: Tensor, id_: int) -> Tensor:
    """The chosen rows replaced by this single id."""
    row_M = ids_BM.new_zeros(ids_BM.shape[1])
    row_M[0] = id_
    return torch.where(chosen_B[:, None], row_M, ids_BM)


def history_ids(item_ids_BL: Tensor, hist_len_B: Tensor, dropped_B: Tensor | None) -> Tensor:
    """Vocabulary ids of the history, PAD where there is no click or the click is dropped; one EMPTY where there never was one.

    item_ids_BL: oldest first, PAD at the end. dropped_B: bit p = drop position p; the most recent click stays whatever its bit says.
    """
    ids_BL = item_ids_BL.masked_fill(~kept_clicks(hist_len_B, item_ids_BL.shape[1], dropped_B), PAD)
    return _lone(ids_BL, hist_len_B == 0, EMPTY)


def kept_clicks(hist_len_B: Tensor, length: int, dropped_B: Tensor | None) -> Tensor:
    """bool[B, L]: which of L positions hold a click that is not dropped; as in `history_ids`."""
    position_L = torch.arange(length, device=hist_len_B.device)
    keep_BL = position_L < hist_len_B[:, None]
    if dropped_B is not None:
        keep_BL &= ((dropped_B[:, None] >> position_L) & 1 == 0) | (position_L == hist_len_B[:, None] - 1)
    return keep_BL
