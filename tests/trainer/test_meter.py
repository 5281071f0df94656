import json

import torch
from torch import Tensor

from trainer.backends.single import SingleBackend
from trainer.meter import Meter, line


class Two(SingleBackend):
    """Rank 0 of two that told the same numbers, but for the second's being larger by 4 a step."""

    size = 2

    def __init__(self, counts: list[int]) -> None:
        self.counts = torch.tensor(counts)

    def sum(self, x: Tensor) -> Tensor:
        return x + x + 4 * self.counts


def test_averages_over_the_steps_that_told() -> None:
    meter = Meter()
    meter.add({"loss": 1.0})
    meter.add({"loss": 2.0, "watch.ui_align": 0.5})
    meter.add({"loss": 6.0})
    assert meter.averages(SingleBackend()) == {"loss": 3.0, "watch.ui_align": 0.5}
    assert meter.averages(Two([3, 1])) == {"loss": 5.0, "watch.ui_align": 2.5}
    assert meter.steps == 3


def test_a_meter_of_two_workers_goes_on_with_one() -> None:
    meter = Meter()
    meter.add({"loss": 1.0, "watch.ui_align": 0.5})
    meter.add({"loss": 3.0})
    state = meter.state(Two([2, 1]))
    again = Meter.restore(state)
    assert again.averages(SingleBackend()) == meter.averages(Two([2, 1])) == {"loss": 4.0, "watch.ui_align": 2.5}
    again.add({"loss": 7.0})
    assert again.averages(SingleBackend()) == {"loss": 5.0, "watch.ui_align": 2.5}
    assert again.steps == 3


def test_an_empty_meter() -> None:
    assert Meter.restore(Meter().state(SingleBackend())).averages(SingleBackend()) == {}


def test_line() -> None:
    got = json.loads(line("step", 1, 20, {"loss": 1 / 3, "steps": 4, "recall@10": None}))
    assert got == {"kind": "step", "epoch": 1, "step": 20, "loss": 0.3333333, "steps": 4, "recall@10": None}
