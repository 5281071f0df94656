"""Checkpoints: whole or absent, the one before kept, refused where they belong to something else."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs as pafs

from conf.errors import BadDataError, UsageError
from tests.trainer.planted import planted_settings
from trainer.checkpoints import INDEX, Checkpoints, fingerprint


class Events(list[dict[str, Any]]):
    """A log that keeps its lines."""

    def __call__(self, event: str, **values: Any) -> None:
        self.append({"event": event, **values})


def opened(folder: Path, name: str = "same") -> Checkpoints:
    return Checkpoints(pafs.LocalFileSystem(), str(folder), name)


def state(step: int) -> dict[str, Any]:
    return {"weights": torch.full((3,), float(step)), "progress": {"step": step, "best": None, "lines": ["a", "b"]}}


def file_of(folder: Path, place: int, kind: str = "state") -> Path:
    return folder / json.loads((folder / INDEX).read_text())["kept"][place][kind]["name"]


def test_nothing_saved_nothing_loaded(tmp_path: Path) -> None:
    assert opened(tmp_path / "work").load(Events()) is None


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    for step in range(4):
        checkpoints.save(state(step))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".pt", ".pt"]
    log = Events()
    loaded = opened(tmp_path).load(log)
    assert loaded is not None
    assert loaded["progress"] == state(3)["progress"]
    assert torch.equal(loaded["weights"], torch.full((3,), 3.0))
    assert log == []


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(p.read_bytes()[:-1]), lambda p: p.write_bytes(b"x" + p.read_bytes()[1:]), Path.unlink]
)
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path, damage: Any) -> None:
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    damage(file_of(tmp_path, 0))
    log = Events()
    again = opened(tmp_path)
    loaded = again.load(log)
    assert loaded is not None
    assert loaded["progress"]["step"] == 1
    assert [line["event"] for line in log] == ["damaged"]
    again.save(state(5))  # and goes on from there: the whole one stays kept
    damage(file_of(tmp_path, 0))
    assert opened(tmp_path).load(log)["progress"]["step"] == 1  # type: ignore[index]


def test_two_damaged_ones_are_an_error_that_names_both(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    for step in (1, 2):
        checkpoints.save(state(step))
    for place in (0, 1):
        file_of(tmp_path, place).write_bytes(b"")
    with pytest.raises(BadDataError) as caught:
        opened(tmp_path).load(Events())
    assert len(caught.value.faults) == 2


def test_the_best_weights_belong_to_the_checkpoint_saved_after_them(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    checkpoints.save_best({"w": torch.ones(1)})
    checkpoints.save(state(1))
    checkpoints.save_best({"w": torch.full((1,), 2.0)})  # killed before the next save: the state of step 1 never saw it
    again = opened(tmp_path)
    again.load(Events())
    assert again.load_best()["w"].item() == 1
    again.save_best({"w": torch.full((1,), 2.0)})
    again.save(state(2))
    again.save(state(3))
    assert again.load_best()["w"].item() == 2
    assert len(list(tmp_path.glob("best-*.pt"))) == 1
    file_of(tmp_path, 0, "best").write_bytes(b"")
    with pytest.raises(BadDataError):
        opened(tmp_path).load(Events())


def test_other_settings_or_inputs_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, "one").save(state(1))
    with pytest.raises(UsageError, match="other settings or inputs") as caught:
        opened(tmp_path, "two").load(Events())
    assert caught.value.exit_code == 2


def test_the_fingerprint_is_of_what_shapes_a_step() -> None:
    base = planted_settings("a")
    seen = {"samples": "main/2026-01-31/r1 10:abc"}
    same = [
        fingerprint(base, seen),
        fingerprint(planted_settings("b", trainer={"workers": 3, "epochs": 9, "patience": 1, "batches": "petastorm"}), seen),
        fingerprint(base, {"samples": "main/2026-01-31/r2 10:abc"}),  # another run of the same content
    ]
    other = [
        fingerprint(planted_settings("a", trainer={"seed": 2}), seen),
        fingerprint(planted_settings("a", trainer={"streams": 3}), seen),
        fingerprint(planted_settings("a", model={"dropout": 0.1}), seen),
        fingerprint(planted_settings("a", channels={"seen": "none"}), seen),
        fingerprint(base, {"samples": "main/2026-01-31/r1 10:abd"}),
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 1 + len(other)


def test_a_crafted_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    checkpoints = opened(tmp_path)
    checkpoints.save({"x": Runs()})
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        opened(tmp_path).load(Events())
    assert not (tmp_path / "ran").exists()


FULL = """
import resource, signal, sys, torch
from pyarrow import fs
from trainer.checkpoints import Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(fs.LocalFileSystem(), sys.argv[1], "same")
checkpoints.load(print)
try:
    checkpoints.save({"w": torch.zeros(1 << 20)})
except OSError as error:
    print("failed", error.errno)
"""


def test_a_disk_that_refuses_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    opened(tmp_path).save(state(1))
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["failed", str(errno.EFBIG)]  # the disk's own error, not the one torch's clean-up raises over it
    loaded = opened(tmp_path).load(Events())
    assert loaded is not None
    assert loaded["progress"]["step"] == 1
    assert not list(tmp_path.glob("*.tmp"))
