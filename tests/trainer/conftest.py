"""A planted day of tables for the trainer's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from conf.command import Log, Request
from conf.settings import Settings
from conf.storage import MAIN
from tests.trainer.planted import DS, World, planted_settings, publish

Day = Callable[..., tuple[Settings, World]]


@pytest.fixture
def day(tmp_path: Path) -> Day:
    """day(trainer={"epochs": 1}, ...) -> (settings, what was planted), with the tables published under the test's own folder."""

    def make(**sections: dict[str, object]) -> tuple[Settings, World]:
        settings = planted_settings(tmp_path / "root", **sections)
        return settings, publish(settings)

    return make


@pytest.fixture
def asked() -> Callable[..., Request]:
    """asked(settings, run_id="r1", force=True, ...) -> the request that a command line would be parsed into."""

    def make(settings: Settings, run_id: str = "r1", **flags: bool) -> Request:
        given = {"force": False, "break_lock": False, "dry_run": False} | flags
        return Request("test", settings, (), DS, MAIN, run_id, log=Log("json", run_id=run_id), **given)

    return make


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """A training in the process of the tests sets threads and determinism."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
