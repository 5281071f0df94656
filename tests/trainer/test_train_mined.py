"""Training with mining: when it searches, and that a training that was cut goes on with the same tables."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.command import Request
from conf.settings import Settings
from conf.storage import Store
from tests.trainer.planted import DS, planted_settings, publish
from tests.trainer.trained import metrics, model
from trainer.checkpoints import work_folder
from trainer.loop import Loop
from trainer.mining import Miner
from trainer.train import run

Asked = Callable[..., Request]

MINING: dict[str, object] = {"refresh_steps": 7, "clusters": 4, "min_similarity": 0.0}


def settings_of(root: Path, mining: dict[str, object] | None = MINING, **trainer: object) -> Settings:
    given = planted_settings(root, objectives={"mic": {}}, trainer={"epochs": 2, "checkpoint_steps": 5, **trainer})
    settings = Settings.model_validate(given.model_dump(mode="json") | {"mining": mining})
    publish(settings)
    return settings


def test_p64_mining_changes_nothing_before_the_end_of_warm_up(tmp_path: Path, asked: Asked) -> None:
    runs = [settings_of(tmp_path / "off", None, epochs=1), settings_of(tmp_path / "on", {**MINING, "warmup_epochs": 1}, epochs=1)]
    for settings in runs:
        run(asked(settings))
    assert model(runs[0]).content_hash == model(runs[1]).content_hash
    assert metrics(runs[0]) == metrics(runs[1])


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch, settings: Settings, asked: Request) -> None:
    """Train until step number `step` fails."""
    whole = Loop.step

    def fails(self: Loop, batch: Any, number: int, **given: Any) -> Any:
        if number == step:
            raise RuntimeError("cut")
        return whole(self, batch, number, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", fails)
        with pytest.raises(RuntimeError, match="cut"):
            run(asked)


QUEUE: dict[str, object] = {"bank": "queue", "hard_negatives": 0, "queue_size": 100, "min_similarity": 0.0}


RECOMMENDED: dict[str, object] = {**MINING, "user_items": "hard_negative", "encode": "live"}


@pytest.mark.parametrize(
    ("mining", "late"),
    [
        pytest.param(MINING, 17, id="between searches", marks=pytest.mark.slow),
        pytest.param(MINING, 21, id="before one", marks=pytest.mark.slow),
        pytest.param(QUEUE, 14, id="queue", marks=pytest.mark.slow),
        pytest.param(RECOMMENDED, 17, id="recommended", marks=pytest.mark.slow),
    ],
)
def test_p65_a_cut_training_resumes_with_the_same_tables(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, mining: dict[str, object], late: int
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    whole, cut = (settings_of(tmp_path / name, mining) for name in ("whole", "cut"))
    run(asked(whole))
    steps = model(whole).counters["steps_per_epoch"]
    searched = [line["step"] for line in metrics(whole, "search")]
    assert searched == ([] if mining is QUEUE else list(range(steps, 2 * steps, 7)))  # from the end of the first epoch on
    if mining is MINING:
        tells_what_was_found(whole)
    cut_at(steps + late, monkeypatch, cut, asked(cut, "r1"))
    kept = [path.name.split("-")[0] for path in Path(work_folder(Store.of(cut), DS)).glob("*.pt")]
    assert kept.count("mined") <= 3  # of two checkpoints, and of a search since
    asked_again, searches, refresh = asked(cut, "r2"), [], Miner.refresh
    monkeypatch.setattr(Miner, "refresh", lambda self, number: searches.append(number) or refresh(self, number))
    run(asked_again, resume=True)
    assert all(number > steps for number in searches)  # what was found before was taken up, not searched again
    assert model(cut).content_hash == model(whole).content_hash
    assert metrics(cut) == metrics(whole)
    assert list(temporary.iterdir()) == []


def tells_what_was_found(settings: Settings) -> None:
    """Lines of the searches, and of what steps drew from them."""
    for line in metrics(settings, "search"):
        assert (line["epoch"], line["user.bank"]) == (1, 60)
        assert line["item.clusters"] <= 4
        assert -1 <= line["item.similarity"] <= 1
        assert line["user.search_recall"] == 1
    first, last = metrics(settings, "epoch")
    assert not any(name.startswith("watch.mined") for name in first)
    assert 0 <= last["watch.mined.uu.staleness"] < 7
    for part in ("uu", "vv"):
        assert 0 <= last[f"watch.mined.{part}.false_negatives"] <= 1
        assert 0 < last[f"watch.mined.{part}.positives"] <= 1
