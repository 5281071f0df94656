"""The one contrastive loss (InfoNCE) that every contrastive objective calls."""

from typing import Any

import torch
from torch import Tensor


def nce_rows(
    pos_BP: Tensor, pos_valid_BP: Tensor, neg_BM: Tensor, neg_valid_BM: Tensor, *, temperature: float = 1.0, include_pos: bool = True
) -> tuple[Tensor, Tensor]:
    """InfoNCE of each anchor, averaged over its valid positives; another positive never enters the denominator.

    l_ip = -pos_ip / t + logsumexp({pos_ip / t if include_pos} and {neg_im / t : neg_valid_im})

    Args:
        pos_BP, neg_BM: similarities, float32 or float64.
        pos_valid_BP, neg_valid_BM: bool, which of them count.
        temperature: > 0; smaller sharpens the softmax.
        include_pos: False leaves the positive out of the denominator (DCL, Yeh et al. 2022; so MIC eq. 4-6 and MicRec eq. 1
            are printed): for cosine only, with inner products the loss has no lower bound.

    Returns:
        (loss float[B], counted bool[B]). An anchor without a valid positive is not counted; without a valid negative its loss is exactly 0
        with zero gradient (include_pos) or it is not counted (not include_pos). The loss of an anchor that is not counted is 0.

    Raises:
        ValueError: temperature <= 0, or the shapes disagree.

    Source: Chen et al. 2020 (SimCLR), eq. 1; several positives as in Khosla et al. 2020 (SupCon), L_out, without the other positives.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if pos_BP.shape != pos_valid_BP.shape or neg_BM.shape != neg_valid_BM.shape or len(pos_BP) != len(neg_BM):
        raise ValueError(f"shapes disagree: {[tuple(t.shape) for t in (pos_BP, pos_valid_BP, neg_BM, neg_valid_BM)]}")
    return nce_over(pos_BP / temperature, pos_valid_BP, rest_of_scores(neg_BM / temperature, neg_valid_BM), include_pos=include_pos)


def nce(
    pos_BP: Tensor, pos_valid_BP: Tensor, neg_BM: Tensor, neg_valid_BM: Tensor, *, temperature: float = 1.0, include_pos: bool = True
) -> Tensor:
    """Mean of `nce_rows` over the anchors that count; 0, still joined to the graph, where none does."""
    loss_B, counted_B = nce_rows(pos_BP, pos_valid_BP, neg_BM, neg_valid_BM, temperature=temperature, include_pos=include_pos)
    return loss_B.sum() / counted_B.sum().clamp(min=1)


def nce_over(pos_BP: Tensor, pos_valid_BP: Tensor, rest_B: Tensor, *, include_pos: bool = True) -> tuple[Tensor, Tensor]:
    """`nce_rows` where the negatives are already summed up; rest_B: ln of their sum of exp, -inf where an anchor has none."""
    rest_B1 = rest_B[:, None]
    denominator_BP = torch.logaddexp(pos_BP, rest_B1) if include_pos else rest_B1.masked_fill(rest_B1 == -torch.inf, 0)
    if not include_pos:
        pos_valid_BP = pos_valid_BP & (rest_B1 > -torch.inf)
    loss_BP = (denominator_BP - pos_BP).masked_fill(~pos_valid_BP, 0)
    num_pos_B = pos_valid_BP.sum(dim=1)
    loss_B = loss_BP.sum(dim=1) / num_pos_B.clamp(min=1)
    if __debug__ and include_pos:  # "not any below", so that NaN passes: what stops a training on NaN is the loop
        assert not bool((loss_B < -1e-4).any()), "InfoNCE with the positive included cannot be negative"
    return loss_B, num_pos_B > 0


def rest_of_scores(neg_BM: Tensor, valid_BM: Tensor) -> Tensor:
    """float[B]: ln of the sum of exp over the valid scores of each row; -inf, with zero gradient, where there is none."""
    if not neg_BM.shape[1]:
        return neg_BM.sum(dim=1) - torch.inf
    any_B1 = valid_BM.any(dim=1, keepdim=True)
    # a row of -inf only would make logsumexp's gradient NaN: such rows are set to zero before, and left out after
    finite_BM = neg_BM.masked_fill(~valid_BM, -torch.inf).masked_fill(~any_B1, 0)
    return finite_BM.logsumexp(dim=1).masked_fill(~any_B1[:, 0], -torch.inf)


def joined(rest_B: Tensor, other_B: Tensor) -> Tensor:
    """float[B]: ln of two sums of exp together, each given by its ln; -inf, with zero gradient, where both are."""
    none_B = (rest_B == -torch.inf) & (other_B == -torch.inf)  # whose gradient would be nan
    return torch.logaddexp(rest_B.masked_fill(none_B, 0), other_B.masked_fill(none_B, 0)).masked_fill(none_B, -torch.inf)


def rest_of_product(anchor_BD: Tensor, column_MD: Tensor, valid_BM: Tensor, extra_M: Tensor | None = None) -> Tensor:
    """rest_of_scores(anchor_BD @ column_MD.T + extra_M, valid_BM), faster: the scores are made a few rows at a time and stay in the cache.

    extra_M: float[M], constant; None = zeros.
    """
    if not len(column_MD):
        return rest_of_scores(anchor_BD @ column_MD.T, valid_BM)
    rest_B: Tensor = _RestOfProduct.apply(anchor_BD, column_MD, valid_BM, extra_M)  # type: ignore[no-untyped-call]
    return rest_B


ROWS = 128  # of scores at a time: with some thousand columns about 1 MB


class _RestOfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor_BD: Tensor, column_MD: Tensor, valid_BM: Tensor, extra_M: Tensor | None) -> Tensor:
        """float[B]: `rest_of_scores` of the product. Keeps each column's share of its row's sum: the gradient by the scores."""
        share_BM = torch.empty(valid_BM.shape, dtype=anchor_BD.dtype, device=anchor_BD.device)
        rest_B1 = anchor_BD.new_empty(len(anchor_BD), 1)
        room_RM, hidden_RM = (share_BM.new_empty(ROWS, len(column_MD)) for _ in range(2))
        far = torch.finfo(share_BM.dtype).max / 2
        for start in range(0, len(anchor_BD), ROWS):
            rows = slice(start, min(start + ROWS, len(anchor_BD)))
            num = rows.stop - start
            score_RM = torch.mm(anchor_BD[rows], column_MD.T, out=room_RM[:num])  # with `out`, autocast leaves it alone
            if extra_M is not None:
                score_RM.add_(extra_M)
            # what is not valid goes out of sight: a sixth of the time of masked_fill_, which goes element by element
            score_RM.add_(hidden_RM[:num].copy_(valid_BM[rows].view(torch.uint8)).sub_(1), alpha=far)
            top_R1 = score_RM.amax(dim=1, keepdim=True)
            share_RM = torch.softmax(score_RM, dim=1, out=share_BM[rows])  # one pass of each row while it is in the nearest cache
            rest_B1[rows] = top_R1 - share_RM.amax(dim=1, keepdim=True).log()
            none_R1 = top_R1 < -far / 2
            if bool(none_R1.any()):
                share_RM.masked_fill_(none_R1, 0)
                rest_B1[rows].masked_fill_(none_R1, -torch.inf)
        ctx.save_for_backward(anchor_BD, column_MD, share_BM)
        return rest_B1[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """(float[B, D], float[M, D], None, None): the shares times the gradient of their row, back through the product."""
        anchor_BD, column_MD, share_BM = ctx.saved_tensors
        grad_anchor_BD, grad_column_MD = torch.empty_like(anchor_BD), torch.zeros_like(column_MD)
        for start in range(0, len(anchor_BD), ROWS):
            rows = slice(start, start + ROWS)
            grad_RM = share_BM[rows] * grads[0][rows, None]
            torch.mm(grad_RM, column_MD, out=grad_anchor_BD[rows])
            grad_column_MD.addmm_(grad_RM.T, anchor_BD[rows])
        return grad_anchor_BD, grad_column_MD, None, None
