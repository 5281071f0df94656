"""The masks of `conf.masks`, bit for bit, by compiled kernels."""

import numpy as np

from conf.compiled import I16, I64
from conf.masks import FieldRule, Masking
from spark_jobs.kernels.samples import field_masks, half_masks, history_masks, pattern_masks


def compiled_masks(masking: Masking, sample_id: I64, hist_len: I16) -> dict[str, I64]:
    """`conf.masks.masks_of` for every draw."""
    found: dict[str, I64] = {}
    seed = masking.seed % 2**64
    for draw in range(masking.draws):
        for view in masking.views:
            found[f"um_{view}{draw}"] = _fields(masking.fields("user", view), sample_id, masking.p_field, seed, draw)
            found[f"uh_{view}{draw}"] = history_masks(sample_id, hist_len, masking.p_hist, seed, draw, masking.history_word(view))
            found[f"vm_{view}{draw}"] = _fields(masking.fields("item", view), sample_id, masking.p_field, seed, draw)
    return found


def _fields(rule: FieldRule, sample_id: I64, p: float, seed: int, draw: int) -> I64:
    if rule.kind == "none":
        return np.zeros(len(sample_id), np.int64)
    if rule.kind == "each":
        return field_masks(sample_id, rule.num_fields, p, seed, draw, rule.what)
    if rule.kind == "half":
        masks = half_masks(sample_id, rule.num_fields, seed, draw, rule.what)
    else:
        masks = pattern_masks(sample_id, np.array(rule.patterns, np.int64), seed, draw, rule.what)
    return masks ^ rule.all_fields if rule.inverted else masks
