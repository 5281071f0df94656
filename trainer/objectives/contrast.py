"""The one contrastive loss (InfoNCE) that every contrastive objective calls."""

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
    pos_BP, neg_BM = pos_BP / temperature, neg_BM / temperature
    any_neg_B1 = neg_valid_BM.any(dim=1, keepdim=True)
    # a row of -inf only would make logsumexp's gradient NaN: such rows are set to zero before, and left out after
    finite_BM = neg_BM.masked_fill(~neg_valid_BM, -torch.inf).masked_fill(~any_neg_B1, 0)
    rest_B1 = finite_BM.logsumexp(dim=1, keepdim=True) if neg_BM.shape[1] else neg_BM.new_zeros(len(neg_BM), 1)
    if include_pos:
        denominator_BP = torch.where(any_neg_B1, torch.logaddexp(pos_BP, rest_B1), pos_BP)
    else:
        denominator_BP, pos_valid_BP = rest_B1, pos_valid_BP & any_neg_B1
    loss_BP = (denominator_BP - pos_BP).masked_fill(~pos_valid_BP, 0)
    num_pos_B = pos_valid_BP.sum(dim=1)
    loss_B = loss_BP.sum(dim=1) / num_pos_B.clamp(min=1)
    if __debug__ and include_pos:  # "not any below", so that NaN passes: what stops a training on NaN is the loop
        assert not bool((loss_B < -1e-4).any()), "InfoNCE with the positive included cannot be negative"
    return loss_B, num_pos_B > 0


def nce(
    pos_BP: Tensor, pos_valid_BP: Tensor, neg_BM: Tensor, neg_valid_BM: Tensor, *, temperature: float = 1.0, include_pos: bool = True
) -> Tensor:
    """Mean of `nce_rows` over the anchors that count; 0, still joined to the graph, where none does."""
    loss_B, counted_B = nce_rows(pos_BP, pos_valid_BP, neg_BM, neg_valid_BM, temperature=temperature, include_pos=include_pos)
    return loss_B.sum() / counted_B.sum().clamp(min=1)
