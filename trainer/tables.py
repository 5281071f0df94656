"""The tables a training reads whole: features, vocabularies' sizes, parts of user_state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import torch
from torch import Tensor

from conf.errors import BadDataError, Fault
from conf.fields import FIRST_ID
from conf.files import open_root
from conf.settings import Settings
from conf.storage import Manifest, Store
from trainer.catalogue import Catalogue, UserTable
from trainer.related import Related


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
    def read(cls, store: Store, manifests: Mapping[str, Manifest], settings: Settings) -> Self:
        """From the current runs; raises BadDataError if a file cannot be read or no item is eligible."""
        registry = settings.registry()
        items = read_table(store.files_of(manifests["item_feat"]))
        eligible = np.sort(items.column("idx").to_numpy()[np.asarray(items.column("eligible"))])
        if not len(eligible):
            raise BadDataError("table item_feat", [Fault("no item is eligible", fix="see eligible of the items table")])
        users = None
        if any(field.role == "multi" for field in registry.user):
            users = UserTable.from_arrow(read_table(store.files_of(manifests["user_feat"])), registry)
        catalogue = Catalogue.from_arrow(items, registry)
        return cls(
            catalogue=replace(catalogue, related=related(store, manifests, catalogue.num_items)),
            users=users,
            eligible=torch.from_numpy(eligible.astype(np.int64)),
            vocab_sizes=vocab_sizes(manifests, settings),
            user_state=store.files_of(manifests["user_state"]),
            user_feat=store.files_of(manifests["user_feat"]),
        )


def related(store: Store, manifests: Mapping[str, Manifest], num_items: int) -> dict[str, Related]:
    """Those of cooc, cooc_pairs and sem_nn that are among the inputs; cooc_pairs only where it holds all pairs."""
    found: dict[str, Related] = {}
    if "cooc" in manifests:
        rows = read_table(store.files_of(manifests["cooc"]), ["item_i", "item_j", "weight"])
        found["cooc"] = Related.of_pairs(rows, num_items, weighted=True)
    if "cooc_pairs" in manifests and manifests["cooc_pairs"].rows:
        rows = read_table(store.files_of(manifests["cooc_pairs"]), ["item_i", "item_j"])
        found["cooc_pairs"] = Related.of_pairs(rows, num_items, weighted=False)
    if "sem_nn" in manifests:
        found["sem_nn"] = Related.of_lists(read_table(store.files_of(manifests["sem_nn"]), ["item_idx", "neighbours"]), num_items)
    return found


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
