"""Half precision gives nearly what full precision does, and is never seen outside the towers; a GPU is used where there is one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conf.errors import UsageError
from tests.trainer import tiny
from tests.trainer.conftest import Day
from tests.trainer.trained import metrics, with_trainer
from trainer.devices import device_of, in_precision
from trainer.encoders import ENCODERS
from trainer.train import run

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_half_precision_is_near_full_precision(name: str) -> None:
    encoder = tiny.encoder(tiny.settings(tiny.by_encoder(name)))
    half, batch = in_precision(encoder, "bf16", CPU), tiny.batch()
    for given, want in (
        (half.user(batch, um=batch["um_b"], uh=batch["uh_b"]), encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"])),
        (half.item(batch["item_idx"], vm=batch["vm_b"]), encoder.item(batch["item_idx"], vm=batch["vm_b"])),
        (half.features(batch["item_idx"]), encoder.features(batch["item_idx"])),
    ):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, want, rtol=0.05, atol=0.02 * want.abs().max().item())
    assert not torch.equal(half.item(batch["item_idx"]), encoder.item(batch["item_idx"])) or name == "fm"  # which has no matrix product
    half.user(batch).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters() if p.grad is not None)


def test_full_precision_is_the_encoder_itself() -> None:
    encoder = tiny.encoder(tiny.settings())
    assert in_precision(encoder, "float32", CPU) is encoder


def test_training_in_half_precision_learns_as_well(day: Day, asked: Callable[..., Any]) -> None:
    settings, _ = day(trainer={"epochs": 3, "device": "cpu"})
    found = []
    for precision in ("float32", "bf16"):
        own = with_trainer(settings, precision=precision)
        run(asked(own, run_id=precision, force=True))
        found.append(torch.tensor([line["loss"] for line in metrics(own, "epoch")]))
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == CPU
    with pytest.raises(UsageError, match="torch finds no GPU"):
        device_of("cuda")


@no_gpu
def test_a_gpu_trains_what_a_cpu_does(day: Day, asked: Callable[..., Any]) -> None:
    settings, _ = day(trainer={"epochs": 2, "device": "cpu"}, objectives={"mic": {}})
    found = []
    for device in ("cpu", "cuda"):
        own = with_trainer(settings, device=device)
        run(asked(own, run_id=device, force=True))
        found.append(torch.tensor([line["loss"] for line in metrics(own, "step")]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


@no_gpu
def test_each_worker_of_a_host_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))  # one more than there are: they begin anew
    assert device_of("auto") == torch.device("cuda", 0)
