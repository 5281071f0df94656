"""YoutubeDNN against a slow twin, and ComiRec's variant of it."""

import numpy as np
import pytest
import torch

from conf.settings import Settings
from tests.trainer import tiny
from tests.trainer.encoders import slow
from trainer.encoders import Batch

GIVEN = {"model.encoder": "youtube_dnn"}
ID_ALONE = {**GIVEN, "model.item_tower": "id", "model.hidden": [], "model.fields": {"user": [], "item": None}}


def slow_user(w: slow.Weights, batch: Batch, row: int, um: int, uh: int) -> slow.Vector:
    fields = slow.parts(w, slow.user_ids(batch, row, um))
    return slow.mlp(w, "user_tower", np.concatenate([*fields, slow.history(w, batch, row, uh)]), slow.relu)


def slow_item(w: slow.Weights, idx: int, vm: int) -> slow.Vector:
    return slow.mlp(w, "item_tower", np.concatenate(slow.parts(w, slow.item_ids(idx, vm))), slow.relu)


def test_equals_the_slow_twin() -> None:
    slow.compare(tiny.encoder(tiny.settings(GIVEN)), slow_user, slow_item)


def test_comirecs_variant_is_one_linear_layer_on_ids() -> None:
    encoder = tiny.encoder(tiny.settings(ID_ALONE))
    assert sorted(encoder.state_dict()) == ["embed.item_id.weight", "user_tower.0.bias", "user_tower.0.weight"]
    slow.compare(
        encoder,
        lambda w, batch, row, um, uh: slow.dense(w, "user_tower.0", slow.history(w, batch, row, uh)),
        lambda w, idx, vm: slow.pooled(w["embed.item_id.weight"], slow.item_ids(idx, vm)["item_id"]),
    )


def test_the_order_of_the_history_does_not_matter() -> None:
    # property P4.2
    encoder, batch = tiny.encoder(tiny.settings(GIVEN)), tiny.batch()
    torch.testing.assert_close(encoder.user(slow.turned(batch)), encoder.user(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model.encoder": "dssm", "model.item_tower": "id"}, "model.item_tower: id is of youtube_dnn"),
        ({**ID_ALONE, "model.embedding": {"dim": 4}}, "needs embeddings as wide as vectors"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings.model_validate(tiny.settings(overrides))
