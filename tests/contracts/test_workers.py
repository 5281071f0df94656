"""1, 2 and 3 real workers of each backend do the same work as one process: losses, gradients and 20-step curves."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.launchers import LAUNCHERS
from tests.cluster.standalone import free_port
from tests.contracts import backend_worker
from tests.contracts.backend_worker import CASES, CURVES, DIVIDED, SHARDS
from tests.contracts.mined_worker import BLOBS
from tests.contracts.mined_worker import STEPS as MINED
from tests.contracts.sharded_worker import AFTER, BEFORE, FIELDS, OPTIMIZERS, go_on, model, settings, train
from tests.trainer import tiny
from trainer.backends import BACKENDS
from trainer.backends.single import SingleBackend

Workers = Callable[[str, int], dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
TALKING = [name for name in BACKENDS if name != "single"]
# One launch of workers runs all cases. Two workers show what one and three show, but for what needs a middle or nobody.
POOLS = [pytest.param(name, num, marks=[pytest.mark.slow] * (num != 2)) for name in TALKING for num in (1, 2, 3)]
pools = pytest.mark.parametrize(("backend", "num_workers"), POOLS)


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1", "HOROVOD_CACHE_CAPACITY": "2048"}


def launch(backend: str, num_workers: int, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """The backend's launcher, on this machine; arguments: of Python."""
    if backend == "horovod":
        pytest.importorskip("horovod.torch", reason="Horovod is not installed; scripts/build_horovod makes it")
    words = LAUNCHERS[backend].words(num_workers)
    words = [word for word in words if word not in ("python", "-m", "trainer.train")]
    words += [sys.executable] if backend == "horovod" else ["--no-python", sys.executable]
    command = [*words, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)


def started(backend: str, num_workers: int, *arguments: str) -> tuple[int, str]:
    """(exit code, output) of the workers; those of ddp without torchrun, which takes seconds to start and is tested elsewhere."""
    if backend != "ddp":
        done = launch(backend, num_workers, *arguments)
        return done.returncode, done.stdout + done.stderr
    shared = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_workers)}
    begun = [
        subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=shared | {"RANK": str(rank)}, stdout=-1, stderr=-2, text=True)
        for rank in range(num_workers)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in begun]
    finally:
        for process in begun:
            process.kill()
    return max(abs(process.returncode) for process in begun), "\n".join(said)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers
    result = backend_worker.run(SingleBackend(), tmp_path_factory.mktemp("single"))
    torch.set_num_threads(threads)
    return result


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers leave their results and, in a folder BACKEND-NUM, their checkpoints."""
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="session")
def workers(folder: Path) -> Workers:
    """(backend, num_workers) -> rank 0's results; one launch for each pair."""
    ended: dict[tuple[str, int], tuple[int, str]] = {}

    def of(backend: str, num_workers: int) -> dict[str, Any]:
        file = folder / f"{backend}-{num_workers}.pt"
        if (backend, num_workers) not in ended:
            ended[backend, num_workers] = started(backend, num_workers, "tests/contracts/backend_worker.py", backend, str(file))
        code, said = ended[backend, num_workers]
        assert code == 0, said
        # a call whose name is new in every step is negotiated anew in every step, and soon drives others from Horovod's cache
        assert "evicted from cache" not in said
        results: dict[str, Any] = torch.load(file, weights_only=True)
        return results

    return of


def test_the_shards_hold_what_they_are_for() -> None:
    batch = backend_worker.global_batch()
    for num_workers, shards in SHARDS.items():
        assert len(shards) == num_workers
        assert sorted(row for shard in shards for row in shard) == list(range(13))
    for name in ("user_idx", "item_idx"):
        ids = batch[name].tolist()
        assert len(set(ids)) < len(ids)
        assert {ids[0], ids[2], ids[4]} & {ids[3], ids[5], ids[7]}, f"no {name} on both of two ranks"
        first = [ids.index(value) for value in ids]
        assert all(first[row] < row for row in SHARDS[3][2]), f"rank 2 of 3 has an anchor by {name}"


@pools
@pytest.mark.parametrize("case", CASES)
def test_first_step_equals_one_process(backend: str, num_workers: int, case: str, single: dict[str, Any], workers: Workers) -> None:
    # property P5.9
    tolerance = 1e-10 if CASES[case].dtype == torch.float64 else 1e-5
    want, got = single["first"][DIVIDED.get(case, case)], workers(backend, num_workers)["first"][case]
    torch.testing.assert_close(got["loss"], want["loss"], rtol=0, atol=tolerance)
    for part, value in want["parts"].items():
        torch.testing.assert_close(got["parts"][part], value, rtol=0, atol=tolerance, msg=lambda text, part=part: f"{part}: {text}")
    assert got["watched"].keys() == want["watched"].keys()
    for name, value in want["watched"].items():
        torch.testing.assert_close(got["watched"][name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    assert got["gradients"].keys() == want["gradients"].keys()
    for name, gradient in want["gradients"].items():
        torch.testing.assert_close(got["gradients"][name], gradient, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pools
@pytest.mark.parametrize("case", CURVES)
def test_curves_equal_one_process(backend: str, num_workers: int, case: str, single: dict[str, Any], workers: Workers) -> None:
    want, got = single["curves"][DIVIDED.get(case, case)], workers(backend, num_workers)["curves"][case]
    assert want[-5:].mean() < want[:5].mean()  # it learns something at all
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


@pools
@pytest.mark.parametrize("interests", [1, 2])
def test_p62_a_search_by_several_workers_finds_the_blobs(
    backend: str, num_workers: int, interests: int, single: dict[str, Any], workers: Workers
) -> None:
    want, got = (found["mined"]["blobs"][interests] for found in (single, workers(backend, num_workers)))
    for side in ("user", "item"):
        idx, valid = got["hard"][side]
        assert valid.all()
        assert (idx % BLOBS != torch.arange(1, len(idx) + 1)[:, None] % BLOBS).all()  # never of the anchor's blob
        assert torch.equal(idx, want["hard"][side][0])
        for name, array in want["tables"][side].items():  # bit for bit: chunks are the same, whatever the number of workers
            assert torch.equal(got["tables"][side][name], array), name


@pools
@pytest.mark.parametrize("case", MINED)
def test_a_step_with_mining_equals_one_process(backend: str, num_workers: int, case: str, single: dict[str, Any], workers: Workers) -> None:
    want, got = (found["mined"]["steps"][case] for found in (single, workers(backend, num_workers)))
    assert {"mic.uu", "mined.uu.positives", "mined.vv.false_negatives"} <= want.keys() == got.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pools
@pytest.mark.parametrize("tables", OPTIMIZERS)
def test_divided_tables_are_cut_and_taken_up(backend: str, num_workers: int, tables: str, workers: Workers, folder: Path) -> None:
    got, given = workers(backend, num_workers)["sharded"]["resumed"][tables], settings(tables)
    want = train(given, model(given, None), SingleBackend(), range(BEFORE + AFTER))  # nothing is divided
    for name, weights in got["whole"].items():
        torch.testing.assert_close(weights, want[name], rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(got["again"][name], weights), name  # the same number of workers: bit for bit
        torch.testing.assert_close(got["from one"][name], weights, rtol=0, atol=1e-9)
    kept = folder / f"{backend}-{num_workers}" / f"{tables}-{num_workers}"
    for name, weights in go_on(kept, tables, SingleBackend()).items():  # and on one, from that of several
        torch.testing.assert_close(weights, want[name], rtol=0, atol=1e-9)


@pools
def test_workers_with_unequal_lookups_of_divided_tables(backend: str, num_workers: int, single: dict[str, Any], workers: Workers) -> None:
    want, got = single["sharded"], workers(backend, num_workers)["sharded"]
    assert got["recall"] == pytest.approx(want["recall"])
    assert 0 < want["recall"][5] < 1
    torch.testing.assert_close(got["idle"]["vectors"], want["idle"]["vectors"])
    expected = torch.zeros(tiny.VOCAB["item_id"], 6)
    expected[3], expected[7] = 3, 1
    torch.testing.assert_close(want["idle"]["gradient"], expected)
    torch.testing.assert_close(got["idle"]["gradient"], expected / num_workers)
    assert got["rows"] == [-(-tiny.VOCAB[name] // num_workers) for name in tiny.VOCAB if name in FIELDS]  # rank 0 has the most


@pools
def test_interface(backend: str, num_workers: int, workers: Workers) -> None:
    got = workers(backend, num_workers)["interface"]
    ranks = torch.arange(num_workers, dtype=torch.float64)
    rows = torch.repeat_interleave(ranks + 1, ranks.long())[:, None].expand(-1, 2)
    torch.testing.assert_close(got["gathered"], rows)
    # every rank r' weighs gathered row i with (i + 1)(r' + 1): the exact gradient of row i is their sum
    exact = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)[:, None] * (ranks + 1).sum()
    torch.testing.assert_close(got["gradients"], exact.expand(-1, 2))
    own = torch.tensor([len(shard) for shard in SHARDS[num_workers]])
    torch.testing.assert_close(got["detached"], torch.repeat_interleave(ranks.float() + 1, own)[:, None])
    assert got["sum"] == num_workers * (num_workers + 1) / 2
    assert got["min"] == 7 - (num_workers - 1)
    assert got["any"] == (True, False)
    torch.testing.assert_close(got["broadcast"], torch.full((2, 2), 5.0))
    assert tuple(got["none"]) == (0, 3)
    sent = [[10 * rank + num_workers - 1] * 2 for rank in range(num_workers) for _ in range(rank)]
    assert got["exchanged"] == [sent, list(range(num_workers)), True]
    assert got["ids"].tolist() == [[rank] * 2 for rank in range(num_workers) for _ in range(rank)]
    share = 1 / num_workers
    torch.testing.assert_close(got["lopsided"][0], torch.full((3, 2), share))
    torch.testing.assert_close(got["lopsided"][1], torch.tensor([[0.0, 0], [share, share], [2 * share, 2 * share]]))
    torch.testing.assert_close(got["lopsided"][2], torch.zeros(3, 2))
    torch.testing.assert_close(got["lopsided"][3], torch.full((2, 2), share, dtype=torch.float64))
    assert (f"not all {num_workers} workers came within 0.1 s" in got["late"]) is (num_workers > 1)


@pytest.mark.parametrize("backend", [pytest.param(name, marks=[pytest.mark.slow] * (name != "horovod")) for name in TALKING])
def test_abort_of_one_worker_ends_all(backend: str) -> None:
    # the others sit in a collective call that will never come back
    code = "import sys; from trainer.backends import build_backend as b; b = b(sys.argv[1]); b.rank == 1 and b.abort(); b.agree_min(1)"
    begun = time.monotonic()
    done = launch(backend, 2, "-c", code, backend, timeout_s=60)
    assert done.returncode != 0
    assert re.search(r"[Ee]xit ?code\s*: 7\b", done.stderr), done.stderr
    assert time.monotonic() - begun < 45


@pytest.mark.parametrize("backend", [pytest.param(name, marks=[pytest.mark.slow] * (name == "horovod")) for name in TALKING])
def test_a_worker_that_is_gone_is_a_failed_training_to_the_others(backend: str, tmp_path: Path) -> None:
    """Forward and backward of a gather, and a plain collective; none of them is left as an error of the library below."""
    code = """
import os, sys, torch
from pathlib import Path
from conf.errors import TrainingError
from trainer.backends import build_backend
backend = build_backend(sys.argv[1])
out = backend.gather(torch.ones(2, 3, requires_grad=True))
if backend.rank == 1:
    os._exit(0)
said = []
for call in (out.sum().backward, lambda: backend.gather(torch.ones(2, 3)), lambda: backend.agree_min(1)):
    try:
        call()
        said.append("nothing")
    except TrainingError as error:
        said.append(f"{error.where}: {error.faults[0].what}")
Path(sys.argv[2]).write_text(repr(said))
os._exit(0)
"""
    started(backend, 2, "-c", code, backend, str(tmp_path / "said"))
    assert (tmp_path / "said").read_text() == repr(["worker 0: another worker ended"] * 3)
