"""DSSM against a slow twin in numpy loops."""

import numpy as np
import torch

from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch, build_encoder


def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
    fields = slow.parts(w, slow.user_ids(batch, row, um))
    return slow.mlp(w, "user_tower", np.concatenate([*fields, slow.history(w, batch, row, uh)]), np.tanh)


def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
    return slow.mlp(w, "item_tower", np.concatenate(slow.parts(w, slow.item_ids(idx, vm))), np.tanh)


def test_equals_the_slow_twin() -> None:
    slow.compare(tiny.encoder(tiny.settings()), slow_user, slow_item)


def test_mean_pooling_does_not_see_the_order_of_the_history() -> None:
    # property P4.2
    encoder, batch = tiny.encoder(tiny.settings()), tiny.batch()
    torch.testing.assert_close(encoder.user(slow.turned(batch)), encoder.user(batch), rtol=0, atol=1e-6)


def test_history_and_items_share_the_item_id_table() -> None:
    encoder = tiny.encoder(tiny.settings())
    assert len(encoder.tables()) == len(tiny.VOCAB)
    table = dict(encoder.named_parameters())["embed.item_id.weight"]
    encoder.user(tiny.batch()).sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


def test_without_user_fields_the_history_speaks_alone() -> None:
    # held-out users have no user_id; a log without user attributes then has no user field at all
    given = tiny.settings({"split": {"kind": "user"}, "source.fields": {"user": {}, "item": {}}, "semantics.kind": None})
    assert given.registry().user == ()
    vocab = {"item_id": 12}
    encoder = build_encoder(given, given.registry(), tiny.catalogue(given), vocab)
    assert encoder.user(tiny.batch()).shape == (13, 1, 6)
