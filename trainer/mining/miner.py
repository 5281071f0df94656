"""When the tables of mining are made anew, and how a training that was cut takes them up again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from conf.draws import seed_of, words64
from conf.sections.training import Mining
from conf.settings import Settings
from trainer.backends import Backend
from trainer.batches import Samples
from trainer.encoders import Encoder
from trainer.mining.queries import UserQueries, read_queries
from trainer.mining.recent import Recent
from trainer.mining.refresh import mine
from trainer.mining.shared import Shared
from trainer.mining.side import ARRAYS, Side
from trainer.tables import Tables

SideName = Literal["user", "item"]
MOST_STEPS = 5000  # between searches, where an epoch is longer

_PARTS: Final[Mapping[SideName, str]] = {"user": "uu", "item": "vv"}


@dataclass(frozen=True)
class Mined:
    """What a step draws from. step: when it was found, by number of steps before. queries: as live users are encoded from.

    usable: False while a queue fills before the end of warm-up.
    """

    given: Mining
    step: int
    sides: Mapping[SideName, Side | Recent]
    queries: UserQueries | None
    usable: bool = True


class Miner:
    """Mines the sides whose contrast has a weight: users for uu, items for vv. Every method but `at` is collective.

    Args:
        items: int64, item_idx of those clicked in train, ascending.
        queries: what stands for each training user; None where users are not mined.
    """

    def __init__(
        self,
        given: Mining,
        encoder: Encoder,
        shared: Shared,
        *,
        sides: tuple[SideName, ...],
        items: Tensor,
        queries: UserQueries | None,
        seed: int,
    ) -> None:
        self.given, self._encoder, self._shared, self._seed = given, encoder, shared, seed
        self._items, self._queries, self._sides = items, queries, sides
        self._mined: Mined | None = None
        self._warm = 0
        if given.bank == "queue":
            recent = {side: Recent.empty(given.queue_size) for side in sides}
            self._mined = Mined(given, 0, recent, queries)

    def begin(self, steps: int) -> None:
        """Say how many steps an epoch has, before the first."""
        self._warm, self._every = self.given.warmup_epochs * steps, self.given.refresh_steps or min(steps, MOST_STEPS)

    def due(self, number: int) -> bool:
        """Whether to search before step `number`, counted over all epochs from 0."""
        after = number - self._warm
        return self.given.bank == "full" and after >= 0 and after % self._every == 0

    def at(self, number: int) -> Mined | None:
        """What step `number` draws from; None = nothing is mined yet."""
        if self._mined is None or self.given.bank == "full":
            return self._mined
        return Mined(self.given, number, self._mined.sides, self._queries, usable=number >= self._warm)

    def refresh(self, number: int) -> dict[str, float]:
        """Search with the model as it is before step `number`; returns what was measured, by side."""
        self._mined = None  # its files make room for the new ones
        training = self._encoder.training
        self._encoder.eval()
        sides: dict[SideName, Side | Recent] = {}
        values: dict[str, float] = {}
        with torch.no_grad():
            for side in self._sides:
                seed = int(words64(self._seed, seed_of(f"mining {side}"), number))
                sides[side], measured = self._mine(side, seed)
                values |= {f"{side}.{name}": value for name, value in measured.items()}
        self._encoder.train(training)
        self._mined = Mined(self.given, number, sides, self._queries)
        return values

    def _mine(self, side: SideName, seed: int) -> tuple[Side, dict[str, float]]:
        device = self._shared.device
        if side == "item":
            ids = self._items
            return mine(ids, lambda at: self._encoder.item(ids[at].to(device))[:, None], self.given, self._shared, seed=seed)
        queries = self._queries
        assert queries is not None

        def encode(at: Tensor) -> Tensor:
            return self._encoder.user({name: column.to(device) for name, column in queries.batch(at).items()})

        return mine(queries.idx, encode, self.given, self._shared, seed=seed, most=self.given.user_sample)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any] | None:
        """What every checkpoint keeps: when the tables were made, or the queues themselves; None before the first search."""
        if self._mined is None:
            return None
        queues = {name: side.state() for name, side in self._mined.sides.items() if isinstance(side, Recent)}
        return {"step": self._mined.step, "queues": queues}

    def tables(self) -> dict[str, dict[str, Tensor]]:
        """The tables of the last search, by side: what is kept once a search, not with every checkpoint."""
        assert self._mined is not None
        return {name: side.arrays() for name, side in self._mined.sides.items() if isinstance(side, Side)}

    def restore(self, state: Mapping[str, Any] | None, read_tables: Callable[[], Mapping[str, Mapping[str, Tensor]]]) -> None:
        """Take up what `state` and `tables` gave; the tables are read by one worker of each host."""
        if state is None:
            return
        if self.given.bank == "queue":
            recent = {side: Recent.of(state["queues"][side]) for side in self._sides}
            self._mined = Mined(self.given, 0, recent, self._queries)
            return

        def build() -> dict[str, Tensor]:
            return {f"{side}.{name}": array for side, arrays in read_tables().items() for name, array in arrays.items()}

        mapped = self._shared.once([f"{side}.{name}" for side in self._sides for name in ARRAYS], build)
        sides: dict[SideName, Side | Recent] = {s: Side.of({name: mapped[f"{s}.{name}"] for name in ARRAYS}) for s in self._sides}
        self._mined = Mined(self.given, int(state["step"]), sides, self._queries)


def build_miner(
    settings: Settings,
    tables: Tables,
    samples: Samples,
    encoder: Encoder,
    backend: Backend,
    *,
    beat: Callable[[], None],
    device: torch.device | str = "cpu",
) -> Miner | None:
    """The miner that the settings ask for; None where they ask for none. Collective."""
    given, mic = settings.mining, settings.objectives.mic
    if given is None or mic is None or mic.weight == 0:
        return None
    sides: tuple[SideName, ...] = tuple(side for side, part in _PARTS.items() if getattr(mic, part) != 0)
    shared = Shared(backend, beat, device)
    # live users are encoded from their queries; a queue of detached ones needs none
    needed = "user" in sides and (given.bank == "full" or given.encode == "live")
    queries = read_queries(tables, samples, settings, shared).to(shared.device) if needed else None
    items = samples.item_counts.nonzero()[:, 0]
    return Miner(given, encoder, shared, sides=sides, items=items, queries=queries, seed=settings.trainer.seed)
