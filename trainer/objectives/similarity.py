"""How vectors are compared, for one interest (K = 1) or several.

Source of the rules for several: Cen et al. 2020 (ComiRec) for reading out by the target; the rest is decided here.
"""

import math

import torch
from torch import Tensor

EPS = 1e-6


def precise(x: Tensor) -> Tensor:
    """At least float32: logits are never computed in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-6) over the last dimension; a vector shorter than 1e-6 gets zero gradient."""
    x = precise(x)
    square = (x * x).sum(dim=-1, keepdim=True)
    # its direction means nothing, and a slope of 1e6 (say, of a row that all ReLUs shut off) would wreck the optimiser's state
    x = torch.where(square > EPS * EPS, x, x.detach())
    return x * square.clamp(min=EPS * EPS).rsqrt()


def readout(user_BKD: Tensor, item_BD: Tensor) -> Tensor:
    """float[B, D]: for each row the interest with the largest inner product with its item; gradient flows through that one only."""
    if user_BKD.shape[1] == 1:
        return user_BKD[:, 0]
    best_B = torch.einsum("bkd,bd->bk", user_BKD, item_BD).argmax(dim=1)
    return user_BKD[torch.arange(len(user_BKD), device=user_BKD.device), best_B]


def closest_interest(user_NKD: Tensor, item_BD: Tensor) -> Tensor:
    """float[B, N]: the largest inner product of each item with any interest of each user."""
    if user_NKD.shape[1] == 1:
        return item_BD @ user_NKD[:, 0].T
    return torch.einsum("nkd,bd->bnk", user_NKD, item_BD).amax(dim=2)


def set_similarity(a_AKD: Tensor, b_BKD: Tensor) -> Tensor:
    """float[A, B]: between sets of unit vectors, 1/2 [mean_k max_k' <a_k, b_k'> + mean_k' max_k <a_k, b_k'>]; the cosine for K = 1."""
    if a_AKD.shape[1] == 1 and b_BKD.shape[1] == 1:
        return a_AKD[:, 0] @ b_BKD[:, 0].T
    scores_ABKK = torch.einsum("akd,bld->abkl", a_AKD, b_BKD)
    return (scores_ABKK.amax(dim=3).mean(dim=2) + scores_ABKK.amax(dim=2).mean(dim=2)) / 2


def paired_set_similarity(a_BKD: Tensor, b_BKD: Tensor) -> Tensor:
    """float[B]: set_similarity of row i of a with row i of b."""
    scores_BKK = torch.einsum("bkd,bld->bkl", a_BKD, b_BKD)
    return (scores_BKK.amax(dim=2).mean(dim=1) + scores_BKK.amax(dim=1).mean(dim=1)) / 2


def in_slots(x_BKD: Tensor) -> Tensor:
    """float[B, 1, K D] of unit interests: of two such, the cosine is the mean over k of <a_k, b_k>, interests compared slot by slot."""
    return x_BKD.flatten(1)[:, None] / math.sqrt(x_BKD.shape[1])
