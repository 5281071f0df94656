"""A planted day of tables for the trainer's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.settings import Settings
from tests.trainer.planted import World, planted_settings, publish

Day = Callable[..., tuple[Settings, World]]


@pytest.fixture
def day(tmp_path: Path) -> Day:
    """day(trainer={"epochs": 1}, ...) -> (settings, what was planted), with the tables published under the test's own folder."""

    def make(**sections: dict[str, object]) -> tuple[Settings, World]:
        settings = planted_settings(tmp_path / "root", **sections)
        return settings, publish(settings)

    return make
