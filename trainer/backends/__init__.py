"""How the workers of one training talk to each other."""

from collections.abc import Callable

import torch

from trainer.backends.backend import Backend, SparseTable, is_sparse_table
from trainer.backends.shards import Shard, replicated, shards_of


def _single(device: torch.device) -> Backend:
    from trainer.backends.single import SingleBackend

    return SingleBackend()


def _horovod(device: torch.device) -> Backend:
    from trainer.backends.horovod import HorovodBackend  # Horovod is an extra: imported only where it is asked for

    return HorovodBackend()


def _ddp(device: torch.device) -> Backend:
    from trainer.backends.ddp import DdpBackend

    return DdpBackend(device)


BACKENDS: dict[str, Callable[[torch.device], Backend]] = {"single": _single, "horovod": _horovod, "ddp": _ddp}


def build_backend(name: str, device: torch.device | None = None) -> Backend:
    """The named backend, ready for use; raises ValueError for an unknown name.

    device: where this worker's tensors are, its current one where that is a GPU (trainer.devices.device_of); None = the CPU.
    """
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name](device or torch.device("cpu"))


__all__ = ["BACKENDS", "Backend", "Shard", "SparseTable", "build_backend", "is_sparse_table", "replicated", "shards_of"]
