"""Huge tables without huge memory: build a module without storage, then give it storage and weights.

The names are those of torchdistx (no longer released), whose `deferred_init` recorded the initialisation and replayed it.
Here torch's meta device holds the shapes, and weights come from each module's own `reset`, seeded by the parameter's full
*name*: so they do not depend on build order, and a shard of a table gets exactly its rows of the whole
(trainer.randomness.fill_uniform_).
"""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from conf.draws import seed_of
from trainer.randomness import words64

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class Resettable(Protocol):
    """A module that owns parameters and knows how they start."""

    def reset(self, seed: int, name: str) -> None:
        """Fill the module's own parameters; name: the module's full name, a parameter's is f"{name}.{its own}"."""


def deferred_init(module_fn: Callable[P, M], /, *args: P.args, **kwargs: P.kwargs) -> M:
    """module_fn(*args, **kwargs) whose parameters and buffers have shapes and types but no storage."""
    with torch.device("meta"):
        return module_fn(*args, **kwargs)


def is_deferred(module: nn.Module) -> bool:
    """Whether any parameter or buffer still has no storage."""
    return any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def materialize_tensor(tensor: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """A zero tensor in place of one without storage (a parameter stays one, of the same class); any other comes back as it is."""
    if not tensor.is_meta:
        return tensor
    zeros = torch.zeros_like(tensor, device=device)
    if not isinstance(tensor, nn.Parameter):
        return zeros
    return type(tensor)(zeros, requires_grad=tensor.requires_grad)


def materialize_module(
    module: nn.Module,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    buffers_only: bool = False,
    check_fn: Callable[[nn.Module], bool] | None = None,
) -> None:
    """Give storage and fresh weights, in place, to every submodule that lacks them.

    Args:
        buffers_only: leave parameters without storage.
        check_fn: submodules for which it is False are left alone.

    Raises:
        TypeError: a submodule owns parameters but has neither `reset` nor torch's `reset_parameters`.
    """
    done: dict[int, Tensor] = {}  # a parameter that two modules share stays shared
    for name, sub in module.named_modules():
        if check_fn is not None and not check_fn(sub):
            continue
        fresh = False
        groups = (sub._buffers,) if buffers_only else (sub._buffers, sub._parameters)
        for group in groups:
            for key, tensor in group.items():
                if tensor is not None and tensor.is_meta:
                    fresh |= group is sub._parameters
                    group[key] = done.setdefault(id(tensor), materialize_tensor(tensor, device))
        if fresh:
            reset_module(sub, seed=seed, name=name)


def reset_module(module: nn.Module, *, seed: int, name: str = "") -> None:
    """Start the module's own parameters (not its submodules') anew; raises TypeError if it does not know how."""
    if isinstance(module, Resettable):
        with torch.no_grad():
            module.reset(seed, name)
        return
    torch_reset = getattr(module, "reset_parameters", None)
    if torch_reset is None:
        raise TypeError(f"module {name!r} ({type(module).__name__}) owns parameters but has no reset(seed, name)")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(words64(seed, seed_of(name))))
        torch_reset()
