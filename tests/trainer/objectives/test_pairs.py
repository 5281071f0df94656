"""The loss at every position: that of a row a click, in one pass."""

import pytest
import torch
from torch import Tensor

from conf.settings import Settings
from tests.trainer import tiny
from trainer.encoders import Batch
from trainer.objectives.pairs import pairs_of

KINDS = ("uniform", "shared", "in_batch", "mixed")


def given(negatives: str = "shared", **overrides: object) -> Settings:
    return tiny.settings(
        {
            "model.encoder": "sasrec",
            "base": {"loss": "sampled_softmax", "negatives": negatives, "num_negatives": 4, "temperature": 0.2},
            "objectives.mic": None,
            "samples.layout": "sequences",
            "trainer.batches": "arrow",
            "trainer.clicks_per_row": 4,
            **{name.replace("__", "."): value for name, value in overrides.items()},
        }
    )


def one_by_one(batch: Batch) -> Batch:
    """A row for each click that the rows stand for, its history the part of theirs before it."""
    rows, clicks, lengths, weights = [], [], [], []
    for row in range(len(batch["row"])):
        length = int(batch["hist_len"][row])
        own = [(p, int(batch["hist"][row, p]), float(batch["hist_weight"][row, p])) for p in range(length)]
        for p, click, weight in [*own, (length, int(batch["item_idx"][row]), float(batch["weight"][row]))]:
            if weight > 0:
                rows.append(row), clicks.append(click), lengths.append(p), weights.append(weight)
    out = tiny.rows_of({name: column for name, column in batch.items() if name != "hist_weight"}, rows)
    length = torch.tensor(lengths)
    hist = out["hist"].masked_fill(torch.arange(tiny.LENGTH) >= length[:, None], 0)
    num = torch.arange(len(rows))
    return {**out, "row": num, "item_idx": torch.tensor(clicks), "hist": hist, "hist_len": length, "weight": torch.tensor(weights)}


def loss_and_gradients(settings: Settings, batch: Batch, known: Tensor) -> tuple[Tensor, list[Tensor]]:
    encoder, criterion = tiny.model(settings, torch.float64)
    step = tiny.step(settings, encoder, batch)
    step.known_positives = known
    total, _ = criterion(step)
    total.backward()
    return total.detach(), [parameter.grad.to_dense() for parameter in encoder.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("overrides", [{}, {"model__fields": {"user": [], "item": None}, "model__item_tower": "id"}], ids=["fields", "ids"])
def test_equals_the_rows_one_by_one(overrides: dict[str, object]) -> None:
    # as many shared negatives as there are items: all of them, so that both sides are compared with the same
    settings = given(**overrides, base__num_negatives=tiny.ITEMS)
    batch = tiny.every_position(tiny.batch())
    known = tiny.known(batch)
    expanded = one_by_one(batch)
    which = expanded["sample_id"] & 0xFFFFFFFF  # tiny's sample_id ends with the number of the row
    got, want = loss_and_gradients(settings, batch, known), loss_and_gradients(settings, expanded, known[which])
    torch.testing.assert_close(got[0], want[0])
    assert len(expanded["row"]) > 2 * len(batch["row"])
    for one, other in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("negatives", KINDS)
def test_rows_of_one_click_are_rows_without_more(negatives: str) -> None:
    settings, batch = given(negatives), tiny.batch()
    none = {**batch, "hist_weight": torch.zeros(13, tiny.LENGTH)}
    (plain, _), (alone, _) = (loss_and_gradients(settings, rows, tiny.known(batch)) for rows in (batch, none))
    if negatives == "uniform":  # each place of a row has draws of its own
        assert plain != alone
    else:
        torch.testing.assert_close(plain, alone)


@pytest.mark.parametrize("negatives", KINDS)
def test_the_order_of_rows_changes_nothing(negatives: str) -> None:
    # dropout and draws go by the row's number and the item
    settings, batch = given(negatives, model__dropout=0.3), tiny.every_position(tiny.batch())
    order = [5, 12, 0, 7, 3, 9, 1, 11, 2, 10, 4, 8, 6]
    turned = tiny.rows_of(batch, order)
    want, got = loss_and_gradients(settings, batch, tiny.known(batch)), loss_and_gradients(settings, turned, tiny.known(turned))
    torch.testing.assert_close(got[0], want[0])
    for one, other in zip(got[1], want[1], strict=True):
        torch.testing.assert_close(one, other)


def test_each_click_once_with_its_weight() -> None:
    batch = tiny.every_position(tiny.batch())
    encoder, _ = tiny.model(given())
    pairs, expanded = pairs_of(tiny.step(given(), encoder, batch)), one_by_one(batch)
    got = sorted(zip(pairs.row_T.tolist(), pairs.place_T.tolist(), pairs.item_T.tolist(), pairs.weight_T.tolist(), strict=True))
    rows = (expanded["sample_id"] & 0xFFFFFFFF).tolist()
    want = sorted(zip(rows, *(expanded[name].tolist() for name in ("hist_len", "item_idx", "weight")), strict=True))
    assert got == want


def test_the_users_of_the_rows_are_those_of_the_last_position() -> None:
    batch = tiny.every_position(tiny.batch())
    encoder, _ = tiny.model(given())
    plain = tiny.step(given(), encoder, {name: column for name, column in batch.items() if name != "hist_weight"})
    torch.testing.assert_close(tiny.step(given(), encoder, batch).user_BKD, plain.user_BKD)
