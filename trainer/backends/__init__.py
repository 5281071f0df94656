"""How the workers of one training talk to each other."""

from collections.abc import Callable

from trainer.backends.backend import Backend, SparseTable, is_sparse_table
from trainer.backends.shards import Shard, replicated, shards_of


def _single() -> Backend:
    from trainer.backends.single import SingleBackend

    return SingleBackend()


def _horovod() -> Backend:
    from trainer.backends.horovod import HorovodBackend  # Horovod is an extra: imported only where it is asked for

    return HorovodBackend()


def _ddp() -> Backend:
    from trainer.backends.ddp import DdpBackend

    return DdpBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {"single": _single, "horovod": _horovod, "ddp": _ddp}


def build_backend(name: str) -> Backend:
    """The named backend, ready for use; raises ValueError for an unknown name."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(sorted(BACKENDS))}")
    return BACKENDS[name]()


__all__ = ["BACKENDS", "Backend", "Shard", "SparseTable", "build_backend", "is_sparse_table", "replicated", "shards_of"]
