"""What every loss promises. A new loss is tested by its line in BASE_LOSSES or OBJECTIVES."""

from typing import Any

import pytest
import torch
from torch import Tensor

from conf.sections.training import PARTS
from tests.trainer import tiny
from trainer.encoders import ENCODERS
from trainer.objectives import BASE_LOSSES, OBJECTIVES, build_objectives

OFF: dict[str, Any] = {f"objectives.{name}": None for name in OBJECTIVES}
ALL = {
    **{name: {**OFF, "base.loss": name} for name in BASE_LOSSES},
    **{
        f"sampled_softmax {kind}": {**OFF, "base": {"loss": "sampled_softmax", "negatives": kind}}
        for kind in ("shared", "in_batch", "mixed")
    },
    "logistic in_batch": {**OFF, "base": {"loss": "logistic", "negatives": "in_batch"}},
    "mic": {**OFF, "base.weight": 0, "objectives.mic": {}},
    "mic, both kinds of views, learned weights": {
        **OFF,
        "objectives.mic": {"views": "both", "uv": "learned", "uu": "learned", "vv": "learned", "same_side_projection": "linear"},
    },
    "mic augmented": {**OFF, "objectives.mic": {"views": "augmented", "logq": True, "perturb_sides": "item", "set_similarity": "slots"}},
    "mic as printed": {**OFF, "objectives.mic": {"views": "literal", "same_side": "literal"}},
    # these compare items only: users learn from the base loss
    **{name: {**OFF, f"objectives.{name}": {}} for name in OBJECTIVES if name != "mic"},
    "micrec, all that fea can drop": {
        **OFF,
        "objectives.micrec": {"sem": 0, "sess": 0, "field_p": 0.4, "value_p": 0.4, "fea_input": "tower"},
    },
    "micrec of drawn items": {**OFF, "objectives.micrec": {"items": "uniform"}},
    "masked_views, rfm": {**OFF, "objectives.masked_views": {"items": "unique", "symmetric": True}, "samples.masks": {"strategy": "rfm"}},
    "mic and micrec": {**OFF, "objectives.mic": {}, "objectives.micrec": {}},
}


SIGNED = [ALL["mic as printed"]]  # the denominator leaves the positive out


@pytest.fixture(params=sorted(ALL))
def overrides(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(ALL[request.param])


def losses(overrides: dict[str, Any], batch: dict[str, Tensor], dtype: torch.dtype = torch.float64, number: int = 11) -> tuple[Tensor, Any]:
    given = tiny.settings(overrides)
    encoder, criterion = tiny.model(given, dtype)
    total, _ = criterion(tiny.step(given, encoder, batch, number=number))
    return total, (encoder, criterion)


def compares_by_cosine(overrides: dict[str, Any]) -> bool:
    given = tiny.settings(overrides)
    return given.base.loss == "logistic" or not given.objectives.trained.keys() <= {"micrec"}


def test_scalars_not_negative(overrides: dict[str, Any]) -> None:
    # property P5.12
    for seed in range(5):
        given = tiny.settings(overrides)
        encoder, criterion = tiny.model(given)
        total, parts = criterion(tiny.step(given, encoder, tiny.batch(seed=seed)))
        assert total.shape == ()
        assert parts
        for value in parts.values():
            assert value.shape == ()
            assert value >= 0 or overrides in SIGNED
            assert not value.requires_grad


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_gradient_reaches_every_parameter(name: str, overrides: dict[str, Any]) -> None:
    by_cosine = {"model.fm": {"sum_only": True}} if name == "fm" and compares_by_cosine(overrides) else {}
    total, (encoder, criterion) = losses({**overrides, **by_cosine, "model.encoder": name}, tiny.batch())
    total.backward()
    for key, parameter in [*encoder.named_parameters(), *criterion.named_parameters()]:
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_the_order_of_rows_changes_nothing(overrides: dict[str, Any]) -> None:
    # property P5.4; the draws go by the row's number
    order = [5, 12, 0, 7, 3, 9, 1, 11, 2, 10, 4, 8, 6]
    want, got = losses(overrides, tiny.batch())[0], losses(overrides, tiny.rows_of(tiny.batch(), order))[0]
    torch.testing.assert_close(got, want)


def test_the_same_step_is_the_same_number(overrides: dict[str, Any]) -> None:
    overrides = {**overrides, "model.dropout": 0.3}
    torch.manual_seed(1)
    want = losses(overrides, tiny.batch())[0]
    torch.manual_seed(2)
    assert losses(overrides, tiny.batch())[0] == want
    assert losses(overrides, tiny.batch(), number=12)[0] != want  # another step drops other elements


@pytest.mark.parametrize("rows", [[0], [4, 4, 4]], ids=["one row", "one row three times"])
def test_hardly_any_rows(overrides: dict[str, Any], rows: list[int]) -> None:
    batch = tiny.rows_of(tiny.batch(), rows)
    batch["row"] = torch.arange(len(rows))
    total, (encoder, criterion) = losses(overrides, batch)
    total.backward()
    assert total.isfinite()
    for parameter in [*encoder.parameters(), *criterion.parameters()]:
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_half_precision_vectors_give_float32_losses(overrides: dict[str, Any]) -> None:
    given = tiny.settings(overrides)
    encoder, criterion = tiny.model(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = criterion(tiny.step(given, encoder, tiny.batch()))
    assert total.dtype == torch.float32
    want, _ = criterion(tiny.step(given, encoder, tiny.batch()))
    torch.testing.assert_close(total, want, rtol=0.05, atol=0.05)


def test_weights_name_the_parts(overrides: dict[str, Any]) -> None:
    given = tiny.settings(overrides)
    encoder, criterion = tiny.model(given)
    for loss in criterion.losses.values():
        assert set(loss(tiny.step(given, encoder, tiny.batch()))) == set(loss.weights)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_an_objective_without_weighted_parts_is_left_out(name: str) -> None:
    # property P5.11 for MicRec's: it equals the encoder's own loss
    given = tiny.settings({**OFF, f"objectives.{name}": dict.fromkeys(PARTS[name], 0)})
    criterion = build_objectives(given, tiny.encoder(given))
    assert list(criterion.losses) == ["logistic"]


def test_unknown_loss_is_refused() -> None:
    given = tiny.settings()
    other = given.model_copy(update={"base": given.base.model_copy(update={"loss": "hinge"})})
    with pytest.raises(ValueError, match="unknown base loss 'hinge'; known: logistic, sampled_softmax"):
        build_objectives(other, tiny.encoder(given))
