"""Tables that the Python workers of a machine share: read once, mapped by all, equal to what the files hold."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import worker
from retrieval.ragged import Ragged
from retrieval.vector_index import IndexFiles
from retrieval.world import StoredWorld, arrays_of, lists_of


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Three users, the second without a train click; items 1 to 5."""
    monkeypatch.setattr(worker, "_scratch", lambda: tmp_path)
    users = pa.table({"user_idx": [1, 2, 4], "items": [[1, 2, 1, 3], [5], [3]], "num_train": [4, 0, 1]})
    near = pa.table({"idx": [1, 3], "neighbours": [[2, 3], [1]], "similarities": [[0.5, 0.25], [0.75]]})
    met = pa.table({"item_i": [3, 1, 1], "item_j": [1, 3, 2], "weight": [2.0, 2.0, 1.0]})
    files = {}
    for name, table in (("user_state", users), ("neighbours_item", near), ("cooc", met)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        files[name] = (str(tmp_path / f"{name}.parquet"),)
    return StoredWorld(index=IndexFiles("", "items", True, 0, {}, ()), item_index=(), profile=2, **files)


def listed(lists):
    return [one.tolist() for one in np.split(lists.values, lists.starts[1:-1])]


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_profiles_are_mapped_and_hold_the_last_distinct_train_items(world):
    assert listed(world.profiles) == [[], [3, 1], [], [], [3]]
    assert is_mapped(world.profiles.values)
    assert is_mapped(world.profiles.starts)


def test_similar_and_met_items_are_mapped(world):
    assert listed(world.similar_items) == [[], [2, 3], [], [1]]
    assert listed(world.met_items) == [[], [2, 3], [], [1]]
    assert world.met_items.weights.tolist() == [1.0, 2.0, 2.0]
    assert is_mapped(world.similar_items.weights)
    assert is_mapped(world.met_items.values)


def test_one_worker_of_a_machine_makes_the_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_scratch", lambda: tmp_path)
    calls = []

    def make():
        calls.append(1)
        return {"numbers": np.arange(3), "none": np.empty(0, np.int32)}

    first, second = worker.mapped(("key", 1), make), worker.mapped(("key", 1), make)
    assert first["numbers"].tolist() == second["numbers"].tolist() == [0, 1, 2]
    assert (len(first["none"]), len(calls)) == (0, 1)
    worker.mapped(("key", 2), make)
    assert len(calls) == 2


def test_lists_without_weights_stay_without(tmp_path):
    lists = Ragged.of([[1, 2], []])
    again = lists_of(arrays_of(lists))
    assert (listed(again), again.weights) == ([[1, 2], []], None)
