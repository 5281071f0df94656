"""Which fields, history positions and field values a view hides: a pure function of (seed, sample_id, draw), whoever computes it.

Bit f of a mask set = field or position f is hidden. Strategies for the fields of one side, k of them:

- random_p (MIC 3.3.1): view a is clean and has no mask; in view b each field on its own is hidden with probability p.
- rfm ("random feature masking", Yao et al. 2021): view a hides k // 2 fields at random, view b the others.
- cfm ("correlated feature masking", Yao et al. 2021): view a hides a field at random and those that tell most about it, view b the others.

Under rfm and cfm both views drop history positions, too. With fewer than two fields nothing is hidden: all would be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from conf.draws import below, u01
from conf.fields import Side
from conf.schemas.table import Strategy, View, masked_views
from conf.settings import Settings

I64 = npt.NDArray[np.int64]

# The word of the draw that tells the masks of one sample apart.
UM_B, UH_B, VM_B, UM_A, UH_A, VM_A = range(6)
_FIELDS: Final = {("user", "a"): UM_A, ("user", "b"): UM_B, ("item", "a"): VM_A, ("item", "b"): VM_B}
_HISTORY: Final = {"a": UH_A, "b": UH_B}
_BATCH: Final = -1  # in place of a draw: the number beside it is that of a batch, not of a sample
VALUES: Final = {("user", "a"): 6, ("user", "b"): 7, ("item", "a"): 8, ("item", "b"): 9}  # values of multi-valued fields


@dataclass(frozen=True)
class FieldRule:
    """How the fields of one side are hidden in one view.

    kind: each = each field with probability p; half = num_fields // 2 at random; pattern = one of `patterns` at random; none = nothing.
    inverted: the others are hidden instead. what: word of the draw.
    """

    kind: Literal["each", "half", "pattern", "none"]
    num_fields: int
    what: int
    inverted: bool = False
    patterns: tuple[int, ...] = ()

    @property
    def all_fields(self) -> int:
        """The mask set of every field."""
        return (1 << self.num_fields) - 1


@dataclass(frozen=True)
class Masking:
    """All that the masks of one configuration depend on besides the sample.

    history: positions of a history. draws: how many table samples holds. user_fields, item_fields: how many there are.
    user_patterns, item_patterns: of cfm, `correlated`. The rest as in settings.samples.masks.
    """

    history: int
    user_fields: int
    item_fields: int
    p_field: float
    p_hist: float
    draws: int
    seed: int
    strategy: Strategy = "random_p"
    complementary: bool = True
    user_patterns: tuple[int, ...] = ()
    item_patterns: tuple[int, ...] = ()

    @property
    def views(self) -> tuple[View, ...]:
        """The views that are masked."""
        return masked_views(self.strategy)

    def fields(self, side: Side, view: View) -> FieldRule:
        """How the fields of a side are hidden in a view."""
        num, patterns = (self.user_fields, self.user_patterns) if side == "user" else (self.item_fields, self.item_patterns)
        if num < 2:
            return FieldRule("none", num, 0)
        if self.strategy == "random_p":
            return FieldRule("each", num, _FIELDS[side, view])
        if self.strategy == "rfm" and not self.complementary:
            return FieldRule("half", num, _FIELDS[side, view])
        kind: Literal["half", "pattern"] = "half" if self.strategy == "rfm" else "pattern"
        return FieldRule(kind, num, _FIELDS[side, "a"], inverted=view == "b", patterns=patterns)

    def history_word(self, view: View) -> int:
        """The word of the draw of the dropped history positions."""
        return _HISTORY[view]

    def maskable(self) -> dict[str, int]:
        """How many fields of each side are ever hidden: all, or 0 where there are fewer than two, and dropout alone perturbs them."""
        return {side: num if num > 1 else 0 for side, num in (("user", self.user_fields), ("item", self.item_fields))}


def masking_of(settings: Settings, patterns: Mapping[str, Sequence[int]]) -> Masking:
    """What the settings say of masks. patterns: of each side, for cfm; fact `mask_patterns` in the manifest of samples, {} else."""
    registry, masks = settings.registry(), settings.samples.masks
    return Masking(
        history=settings.model.history,
        user_fields=len(registry.user),
        item_fields=len(registry.item),
        p_field=masks.p_field,
        p_hist=masks.p_hist,
        draws=masks.draws if masks.stored else 0,
        seed=masks.seed,
        strategy=masks.strategy,
        complementary=masks.complementary,
        user_patterns=tuple(patterns.get("user", ())),
        item_patterns=tuple(patterns.get("item", ())),
    )


def masks_of(masking: Masking, sample_id: I64, hist_len: I64, draw: int) -> dict[str, I64]:
    """int64[n] by column name, um_<view><draw>, uh_..., vm_... of each masked view, in the order of table samples."""
    found: dict[str, I64] = {}
    for view in masking.views:
        of_draw = {"seed": masking.seed, "draw": draw}
        found[f"um_{view}{draw}"] = hidden_fields(masking.fields("user", view), sample_id, p=masking.p_field, **of_draw)
        what = masking.history_word(view)
        found[f"uh_{view}{draw}"] = history_mask(sample_id, hist_len, masking.history, p=masking.p_hist, what=what, **of_draw)
        found[f"vm_{view}{draw}"] = hidden_fields(masking.fields("item", view), sample_id, p=masking.p_field, **of_draw)
    return found


def masks_of_batch(masking: Masking, num_rows: int, number: int) -> dict[str, I64]:
    """int64[num_rows] um_<view> and vm_<view> of cfm where all rows of batch `number` hide the same fields; Yao et al. 2021."""
    batch, found = np.array([number], dtype=np.int64), dict[str, I64]()
    sides: dict[str, Side] = {"um": "user", "vm": "item"}
    for view, (name, side) in product(masking.views, sides.items()):
        hidden = hidden_fields(masking.fields(side, view), batch, p=masking.p_field, seed=masking.seed, draw=_BATCH)
        found[f"{name}_{view}"] = np.repeat(hidden, num_rows)
    return found


def hidden_fields(rule: FieldRule, sample_id: I64, *, p: float, seed: int, draw: int) -> I64:
    """int64[n] mask sets by the rule; p: of kind each."""
    if rule.kind == "none":
        return np.zeros(len(sample_id), dtype=np.int64)
    if rule.kind == "each":
        return field_mask(sample_id, rule.num_fields, p=p, seed=seed, draw=draw, what=rule.what)
    if rule.kind == "half":
        mask = half_mask(sample_id, rule.num_fields, seed=seed, draw=draw, what=rule.what)
    else:
        mask = pattern_mask(sample_id, rule.patterns, seed=seed, draw=draw, what=rule.what)
    return mask ^ rule.all_fields if rule.inverted else mask


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


def half_mask(sample_id: I64, num_fields: int, *, seed: int, draw: int, what: int) -> I64:
    """int64[n] masks of the num_fields // 2 fields with the smallest numbers, ties by lower field: the first half of a permutation."""
    draws = u01(seed, sample_id[:, None], draw, what, np.arange(num_fields))
    order = np.argsort(draws, axis=1, kind="stable")
    packed: I64 = (np.int64(1) << order[:, : num_fields // 2]).sum(axis=1, dtype=np.int64)
    return packed


def pattern_mask(sample_id: I64, patterns: Sequence[int], *, seed: int, draw: int, what: int) -> I64:
    """int64[n]: of each sample one of the patterns, all equally likely."""
    return np.array(patterns, dtype=np.int64)[below(len(patterns), seed, sample_id, draw, what)]


def correlated(information: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Of each of k fields the mask set of itself and the n fields with which it shares most information, ties by lower field.

    n = k // 2, as in Yao et al. 2021, but so that one field at least stays in view: k - 2 at most, and 0 for k = 2. For k < 2: nothing.
    information: float64[k, k]; the diagonal is not read.
    """
    num = len(information)
    if num < 2:
        return (0,) * num
    besides = min(num // 2, num - 2)
    patterns = []
    for field in range(num):
        others = sorted((f for f in range(num) if f != field), key=lambda f: (-information[field, f], f))
        patterns.append(sum(1 << f for f in (field, *others[:besides])))
    return tuple(patterns)


def history_mask(sample_id: I64, hist_len: I64, length: int, *, p: float, seed: int, draw: int, what: int = UH_B) -> I64:
    """int64[n] masks of `length` positions, oldest first: each of the first hist_len - 1 is dropped with probability p.

    The most recent click is always kept, so that a history never becomes empty; padding has no bit set.
    """
    positions = np.arange(length)
    draws = u01(seed, sample_id[:, None], draw, what, positions)
    return pack((draws < p) & (positions < hist_len[:, None] - 1))


def value_mask(sample_id: I64, count: I64, width: int, *, p: float, seed: int, draw: int, what: int, field: int) -> I64:
    """int64[n] masks of the values of a multi-valued field: each of the first `count` is dropped with probability p.

    If all of them would be, the one with the largest number stays, so that a field with values never looks like one without.
    width: positions. what: of `VALUES`. field: its number among the fields of its side.

    Source: Yao et al. 2021, "Self-supervised learning for large-scale item recommendations", the dropout of categorical features.
    """
    positions = np.arange(width)
    there = positions < count[:, None]
    draws = u01(seed, sample_id[:, None], draw, what, field, positions)
    largest = np.where(there, draws, -1.0).argmax(axis=1)  # if any value stays, it is among them
    return pack(there & (draws < p) & (positions != largest[:, None]))


def pack(bits: npt.NDArray[np.bool_]) -> I64:
    """bool[n, k] -> int64[n], column f becoming bit f; at most 63 columns."""
    packed: I64 = (bits.astype(np.int64) << np.arange(bits.shape[1], dtype=np.int64)).sum(axis=1, dtype=np.int64)
    return packed
