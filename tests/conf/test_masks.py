"""Masks of each strategy: by hand, against the slow twin, and what each promises of its two views."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.draws import u01
from conf.masks import UM_A, UM_B, VALUES, Masking, correlated, half_mask, masking_of, masks_of, masks_of_batch, value_mask
from conf.settings import Settings
from tests import slow_masks

IDS = np.arange(1, 401, dtype=np.int64) << 32 | 5
PLAIN = {"history": 4, "p_field": 0.3, "p_hist": 0.4, "draws": 2, "seed": 17}


def masking(strategy, *, user=4, item=3, complementary=True, **changes):
    """With the information of `ladder` on both sides."""
    patterns = {"user_patterns": correlated(ladder(user)), "item_patterns": correlated(ladder(item))}
    return Masking(**PLAIN | changes, user_fields=user, item_fields=item, strategy=strategy, complementary=complementary, **patterns)


def ladder(num):
    """Fields tell the more about each other the nearer they stand."""
    return 1 / (1 + np.abs(np.subtract.outer(np.arange(num), np.arange(num))))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["random_p", "rfm", "cfm"]),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 2**63 - 1),
    st.integers(),
)
def test_equals_the_slow_twin(strategy, complementary, user, item, sample_id, seed):
    asked = masking(strategy, user=user, item=item, complementary=complementary, seed=seed)
    ids = np.array([sample_id, sample_id ^ 1])
    for hist_len in (0, 1, 4):
        found = {}
        for draw in range(asked.draws):
            found |= masks_of(asked, ids, np.full(2, hist_len), draw)
        assert {name: mask[0] for name, mask in found.items()} == slow_masks.masks(asked, sample_id, hist_len)
        assert {name: mask[1] for name, mask in found.items()} == slow_masks.masks(asked, sample_id ^ 1, hist_len)


@pytest.mark.parametrize("strategy", ["rfm", "cfm"])
@pytest.mark.parametrize("num", [2, 3, 4, 5, 63])
def test_p3_1_the_two_views_hide_every_field_once(strategy, num):
    found = masks_of(masking(strategy, user=num, item=num), IDS, np.zeros(len(IDS)), 0)
    for a, b in ((found["um_a0"], found["um_b0"]), (found["vm_a0"], found["vm_b0"])):
        assert ((a & b) == 0).all()
        assert ((a | b) == 2**num - 1).all()
        assert (a != 0).all()
        assert (b != 0).all()
    if strategy == "rfm":
        assert {bin(mask).count("1") for mask in found["vm_a0"].tolist()} == {num // 2}


@pytest.mark.parametrize("strategy", ["random_p", "rfm", "cfm"])
@pytest.mark.parametrize("num", [0, 1])
def test_with_fewer_than_two_fields_nothing_is_hidden(strategy, num):
    asked = masking(strategy, user=num, item=3)
    for draw in (0, 1):
        found = masks_of(asked, IDS, np.zeros(len(IDS)), draw)
        assert all(not found[f"um_{view}{draw}"].any() and found[f"vm_{view}{draw}"].any() for view in asked.views)
    assert asked.maskable() == {"user": 0, "item": 3}


def test_halves_are_those_of_a_permutation_and_every_field_has_its_turn():
    u = u01(17, IDS[:, None], 1, UM_A, np.arange(5))
    wanted = [slow_masks.bits(sorted(range(5), key=lambda bit: row[bit])[:2]) for row in u]
    found = half_mask(IDS, 5, seed=17, draw=1, what=UM_A)
    assert found.tolist() == wanted
    share = Counter(bit for mask in wanted for bit in range(5) if mask >> bit & 1)
    assert all(abs(share[bit] / len(IDS) - 0.4) < 4 * (0.24 / len(IDS)) ** 0.5 for bit in range(5))


def test_halves_drawn_apart_overlap():
    found = masks_of(masking("rfm", user=4, complementary=False), IDS, np.zeros(len(IDS)), 0)
    same = (found["um_a0"] == found["um_b0"]).mean()
    assert abs(same - 1 / 6) < 4 * (5 / 36 / len(IDS)) ** 0.5  # two of four fields: six halves
    assert (half_mask(IDS, 4, seed=17, draw=0, what=UM_B) == found["um_b0"]).all()


def test_p3_3_what_belongs_together_is_hidden_together():
    # fields A, copy of A, C; MI(A, copy) = ln 2, C tells nothing about either
    a, copy, c = 1, 2, 4
    patterns = correlated(np.array([[0.6931, 0.6931, 0.0], [0.6931, 0.6931, 0.0], [0.0, 0.0, 1.5]]))
    assert patterns == (a | copy, a | copy, c | a)  # C: a tie, so the field that comes first
    asked = masking("cfm", item=3)
    hand = masks_of(Masking(**{**vars(asked), "item_patterns": patterns}), IDS, np.zeros(len(IDS)), 0)
    assert Counter(zip(hand["vm_a0"].tolist(), hand["vm_b0"].tolist(), strict=True)).keys() == {(a | copy, c), (c | a, copy)}
    share = (hand["vm_a0"] == c | a).mean()
    assert abs(share - 1 / 3) < 4 * (2 / 9 / len(IDS)) ** 0.5  # each field is the seed equally often


@pytest.mark.parametrize(("num", "hidden"), [(0, []), (1, [0]), (2, [1, 1]), (3, [2] * 3), (4, [3] * 4), (5, [3] * 5), (9, [5] * 9)])
def test_sizes_of_correlated_fields(num, hidden):
    patterns = correlated(ladder(num))
    assert [bin(pattern).count("1") for pattern in patterns] == hidden
    assert all(num < 2 or pattern >> field & 1 for field, pattern in enumerate(patterns))


def test_a_batch_hides_the_same_fields_in_all_rows_and_batches_take_turns():
    chosen = masking("cfm")
    made = [masks_of_batch(chosen, 5, number) for number in range(200)]
    assert all(len(set(mask.tolist())) == 1 and len(mask) == 5 for masks in made for mask in masks.values())
    for side, patterns in (("um", chosen.user_patterns), ("vm", chosen.item_patterns)):
        seen = Counter(int(masks[f"{side}_a"][0]) for masks in made)
        assert set(seen) == set(patterns)
        assert min(seen.values()) > 20
        whole = (1 << len(patterns)) - 1
        assert all(masks[f"{side}_a"][0] ^ masks[f"{side}_b"][0] == whole for masks in made)


def test_draws_views_and_sides_differ():
    found = masks_of(masking("rfm", user=5, item=5), IDS, np.full(len(IDS), 4), 0)
    found |= masks_of(masking("rfm", user=5, item=5), IDS, np.full(len(IDS), 4), 1)
    for one, other in product(found, found):
        assert one == other or (found[one] != found[other]).any(), (one, other)


# ---- values of multi-valued fields -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 6), st.sampled_from([0.0, 0.2, 0.9, 1.0]), st.integers(0, 5))
def test_values_against_the_slow_twin(sample_id, count, p, field):
    what = VALUES["item", "b"]
    u = [float(u01(17, sample_id, 1, what, field, position)) for position in range(count)]
    dropped = {position for position in range(count) if u[position] < p}
    if count and len(dropped) == count:
        dropped.remove(u.index(max(u)))
    found = value_mask(np.array([sample_id]), np.array([count]), 7, p=p, seed=17, draw=1, what=what, field=field)
    assert found.tolist() == [slow_masks.bits(dropped)]


def test_values_are_dropped_as_often_as_asked_but_never_all():
    ones, many = (value_mask(IDS, np.full(len(IDS), n), 8, p=0.2, seed=17, draw=0, what=VALUES["user", "b"], field=2) for n in (1, 8))
    assert not ones.any()
    share = np.mean([bin(mask).count("1") / 8 for mask in many.tolist()])
    assert abs(share - 0.2) < 4 * (0.16 / 8 / len(IDS)) ** 0.5
    every = value_mask(IDS, np.full(len(IDS), 3), 8, p=1.0, seed=17, draw=0, what=VALUES["user", "b"], field=2)
    assert set(every.tolist()) == {0b011, 0b101, 0b110}


# ---- settings --------------------------------------------------------------------------------------------------------


def test_the_settings_make_the_masking():
    given_ = Settings.model_validate({"samples": {"masks": {"strategy": "cfm", "draws": 3}}, "model": {"history": 7}})
    registry = given_.registry()
    made = masking_of(given_, {"user": [1] * len(registry.user), "item": [1, 2, 4]})
    assert (made.strategy, made.draws, made.history, made.views) == ("cfm", 3, 7, ("a", "b"))
    assert (made.user_fields, made.item_fields, made.item_patterns) == (len(registry.user), len(registry.item), (1, 2, 4))
    assert masking_of(Settings(), {}).views == ("b",)
