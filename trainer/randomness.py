"""conf.draws on torch tensors: the same numbers for the same seed and words, on the device of the tensors.

Every draw of the trainer is keyed by (seed, step, purpose, global row), never by rank, so that 1, 2 and 3 workers do the same work.
"""

from enum import IntEnum

import torch
from torch import Tensor

from conf.draws import seed_of


class Purpose(IntEnum):
    """What a draw is for: two purposes never share numbers."""

    NEGATIVES = 1
    SHARED_SET = 2
    USER_CLEAN = 3
    USER_VIEW = 4
    ITEM_CLEAN = 5
    ITEM_VIEW = 6
    NEGATIVE_ITEMS = 7
    SHARED_ITEMS = 8
    USER_VIEW_A = 9
    ITEM_VIEW_A = 10
    ANCHORS = 11
    POOL = 12
    SHIFTS = 13
    RELATED = 14
    RELATED_ITEMS = 15
    FEATURES = 16
    MASKED_VIEWS = 17
    HISTORY_ITEMS = 18
    MINED_POSITIVES = 19
    MINED_POSITIVE_ITEMS = 20
    HARD_NEGATIVES = 21
    HARD_NEGATIVE_ITEMS = 22
    RECOMMENDED = 23


def _signed(word: int) -> int:
    """The int64 with the same 64 bits as `word` modulo 2^64."""
    word %= 2**64
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_M1, _M2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign bit."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """splitmix64's output function on int64[...] read as 64 plain bits."""
    z = z + _GOLDEN
    z = z.bitwise_xor_(_shift_right(z, 30)).mul_(_M1)
    z = z.bitwise_xor_(_shift_right(z, 27)).mul_(_M2)
    return z.bitwise_xor_(_shift_right(z, 31))


def words64(seed: int, *words: Tensor | int) -> Tensor:
    """int64 of the broadcast shape of `words` (integers): the bits of conf.draws.words64."""
    device = next((word.device for word in words if isinstance(word, Tensor)), torch.device("cpu"))
    x = torch.tensor(_signed(seed), dtype=torch.int64, device=device)
    for word in words:
        w = word.to(torch.int64) * _GOLDEN if isinstance(word, Tensor) else _signed(word * _GOLDEN)
        x = mix(x ^ w)
    return x


def u01(seed: int, *words: Tensor | int) -> Tensor:
    """float64 in [0, 1) of the broadcast shape of `words`; equal to conf.draws.u01."""
    return _shift_right(words64(seed, *words), 11).to(torch.float64) * 2.0**-53


def below(bound: int, seed: int, *words: Tensor | int) -> Tensor:
    """int64 in [0, bound) of the broadcast shape of `words`; equal to conf.draws.below."""
    return (u01(seed, *words) * bound).to(torch.int64).clamp_(max=bound - 1)


def keep_mask(noise_n: Tensor, width: int, drop: float) -> Tensor:
    """bool[n, width]: True with probability 1 - drop, a pure function of each row's noise word.

    drop is rounded to a multiple of 2^-16: one 64-bit word serves four elements, which makes this as cheap as torch's own dropout.
    """
    lanes = mix(noise_n[:, None] ^ (torch.arange(-(-width // 4), device=noise_n.device) * _GOLDEN))
    return lanes.view(torch.int16)[:, :width] >= round(drop * 65536) - 32768


def fill_uniform_(tensor: Tensor, bound: float, seed: int, name: str, first_row: int = 0, row_step: int = 1) -> None:
    """Fill float[rows, ...] with numbers in [-bound, bound): each a function of (seed, name, row, column) alone.

    So a shard that holds rows first_row, first_row + row_step, ... of a parameter gets exactly those rows of the whole.
    """
    if not tensor.numel():  # a table with fewer rows than workers
        return
    key = int(words64(seed, seed_of(name)))
    rows_2d = tensor.detach().reshape(tensor.shape[0], -1)
    num_rows, width = rows_2d.shape
    columns = torch.arange(-(-width // 2), device=tensor.device) * _GOLDEN
    for start in range(0, num_rows, 65536):  # 64k rows at a time: scratch memory stays small beside a large table
        stop = min(start + 65536, num_rows)
        row_keys = words64(key, first_row + row_step * torch.arange(start, stop, device=tensor.device))
        lanes = mix(row_keys[:, None] ^ columns).view(torch.int32)[:, :width]
        rows_2d[start:stop] = (lanes >> 8).to(tensor.dtype) * (bound * 2.0**-23)


def fill_normal_(tensor: Tensor, std: float, seed: int, name: str, first_row: int = 0) -> None:
    """The same with numbers of N(0, std^2), at most 5.2 std away from 0."""
    fill_uniform_(tensor, 1 - 2.0**-23, seed, name, first_row)
    tensor.erfinv_().mul_(2**0.5 * std)
