"""FM: the two towers rank as the full factorisation machine does."""

import numpy as np
import torch

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch

GIVEN = tiny.by_encoder("fm")


def pairs(vectors: list[slow.Vector]) -> float:
    return float(sum(vectors[f] @ vectors[g] for f in range(len(vectors)) for g in range(f)))


def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
    fields = [slow.history(w, batch, row, uh), *slow.parts(w, slow.user_ids(batch, row, um))]
    return np.append(np.sum(fields, axis=0), 1.0)


def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
    ids = slow.item_ids(idx, vm)
    fields = slow.parts(w, ids)
    linear = sum(float(slow.pooled(w[f"linear.{name}.weight"], found)[0]) for name, found in ids.items())
    return np.append(np.sum(fields, axis=0), linear + pairs(fields))


def test_equals_the_slow_twin() -> None:
    encoder = tiny.encoder(tiny.settings(GIVEN))
    assert (encoder.dim, encoder.similarity) == (7, "inner_product")
    slow.compare(encoder, slow_user, slow_item)


def test_the_full_score_differs_by_one_number_a_user() -> None:
    # property P4.5
    encoder, batch = tiny.encoder(tiny.settings(GIVEN)).eval(), tiny.batch()
    w, items = slow.weights(encoder), torch.arange(1, tiny.ITEMS + 1)
    inner_BN = (encoder.user(batch)[:, 0] @ encoder.item(items).T).detach().numpy()
    for row in range(len(batch["row"])):
        user_fields = [slow.history(w, batch, row, 0), *slow.parts(w, slow.user_ids(batch, row, 0))]
        gaps = []
        for idx in items.tolist():
            ids = slow.item_ids(idx)
            linear = sum(float(slow.pooled(w[f"linear.{name}.weight"], found)[0]) for name, found in ids.items())
            gaps.append(linear + pairs([*user_fields, *slow.parts(w, ids)]) - inner_BN[row, idx - 1])
        np.testing.assert_allclose(gaps, gaps[0], atol=1e-5)


def test_sums_only() -> None:
    encoder = tiny.encoder(tiny.settings({**GIVEN, "model.fm": {"sum_only": True}}))
    assert (encoder.dim, encoder.similarity) == (6, "cosine")
    assert not any(name.startswith("linear") for name in encoder.state_dict())
    slow.compare(encoder, lambda *given: slow_user(*given)[:6], lambda w, idx, vm: np.sum(slow.parts(w, slow.item_ids(idx, vm)), axis=0))
