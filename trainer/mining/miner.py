"""When the tables of mining are made anew, and how a training that was cut takes them up again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from conf.draws import seed_of, words64
from conf.sections.training import Mining
from conf.settings import Settings
from trainer.batches import Samples
from trainer.encoders import Encoder
from trainer.mining.queries import UserQueries, read_queries
from trainer.mining.recent import Recent
from trainer.mining.recommended import LISTS, Recommended, recommend
from trainer.mining.refresh import mine
from trainer.mining.side import ARRAYS, Side
from trainer.shared import Shared
from trainer.tables import Tables

SideName = Literal["user", "item"]
MOST_STEPS = 5000  # between searches, where an epoch is longer

_PARTS: Final[Mapping[SideName, str]] = {"user": "uu", "item": "vv"}


@dataclass(frozen=True)
class Mined:
    """What a step draws from. step: when it was found, by number of steps before. queries: as live users are encoded from.

    recommended: None unless something is mined between users and items. usable: False while a queue fills before the end of warm-up.
    """

    given: Mining
    step: int
    sides: Mapping[SideName, Side | Recent]
    queries: UserQueries | None
    recommended: Recommended | None = None
    usable: bool = True


class Miner:
    """Mines the sides whose contrast has a weight: users for uu, items for vv. Every method but `at` is collective.

    Args:
        items: int64, item_idx of those clicked in train, ascending.
        queries: what stands for each training user; None where users are not mined.
        joint: modules that take users and items into their joint space; None where nothing is mined between them.
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
        joint: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        self.given, self._encoder, self._shared, self._seed = given, encoder, shared, seed
        self._items, self._queries, self._sides, self._joint = items, queries, sides, joint
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
            recommended = self._recommend()
        self._encoder.train(training)
        self._mined = Mined(self.given, number, sides, self._queries, recommended)
        if recommended is not None:
            values["recommended.similarity"] = float(recommended.similarities.double().mean())
        return values

    def _mine(self, side: SideName, seed: int) -> tuple[Side, dict[str, float]]:
        if side == "item":
            return mine(self._items, self._encode_items, self.given, self._shared, seed=seed)
        assert self._queries is not None
        return mine(self._queries.idx, self._encode_users, self.given, self._shared, seed=seed, most=self.given.user_sample)

    def _recommend(self) -> Recommended | None:
        if self._joint is None or self.given.user_items == "off":
            return None
        assert self._queries is not None
        project_user, project_item = self._joint
        given = self.given
        first, last = (1, 1) if given.user_items == "positive" else (given.user_items_first, given.user_items_last)
        return recommend(
            self._queries,
            self._items,
            lambda at: project_user(self._encode_users(at)),
            lambda at: project_item(self._encode_items(at)),
            self._shared,
            first=first,
            last=last,
        )

    def _encode_items(self, places: Tensor) -> Tensor:
        return self._encoder.item(self._items[places].to(self._shared.device))[:, None]

    def _encode_users(self, places: Tensor) -> Tensor:
        assert self._queries is not None
        batch = self._queries.batch(places)
        return self._encoder.user({name: column.to(self._shared.device) for name, column in batch.items()})

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
        tables: dict[str, dict[str, Tensor]] = {name: s.arrays() for name, s in self._mined.sides.items() if isinstance(s, Side)}
        recommended = self._mined.recommended
        return tables | ({} if recommended is None else {"recommended": recommended.arrays()})

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

        kept: dict[str, Sequence[str]] = dict.fromkeys(self._sides, ARRAYS)
        if self._joint is not None and self.given.user_items != "off":
            kept["recommended"] = LISTS
        mapped = self._shared.once(build)
        found = {table: {name: mapped[f"{table}.{name}"] for name in names} for table, names in kept.items()}
        recommended = Recommended.of(found["recommended"]) if "recommended" in found else None
        sides: dict[SideName, Side | Recent] = {side: Side.of(found[side]) for side in self._sides}
        self._mined = Mined(self.given, int(state["step"]), sides, self._queries, recommended)


def build_miner(
    settings: Settings,
    tables: Tables,
    samples: Samples,
    encoder: Encoder,
    criterion: nn.Module,
    shared: Shared,
) -> Miner | None:
    """The miner that the settings ask for; None where they ask for none. Collective."""
    given, mic = settings.mining, settings.objectives.mic
    if given is None or mic is None or mic.weight == 0:
        return None
    wanted = given.positives or given.hard_negatives
    sides: tuple[SideName, ...] = tuple(side for side, part in _PARTS.items() if wanted and getattr(mic, part) != 0)
    joint = None
    if given.user_items != "off":
        joint = criterion.get_submodule("losses.mic.project_user"), criterion.get_submodule("losses.mic.project_item")
    # live users are encoded from their queries; a queue of detached ones needs none
    needed = joint is not None or ("user" in sides and (given.bank == "full" or given.encode == "live"))
    queries = read_queries(tables, samples, settings, shared).to(shared.device) if needed else None
    items = samples.item_counts.nonzero()[:, 0]
    return Miner(given, encoder, shared, sides=sides, items=items, queries=queries, seed=settings.trainer.seed, joint=joint)
