"""The sum over negatives that are sets of vectors, without ever holding all their scores."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.objectives.contrast import rest_of_scores
from trainer.objectives.similarity import set_similarity

SCORES = 2**20  # between vectors at a time: 4 MB, which stay in the cache


def rest_of_sets(anchor_AKD: Tensor, column_MLD: Tensor, valid_AM: Tensor) -> Tensor:
    """rest_of_scores(set_similarity(anchor_AKD, column_MLD), valid_AM), some times faster, for vectors of any length."""
    if not len(anchor_AKD) or not len(column_MLD):
        return rest_of_scores(set_similarity(anchor_AKD, column_MLD), valid_AM)
    rest_A: Tensor = _RestOfSets.apply(anchor_AKD, column_MLD, valid_AM)  # type: ignore[no-untyped-call]
    return rest_A


class _RestOfSets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor_AKD: Tensor, column_MLD: Tensor, valid_AM: Tensor) -> Tensor:
        """float[A]. Keeps each column's share of its row's sum; the scores are made again on the way back."""
        share_AM = torch.empty(valid_AM.shape, dtype=anchor_AKD.dtype, device=anchor_AKD.device)
        rest_A = torch.empty(len(anchor_AKD), dtype=anchor_AKD.dtype, device=anchor_AKD.device)
        for rows, scores_KRLM in _scores(anchor_AKD, column_MLD):
            score_RM = (scores_KRLM.amax(dim=2).mean(dim=0) + scores_KRLM.amax(dim=0).mean(dim=1)).div_(2)
            score_RM.masked_fill_(~valid_AM[rows], -torch.inf)
            top_R1 = score_RM.amax(dim=1, keepdim=True).clamp_(min=torch.finfo(score_RM.dtype).min)  # finite, where all are -inf
            total_R1 = score_RM.sub_(top_R1).exp_().sum(dim=1, keepdim=True)
            torch.div(score_RM, total_R1.clamp(min=torch.finfo(score_RM.dtype).tiny), out=share_AM[rows])
            rest_A[rows] = (total_R1.log() + top_R1)[:, 0]
        ctx.save_for_backward(anchor_AKD, column_MLD, share_AM)
        return rest_A

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """(float[A, K, D], float[M, L, D], None): a maximum hands its gradient to those that reach it, in equal parts."""
        anchor_AKD, column_MLD, share_AM = ctx.saved_tensors
        grad_anchor_AKD, grad_LMD = torch.empty_like(anchor_AKD), torch.zeros_like(column_MLD.transpose(0, 1).contiguous())
        column_XD = column_MLD.transpose(0, 1).flatten(0, 1)
        for rows, scores_KRLM in _scores(anchor_AKD, column_MLD):
            grad_RM = share_AM[rows] * (grads[0][rows, None] / 2)
            grad_KRLM = torch.zeros_like(scores_KRLM)
            for dim, num in ((2, scores_KRLM.shape[0]), (0, scores_KRLM.shape[2])):
                best_KRLM = (scores_KRLM == scores_KRLM.amax(dim=dim, keepdim=True)).to(scores_KRLM.dtype)
                part = grad_RM[None, :, None] / best_KRLM.sum(dim=dim, keepdim=True).mul_(num)
                grad_KRLM.addcmul_(best_KRLM, part)
            grad_YX = grad_KRLM.flatten(2).flatten(0, 1)
            anchor_YD = anchor_AKD[rows].transpose(0, 1).flatten(0, 1)
            grad_anchor_AKD[rows] = (grad_YX @ column_XD).view(anchor_AKD.shape[1], -1, anchor_AKD.shape[2]).transpose(0, 1)
            grad_LMD.view(-1, grad_LMD.shape[2]).addmm_(grad_YX.T, anchor_YD)
        return grad_anchor_AKD, grad_LMD.transpose(0, 1), None


def _scores(anchor_AKD: Tensor, column_MLD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, float[K, R, L, M]): inner products of some anchors' vectors with all columns'; sets outside, so that maxima are fast."""
    num_rows = max(1, SCORES // (anchor_AKD.shape[1] * column_MLD.shape[1] * len(column_MLD)))
    column_DX = column_MLD.transpose(0, 1).flatten(0, 1).T
    for start in range(0, len(anchor_AKD), num_rows):
        rows = slice(start, start + num_rows)
        anchor_YD = anchor_AKD[rows].transpose(0, 1).flatten(0, 1)
        yield rows, (anchor_YD @ column_DX).view(anchor_AKD.shape[1], -1, column_MLD.shape[1], len(column_MLD))
