"""Section `mining`: off unless it is given, and refused where part of it would do nothing."""

import pytest

from conf.errors import SettingsError
from conf.settings import load

MIC = "objectives.mic.weight=0.3"


def test_off_unless_given() -> None:
    assert load("demo").mining is None
    given = load("demo", [MIC, "mining.neighbours=7"])
    assert given.mining is not None
    assert (given.mining.neighbours, given.mining.hard_negatives) == (7, 8)
    only = ["mining.user_items=hard_negative", "mining.positives=0", "objectives.mic.uu=0", "objectives.mic.vv=0"]
    assert load("demo", [MIC, *only]).mining is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mining.positives=0", "mining.hard_negatives=0"], "neither positives nor hard_negatives"),
        (["mining.positives=6"], "drawn from mining.neighbours"),
        (["mining.replace=true", "mining.positives=2"], "set mining.positives: 1"),
        (["mining.bank=queue"], "set mining.hard_negatives: 0"),
        (["mining.positives=1", "objectives.mic.uu=0", "objectives.mic.vv=0"], "give one of them a weight"),
        (["mining.positives=1", "objectives.mic=null"], "enters objectives.mic; give it a weight"),
        (["mining.user_items=positive", "objectives.mic.uv=0"], "enters objectives.mic's uv"),
        (["mining.user_items=positive", "objectives.mic.logq=true"], "set objectives.mic.logq: false"),
        (["mining.user_items=positive", "mining.bank=queue", "mining.hard_negatives=0"], "set mining.bank: full"),
        (["mining.user_items=hard_negative", "mining.hard_negatives=0"], "give a number"),
        (["mining.user_items=hard_negative", "mining.user_items_first=201"], r"user_items_first \(201\) is beyond user_items_last \(200\)"),
    ],
)
def test_what_would_do_nothing_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load("demo", [MIC, *overrides])
