"""What every backend promises, with one process; tests/contracts/test_workers.py shows the same with several."""

import os
import subprocess
import sys

import pytest
import torch

from tests.cluster.standalone import free_port
from trainer.backends import BACKENDS, SparseTable, build_backend
from trainer.backends.single import SingleBackend


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="unknown backend 'mpi'; known: ddp, horovod, single"):
        build_backend("mpi")


def test_single_needs_no_horovod() -> None:
    code = "import sys; from trainer.backends import build_backend; build_backend('single'); sys.exit('horovod' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"single", "horovod", "ddp"} <= set(BACKENDS)


def test_single() -> None:
    backend = SingleBackend()
    x = torch.randn(3, 2, requires_grad=True)
    assert backend.gather(x) is x
    assert not backend.sum(x).requires_grad
    assert (backend.rank, backend.size, backend.agree_min(4), backend.agree_any(True), backend.agree_any(False)) == (0, 1, 4, True, False)
    backend.barrier(timeout_s=1)


def test_ddp_leaves_gpus_alone_where_the_settings_say_cpu() -> None:
    # a machine with GPUs, as far as torch tells: what asks for one ends the process
    code = """
import torch
from torch import distributed
torch.cuda.is_available = lambda: True
torch.cuda.set_device = lambda device: exit("takes a GPU")
from conf.sections.training import Trainer
from trainer.process import start
backend, device = start(Trainer(launcher="ddp", workers=1, device="cpu"))
print(device, distributed.get_backend(), backend.size)
"""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | shared)
    assert done.stdout == "cpu gloo 1\n", done.stderr


def test_missing_gradients_are_filled_in() -> None:
    dense, table = torch.nn.Parameter(torch.ones(2)), SparseTable(torch.ones(3, 2))
    SingleBackend().sync_gradients([dense, table])
    assert dense.grad is not None
    assert dense.grad.tolist() == [0, 0]
    assert table.grad is not None
    assert table.grad.is_sparse
    assert table.grad._nnz() == 0


def test_abort_ends_the_process_with_the_exit_code_of_a_failed_training() -> None:
    code = "from trainer.backends.single import SingleBackend as S\ntry: S().abort()\nfinally: print('clean-up')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "")
