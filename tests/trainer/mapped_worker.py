"""What one of several workers has in memory once it has read the tables of a day.

python mapped_worker.py BACKEND CONFIG OUT      rank r writes OUT-r.pt: {name: (array, the file that it is mapped from)}
"""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from conf.inputs import input_manifests
from conf.settings import Settings, load
from conf.storage import Store
from tests.trainer.planted import DS
from trainer.backends import build_backend
from trainer.batches import survey
from trainer.mining import queries as mining
from trainer.shared import Shared
from trainer.tables import Tables
from trainer.validation import read_queries


def read(settings: Settings, shared: Shared) -> dict[str, Tensor]:
    """Every array of the tables, by name."""
    store = Store.of(settings)
    manifests = input_manifests("train", store, DS, settings)
    tables = Tables.read(store, manifests, settings, shared)
    samples = survey(store, manifests["samples"], shared.backend, num_items=tables.catalogue.num_items)
    queries = read_queries(samples, settings, tables.users, tables.user_state, shared)
    bank = mining.read_queries(tables, samples, settings, shared)
    assert tables.users is not None
    assert queries is not None
    parts = {"item": tables.catalogue.arrays(), "user": tables.users.arrays(), "query": queries.arrays()}
    parts |= {name: related.arrays() for name, related in tables.catalogue.related.items()}
    parts["bank"] = {field.name: getattr(bank, field.name) for field in fields(bank) if field.name != "features"}
    parts["all"] = {"eligible": tables.eligible}
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def file_of(array: Tensor) -> str:
    """device:inode and name of the file that the array's memory is mapped from; "" = none, it is the process's own."""
    for start, stop, inode, place in _maps():
        if start <= array.data_ptr() < stop:
            return place if inode else ""
    return ""


def _maps() -> Iterator[tuple[int, int, int, str]]:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, device, inode, *name = line.split(maxsplit=5)
        start, stop = (int(end, 16) for end in span.split("-"))
        yield start, stop, int(inode), f"{device}:{inode} {' '.join(name)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    backend = build_backend(sys.argv[1])
    found = read(load(sys.argv[2]), Shared(backend, lambda: None))
    torch.save({name: (array.clone(), file_of(array)) for name, array in found.items()}, f"{sys.argv[3]}-{backend.rank}.pt")
    backend.barrier(60)
