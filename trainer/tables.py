"""The tables a training reads whole: features, related items, vocabularies' sizes; one copy on each host."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch
from torch import Tensor

from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID, Registry
from conf.files import open_root
from conf.settings import Settings
from conf.storage import Manifest, Store
from trainer.catalogue import Catalogue, UserTable
from trainer.related import Related
from trainer.shared import Shared, alone


@dataclass(frozen=True)
class Tables:
    """What a model is built and validated with.

    users: None where no user field is multi-valued (single ones come with the samples). eligible: int64[n], item_idx that may be
    recommended. vocab_sizes: field -> rows of its embedding table. user_state, user_feat: files of these tables.
    """

    catalogue: Catalogue
    users: UserTable | None
    eligible: Tensor
    vocab_sizes: Mapping[str, int]
    user_state: Sequence[str]
    user_feat: Sequence[str]

    def to(self, device: torch.device) -> Self:
        """The same with what the towers and losses look things up in on a device."""
        return replace(self, catalogue=self.catalogue.to(device), eligible=self.eligible.to(device))

    @classmethod
    def read(cls, store: Store, manifests: Mapping[str, Manifest], settings: Settings, shared: Shared | None = None) -> Self:
        """From the current runs; collective.

        Args:
            shared: with whom one copy a host is shared; None = with nobody.

        Raises:
            BadDataError: a file cannot be read, or no item is eligible. TrainingError: that happened to another worker.
        """
        shared, registry = shared or alone(), settings.registry()
        items = shared.once(lambda: _items(store.files_of(manifests["item_feat"]), registry))
        catalogue, users = Catalogue.of(items), None
        user_feat = store.files_of(manifests["user_feat"])
        if any(field.role == "multi" for field in registry.user):
            users = read_users(user_feat, registry, shared)
        return cls(
            catalogue=replace(catalogue, related=related(store, manifests, settings, catalogue.num_items, shared)),
            users=users,
            eligible=items["eligible"],
            vocab_sizes=vocab_sizes(manifests, settings),
            user_state=store.files_of(manifests["user_state"]),
            user_feat=user_feat,
        )


def _items(files: Sequence[str], registry: Registry) -> dict[str, Tensor]:
    """Of table item_feat, the features and which items are eligible."""
    items = read_table(files)
    eligible = np.sort(items.column("idx").to_numpy()[np.asarray(items.column("eligible"))])
    if not len(eligible):
        raise BadDataError("table item_feat", [Fault("no item is eligible", fix="see eligible of the items table")])
    return Catalogue.from_arrow(items, registry).arrays() | {"eligible": torch.from_numpy(eligible.astype(np.int64))}


def read_users(user_feat: Sequence[str], registry: Registry, shared: Shared) -> UserTable:
    """Every user field of the table in these files; collective. Raises as Tables.read."""
    return UserTable.of(shared.once(lambda: UserTable.from_arrow(read_table(user_feat), registry).arrays()))


def related(store: Store, manifests: Mapping[str, Manifest], settings: Settings, num_items: int, shared: Shared) -> dict[str, Related]:
    """Those of cooc, cooc_pairs and sem_nn that are among the inputs, cooc_pairs only where it holds all pairs; user_state where the base
    loss asks for users' train items. Collective.
    """

    def pairs(name: str, *columns: str) -> Callable[[], dict[str, Tensor]]:
        weighted = "weight" in columns
        files = store.files_of(manifests[name])
        return lambda: Related.of_pairs(read_table(files, ["item_i", "item_j", *columns]), num_items, weighted=weighted).arrays()

    builds: dict[str, Callable[[], dict[str, Tensor]]] = {}
    if "cooc" in manifests:
        builds["cooc"] = pairs("cooc", "weight")
    if "cooc_pairs" in manifests and manifests["cooc_pairs"].rows:
        builds["cooc_pairs"] = pairs("cooc_pairs")
    if "sem_nn" in manifests:
        files = store.files_of(manifests["sem_nn"])
        builds["sem_nn"] = lambda: Related.of_lists(read_table(files, ["item_idx", "neighbours"]), num_items).arrays()
    if settings.base.known_clicks == "train":
        states, num_users = store.files_of(manifests["user_state"]), manifests["user_feat"].rows
        builds["user_state"] = lambda: Related.of_users(read_table(states, ["user_idx", "items"]), num_users, num_items).arrays()
    return {name: Related.of(shared.once(build)) for name, build in builds.items()}


def vocab_sizes(manifests: Mapping[str, Manifest], settings: Settings) -> dict[str, int]:
    """Field -> rows of its embedding table: the reserved ids and one for each value."""
    return {field.name: FIRST_ID + manifests[f"vocab_{field.name}"].rows for field in settings.registry().embedded}


def read_table(files: Sequence[str], columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """The rows of these files for which `where` is true; raises BadDataError if one cannot be read."""
    paths = [open_root(file) for file in files]
    try:
        return pads.dataset([path for _, path in paths], filesystem=paths[0][0]).to_table(columns=columns, filter=where)
    except (OSError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:300]
        raise BadDataError(files[0].rsplit("/", 1)[0], [Fault("cannot be read", text, "restore the file, or run its job again")]) from error
