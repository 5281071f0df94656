"""Dropped values of multi-valued fields: those of conf.masks, field by field."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.masks import VALUES, value_mask
from tests.trainer import tiny
from trainer.objectives.values import drop_values, fewer_values


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 5)), min_size=1, max_size=8),
    st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
)
def test_equals_conf_masks(rows: list[tuple[int, int]], p: float, draw: int, seed: int) -> None:
    sample_id, count = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    ids = torch.from_numpy(np.where(np.arange(5) < count[:, None], 7 + np.arange(5), 0))
    asked = {"p": p, "seed": seed, "what": VALUES["item", "a"], "field": 2}
    got = drop_values(ids, torch.from_numpy(sample_id), torch.full((len(rows),), draw), **asked)  # type: ignore[arg-type]
    dropped = value_mask(sample_id, count, 5, draw=draw, **asked)  # type: ignore[arg-type]
    want = np.where(dropped[:, None] >> np.arange(5) & 1, 0, ids.numpy())
    np.testing.assert_array_equal(got.numpy(), want)
    assert ((got > 0).any(dim=1) == torch.from_numpy(count > 0)).all()


def test_every_multi_valued_field_has_draws_of_its_own() -> None:
    asked, batch = tiny.settings({"samples.masks": {"p_val": 0.5}}), tiny.batch(200)
    batch["draw"] = torch.zeros_like(batch["row"])
    ids = torch.arange(4, 10).repeat(200, 1)
    found = {
        (side, view): fewer_values(asked, side, view, batch, {"hobbies": ids, "tags": ids})  # type: ignore[arg-type]
        for side in ("user", "item")
        for view in ("a", "b")
    }
    assert [sorted(fields) for fields in found.values()] == [["hobbies"]] * 2 + [["tags"]] * 2
    each = [ids for fields in found.values() for ids in fields.values()]
    assert all(float((ids > 0).double().mean()) == pytest.approx(0.5, abs=0.06) for ids in each)
    assert not any(torch.equal(one, other) for n, one in enumerate(each) for other in each[:n])
    later = fewer_values(asked, "item", "b", {**batch, "draw": batch["draw"] + 1}, {"tags": ids})["tags"]
    assert not torch.equal(later, found["item", "b"]["tags"])


def test_probability_0_leaves_all_as_they_are() -> None:
    assert fewer_values(tiny.settings(), "item", "b", tiny.batch(), {}) == {}
