"""This process as one worker of a training: how it was started, what torch does in it, and how it ends."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import torch

from conf.errors import Fault, TrichannelError, UsageError
from conf.launchers import LAUNCHERS
from conf.sections.training import Trainer
from trainer.backends import Backend, build_backend
from trainer.devices import device_of
from trainer.watchdog import Watchdog

_EXIT_S = 20.0  # for the way out after a failure

# The variable that shows how a process was started, with the number of workers in it: (its launcher, the backend that goes with it).
_STARTED_BY = {"HOROVOD_SIZE": ("horovodrun", "horovod"), "WORLD_SIZE": ("torchrun", "ddp")}


def start(trainer: Trainer) -> tuple[Backend, torch.device]:
    """Threads and determinism of torch, then where to compute and who the others are; raises UsageError as the two below."""
    torch.set_num_threads(trainer.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # 8 % of a step
    device = device_of(trainer.device)  # before NCCL begins, which takes the current GPU
    backend = start_backend(trainer.launcher, device)
    if device.type == "cuda":  # some of what we use has no deterministic form there
        torch.use_deterministic_algorithms(True, warn_only=True)
    return backend, device


def start_backend(launcher: str, device: torch.device) -> Backend:
    """The backend of the launcher; raises UsageError where it does not fit how the process was started, or is not installed."""
    name = LAUNCHERS[launcher].backend
    starts = {backend: (program, os.environ.get(variable)) for variable, (program, backend) in _STARTED_BY.items()}
    own = starts.pop(name, ("", None))[1]
    for backend, (program, workers) in starts.items():
        if own is None and workers not in (None, "1"):
            found = f"started by {program} with {workers} workers"
            raise UsageError("trainer.launcher", [Fault(f"trainer.launcher is {launcher}", found, f"set trainer.launcher: {backend}")])
    if name == "ddp" and own is None:
        fix = "start it by trichannel train or torchrun, or set trainer.launcher: single"
        raise UsageError("trainer.launcher", [Fault(f"trainer.launcher is {launcher}", "started by plain Python", fix)])
    try:
        return build_backend(name, device)
    except ImportError as error:
        fix = "type scripts/build_horovod and pip install the wheel it names, or set trainer.launcher: ddp or single"
        raise UsageError("trainer.launcher", [Fault(f"{name} is not installed", str(error), fix)]) from error


def leaving_word(body: Callable[[], int]) -> int:
    """Run the body; of the workers that fail of a known cause, the first writes it to the file that $TRICHANNEL_FAILURE names."""
    try:
        return body()
    except TrichannelError as error:
        path = os.environ.get("TRICHANNEL_FAILURE")
        if path:
            with suppress(OSError), open(path, "x", encoding="utf-8") as file:  # it exists: an earlier one is the cause of ours
                json.dump({"exit_code": error.exit_code, "error": "; ".join(map(str, error.faults))}, file)
        raise


def leave(exit_code: int) -> NoReturn:
    """End this worker; after a failure within seconds, though the clean-up of Horovod or NCCL may wait for a worker that is gone."""
    if exit_code != 0:
        Watchdog(_EXIT_S).start()
    sys.exit(exit_code)
