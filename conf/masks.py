"""Which fields and history positions view b hides: a pure function of (seed, sample_id, draw), whoever computes it.

Strategy random_p (MIC 3.3.1): each field on its own with probability p. Bit f of a mask set = field or position f is hidden.
View a is clean and has no mask.
"""

import numpy as np
import numpy.typing as npt

from conf.draws import u01

I64 = npt.NDArray[np.int64]

# The word of the draw that tells the masks of one sample apart; a mask of another view would take another word.
UM_B, UH_B, VM_B = 0, 1, 2


def field_mask(sample_id: I64, num_fields: int, *, p: float, seed: int, draw: int, what: int) -> I64:
    """int64[n] masks of `num_fields` fields: never all, and never none, so that the two views differ but share something.

    Nothing masked: the field with the smallest number is. Everything masked: the field with the largest number is not.
    With fewer than two fields both cannot hold, and nothing is masked.
    """
    if num_fields < 2:
        return np.zeros(len(sample_id), dtype=np.int64)
    draws = u01(seed, sample_id[:, None], draw, what, np.arange(num_fields))
    masked = draws < p
    none, every = ~masked.any(axis=1), masked.all(axis=1)
    masked[none, draws[none].argmin(axis=1)] = True
    masked[every, draws[every].argmax(axis=1)] = False
    return pack(masked)


def history_mask(sample_id: I64, hist_len: I64, length: int, *, p: float, seed: int, draw: int) -> I64:
    """int64[n] masks of `length` positions, oldest first: each of the first hist_len - 1 is dropped with probability p.

    The most recent click is always kept, so that a history never becomes empty; padding has no bit set.
    """
    positions = np.arange(length)
    draws = u01(seed, sample_id[:, None], draw, UH_B, positions)
    return pack((draws < p) & (positions < hist_len[:, None] - 1))


def pack(bits: npt.NDArray[np.bool_]) -> I64:
    """bool[n, k] -> int64[n], column f becoming bit f; k at most 63."""
    packed: I64 = (bits.astype(np.int64) << np.arange(bits.shape[1], dtype=np.int64)).sum(axis=1, dtype=np.int64)
    return packed
