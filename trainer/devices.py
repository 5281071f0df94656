"""Where a worker computes, and in which precision."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from conf.errors import Fault, UsageError
from trainer.encoders.encoder import Batch, Encoder


def device_of(asked: str) -> torch.device:
    """The device of this worker: its GPU by its number among the workers of its host, or the CPU.

    asked: auto = a GPU where there is one. Raises UsageError where a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise UsageError("trainer.device", [Fault("torch finds no GPU", f"torch {torch.__version__}", "set trainer.device: auto or cpu")])
    if asked == "cpu" or not has_gpu:
        return torch.device("cpu")
    local_rank = next((int(os.environ[name]) for name in ("LOCAL_RANK", "HOROVOD_LOCAL_RANK") if name in os.environ), 0)
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def in_precision(encoder: Encoder, precision: str, device: torch.device) -> Encoder:
    """The encoder as steps call it: as it is, or (bf16) with its matrix products in half precision. Vectors are float32 in either case.

    So losses and logits are computed in float32 whatever the towers do; weights and their optimiser's state stay float32.
    """
    return encoder if precision == "float32" else _Bf16(encoder, device)


class _Bf16(Encoder):
    def __init__(self, inner: Encoder, device: torch.device) -> None:
        super().__init__()
        self.inner, self._device = inner, device
        self.similarity, self.dim, self.interests, self.features_dim = inner.similarity, inner.dim, inner.interests, inner.features_dim

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    def user(self, batch: Batch, *, um: Tensor | None = None, uh: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """See Encoder."""
        with self._autocast():
            return self.inner.user(batch, um=um, uh=uh, noise=noise).float()

    def item(
        self,
        idx: Tensor,
        *,
        vm: Tensor | None = None,
        multi: Mapping[str, Tensor] | None = None,
        noise: Tensor | None = None,
        drop: float | None = None,
    ) -> Tensor:
        """See Encoder."""
        with self._autocast():
            return self.inner.item(idx, vm=vm, multi=multi, noise=noise, drop=drop).float()

    def features(self, idx: Tensor, *, vm: Tensor | None = None, multi: Mapping[str, Tensor] | None = None) -> Tensor:
        """See Encoder."""
        return self.inner.features(idx, vm=vm, multi=multi)

    def prefixes(self, batch: Batch, *, noise: Tensor | None = None) -> Tensor:
        """See Encoder."""
        with self._autocast():
            return self.inner.prefixes(batch, noise=noise).float()

    def tables(self) -> list[nn.Parameter]:
        """See Encoder."""
        return self.inner.tables()
