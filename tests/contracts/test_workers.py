"""1, 2 and 3 real Horovod workers do the same work as one process: losses, gradients and 20-step curves."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts import horovod_worker
from tests.contracts.horovod_worker import CASES, CURVES, SHARDS
from trainer.backends.single import SingleBackend

pytest.importorskip("horovod.torch", reason="Horovod is not installed; scripts/build_horovod makes it")
Workers = Callable[[int], dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]


def launch(num_workers: int, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """horovodrun over gloo on this machine."""
    horovodrun = Path(sys.executable).with_name("horovodrun")
    command = [str(horovodrun), "-np", str(num_workers), "--gloo", sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{horovodrun.parent}:{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "HOROVOD_CACHE_CAPACITY": "256"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers
    result = horovod_worker.run(SingleBackend())
    torch.set_num_threads(threads)
    return result


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Workers:
    """num_workers -> rank 0's results; one launch for each number."""
    folder = tmp_path_factory.mktemp("workers")
    launched: dict[int, subprocess.CompletedProcess[str]] = {}

    def of(num_workers: int) -> dict[str, Any]:
        file = folder / f"{num_workers}.pt"
        if num_workers not in launched:
            launched[num_workers] = launch(num_workers, "tests/contracts/horovod_worker.py", str(file))
        done = launched[num_workers]
        assert done.returncode == 0, done.stdout + done.stderr
        # a call whose name is new in every step is negotiated anew in every step, and soon drives others from Horovod's cache
        assert "evicted from cache" not in done.stderr
        results: dict[str, Any] = torch.load(file, weights_only=True)
        return results

    return of


def test_the_shards_hold_what_they_are_for() -> None:
    batch = horovod_worker.global_batch()
    for num_workers, shards in SHARDS.items():
        assert len(shards) == num_workers
        assert sorted(row for shard in shards for row in shard) == list(range(13))
    for name in ("user_idx", "item_idx"):
        ids = batch[name].tolist()
        assert len(set(ids)) < len(ids)
        assert {ids[0], ids[2], ids[4]} & {ids[3], ids[5], ids[7]}, f"no {name} on both of two ranks"
        first = [ids.index(value) for value in ids]
        assert all(first[row] < row for row in SHARDS[3][2]), f"rank 2 of 3 has an anchor by {name}"


@pytest.mark.parametrize("num_workers", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_first_step_equals_one_process(
    case: str, num_workers: int, single: dict[str, Any], workers: Callable[[int], dict[str, Any]]
) -> None:
    # property P5.9
    tolerance = 1e-10 if CASES[case].dtype == torch.float64 else 1e-5
    want, got = single["first"][case], workers(num_workers)["first"][case]
    torch.testing.assert_close(got["loss"], want["loss"], rtol=0, atol=tolerance)
    for part, value in want["parts"].items():
        torch.testing.assert_close(got["parts"][part], value, rtol=0, atol=tolerance, msg=lambda text, part=part: f"{part}: {text}")
    assert got["gradients"].keys() == want["gradients"].keys()
    for name, gradient in want["gradients"].items():
        torch.testing.assert_close(got["gradients"][name], gradient, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("num_workers", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CURVES)
def test_curves_equal_one_process(case: str, num_workers: int, single: dict[str, Any], workers: Workers) -> None:
    want, got = single["curves"][case], workers(num_workers)["curves"][case]
    assert want[-5:].mean() < want[:5].mean()  # it learns something at all
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_interface(num_workers: int, workers: Workers) -> None:
    got = workers(num_workers)["interface"]
    ranks = torch.arange(num_workers, dtype=torch.float64)
    rows = torch.repeat_interleave(ranks + 1, ranks.long())[:, None].expand(-1, 2)
    torch.testing.assert_close(got["gathered"], rows)
    # every rank r' weighs gathered row i with (i + 1)(r' + 1): the exact gradient of row i is their sum
    exact = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)[:, None] * (ranks + 1).sum()
    torch.testing.assert_close(got["gradients"], exact.expand(-1, 2))
    assert got["sum"] == num_workers * (num_workers + 1) / 2
    assert got["min"] == 7 - (num_workers - 1)
    assert got["any"] == (True, False)
    torch.testing.assert_close(got["broadcast"], torch.full((2, 2), 5.0))
    share = 1 / num_workers
    torch.testing.assert_close(got["lopsided"][0], torch.full((3, 2), share))
    torch.testing.assert_close(got["lopsided"][1], torch.tensor([[0.0, 0], [share, share], [2 * share, 2 * share]]))
    torch.testing.assert_close(got["lopsided"][2], torch.zeros(3, 2))


def test_abort_of_one_worker_ends_all() -> None:
    # the others sit in a collective call that will never come back
    code = "from trainer.backends import build_backend as b; b = b('horovod'); b.rank == 1 and b.abort(); b.agree_min(1)"
    started = time.monotonic()
    done = launch(2, "-c", code, timeout_s=60)
    assert done.returncode != 0
    assert "Exit code: 7" in done.stderr
    assert time.monotonic() - started < 45


def test_barrier_gives_up_in_time() -> None:
    code = """
import sys, time
from conf.errors import TrainingError
from trainer.backends import build_backend
backend = build_backend("horovod")
if backend.rank == 1:
    time.sleep(60)
try:
    backend.barrier(timeout_s=1)
except TrainingError as error:
    print(error, flush=True)
    backend.abort()
"""
    done = launch(2, "-c", code, timeout_s=50)
    assert done.returncode != 0
    assert "not all 2 workers came within 1 s" in done.stdout + done.stderr
