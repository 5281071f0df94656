"""One step, and one epoch of them. Knows no encoder and no objective by name."""

import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conf.errors import Fault, TrainingError
from conf.settings import Settings
from trainer.backends import Backend, Shard, is_sparse_table, replicated, shards_of
from trainer.batches import Batches
from trainer.catalogue import Catalogue
from trainer.devices import in_precision
from trainer.diagnostics import gradient_norms, watched
from trainer.encoders import Batch, Encoder
from trainer.mining import Miner
from trainer.objectives import Criterion, Step
from trainer.optimizers import Optimizers


@dataclass(frozen=True)
class Model:
    """All that learns."""

    encoder: Encoder
    criterion: Criterion
    optimizers: Optimizers

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers only; without `rows`, the same on every rank."""
        return {
            "encoder": replicated(self.encoder),
            "criterion": self.criterion.state_dict(),
            "optimizers": self.optimizers.state_dict(),
        }

    def rows(self) -> dict[str, Tensor]:
        """This rank's rows of the tables that are divided over the workers, and of their optimiser's state; by name."""
        weights = {f"{ENCODER}{name}": rows for name, rows in shards_of(self.encoder).items()}
        return weights | {f"{_OPTIMIZERS}{name}": rows for name, rows in self.optimizers.rows().items()}

    def load_state_dict(self, state: dict[str, Any], rows: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of equal settings, and this rank's `rows()`."""
        self.encoder.load_state_dict(state["encoder"] | below(ENCODER, rows))
        self.criterion.load_state_dict(state["criterion"])
        self.optimizers.load_state_dict(state["optimizers"], below(_OPTIMIZERS, rows))


ENCODER, _OPTIMIZERS = "encoder.", "optimizers."  # how names of rows begin


def below(prefix: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins so, without it."""
    return {name.removeprefix(prefix): values for name, values in rows.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Loop:
    """What steps need and do not change.

    item_counts: int64[num_items + 1], train clicks by item_idx. beat: called after every step. dump: keeps what a failed step was
    given, returns where. miner: None = nothing is mined.
    """

    model: Model
    backend: Backend
    batches: Batches
    catalogue: Catalogue
    item_counts: Tensor
    settings: Settings
    beat: Callable[[], None]
    dump: Callable[[str, dict[str, Any]], str]
    miner: Miner | None = None

    def epoch(
        self, epoch: int, *, start: int, steps: int, watch: int, beside: Mapping[str, float] | None = None
    ) -> Generator[dict[str, float], None, None]:
        """Take steps start..steps of the epoch; after each, its loss, parts and gradient norms. Close it when leaving early.

        The mean over ranks of each is the global value. Every `watch` steps of the epoch, and at its last one, what `watched` tells is
        there, too. beside: what the bar on the terminal shows beside the loss.
        """
        self.model.encoder.train()
        show = self.backend.rank == 0 and sys.stderr.isatty()
        with self.batches.epoch(epoch, start=start) as batches, progress(epoch, start, steps, beside or {}, show=show) as advance:
            for number, batch in zip(range(start, steps), batches, strict=True):
                values = self.step(batch, epoch * steps + number, watch=(number + 1) % watch == 0 or number + 1 == steps)
                self.beat()
                advance(values["loss"])
                yield values

    def step(self, batch: Batch, number: int, *, watch: bool = False) -> dict[str, float]:
        """One step on one batch; number: steps before it, over all epochs. All ranks stop together where a loss or gradient is not finite.

        Raises:
            TrainingError: before any weight is changed.
        """
        model = self.model
        model.optimizers.zero_grad()
        step = Step(
            encoder=in_precision(model.encoder, self.settings.trainer.precision, batch["row"].device),
            batch=batch,
            backend=self.backend,
            settings=self.settings,
            catalogue=self.catalogue,
            seed=self.settings.trainer.seed,
            step=number,
            item_counts=self.item_counts,
            masking=self.batches.masking,
            mining=self.miner.at(number) if self.miner else None,
            watch=watch,
        )
        total, parts = model.criterion(step)
        total.backward()
        seen = watched(step) if watch else {}
        loss = float(total.detach())
        if not math.isfinite(loss):
            poison(model.optimizers.parameters)
        self.backend.sync_gradients(model.optimizers.parameters)
        norms = gradient_norms(model.optimizers.parameters, model.encoder.tables(), self.backend)
        values = {"loss": loss, **{name: float(part) for name, part in parts.items()}, **norms, **seen}
        if not math.isfinite(norms["grad_norm"]):
            raise self._not_finite(batch, number, values)
        model.optimizers.clip(norms["grad_norm"])
        model.optimizers.step()
        model.criterion.keep_in_range()
        return values

    def _not_finite(self, batch: Batch, number: int, values: dict[str, float]) -> TrainingError:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        place = self.dump(f"bad-step-{number}-rank-{self.backend.rank}", {"batch": batch, "values": values})
        found = f"not finite here: {', '.join(bad)}"
        fix = f"the batch is kept in {place}; try a smaller trainer.optimizer.lr; the last good checkpoint stands (--resume)"
        return TrainingError(f"step {number}", [Fault("the loss or its gradient is not finite", found, fix)])


@contextmanager
def progress(epoch: int, start: int, steps: int, beside: Mapping[str, float], *, show: bool) -> Iterator[Callable[[float], object]]:
    """What to call with the loss of each step of an epoch: it moves a bar on the terminal, or does nothing.

    The bar shows the mean of these losses, and what is to stand `beside` it.
    """
    if not show:
        yield lambda loss: None
        return
    from tqdm import tqdm  # where nobody looks it need not be installed

    total = 0.0
    with tqdm(total=steps, initial=start, desc=f"epoch {epoch}", unit="step", leave=False) as bar:

        def advance(loss: float) -> None:
            nonlocal total
            total += loss
            means = {"loss": total / (bar.n - start + 1), **beside}
            bar.set_postfix_str(", ".join(f"{name}={value:.4f}" for name, value in means.items()), refresh=False)
            bar.update()

        yield advance


def poison(parameters: Sequence[nn.Parameter]) -> None:
    """Make a gradient nan, so that after the sync every rank knows, without a further word, that one has a bad loss."""
    parameter = next((parameter for parameter in parameters if not isinstance(parameter, Shard)), parameters[0])
    if isinstance(parameter, Shard):
        row = torch.zeros(1, dtype=torch.int64, device=parameter.device)
        parameter.pending.append((row, parameter.new_full((1, *parameter.shape[1:]), math.nan)))
    elif is_sparse_table(parameter):
        row = torch.full_like(parameter[:1], math.nan)
        first = torch.zeros(1, 1, dtype=torch.int64, device=row.device)
        parameter.grad = torch.sparse_coo_tensor(first, row, parameter.shape, check_invariants=False)
    else:
        parameter.grad = torch.full_like(parameter, math.nan)
