"""The model file: what it gives back, what it refuses, what it imports."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import fs as pafs

from conf.errors import BadDataError
from conf.settings import Settings
from tests.trainer.planted import planted_settings, rows_of_tables, world
from trainer.catalogue import Catalogue, UserTable
from trainer.encoders import Encoder, build_encoder
from trainer.export import last_items, load, model_content, weights_hash
from trainer.torch_files import write_torch

SIZES = {"user_id": 64, "gender": 6, "likes": 8, "item_id": 84, "category": 8, "tags": 6}


def features(settings: Settings) -> tuple[pa.Table, pa.Table]:
    """user_feat of 60 users and item_feat of 80 items."""
    tables = rows_of_tables(world(), settings)["vocabulary"]
    users = pa.Table.from_pylist(tables["user_feat"]).cast(
        pa.schema([("idx", pa.int32()), ("user_id", pa.int32()), ("gender", pa.int32()), ("likes", pa.list_(pa.int32()))])
    )
    names = [
        ("idx", pa.int32()),
        ("eligible", pa.bool_()),
        ("item_id", pa.int32()),
        ("category", pa.int32()),
        ("tags", pa.list_(pa.int32())),
    ]
    return users, pa.Table.from_pylist(tables["item_feat"]).cast(pa.schema(names))


def trained(settings: Settings, items: pa.Table) -> Encoder:
    """An encoder whose weights are not its first ones."""
    encoder = build_encoder(settings, settings.registry(), Catalogue.from_arrow(items, settings.registry()), SIZES)
    with torch.no_grad():
        for number, parameter in enumerate(encoder.parameters()):
            parameter += 0.01 * (number + 1)
    return encoder


def saved(path: Path, settings: Settings, encoder: Encoder) -> str:
    content = model_content(encoder.state_dict(), encoder, settings, vocab_sizes=SIZES, vocabularies={"vocab_tags": "main/d/r 2:ab"})
    write_torch(pafs.LocalFileSystem(), str(path), content)
    return str(content["model_id"])


def test_loaded_towers_give_the_trained_vectors(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path, model={"dim": 16, "hidden": [32], "history": 5, "dropout": 0.5})
    users, items = features(settings)
    encoder = trained(settings, items)
    model_id = saved(tmp_path / "model.pt", settings, encoder)
    towers = load(str(tmp_path / "model.pt"), items)
    assert (towers.model_id, towers.similarity, towers.dim, towers.interests) == (model_id, "cosine", 16, 1)
    assert towers.vocabularies == {"vocab_tags": "main/d/r 2:ab"}

    encoder.eval()
    idx = np.array([7, 1, 80, 7], dtype=np.int32)
    with torch.no_grad():
        want_items = encoder.item(torch.from_numpy(idx).long()).numpy()
    got_items = towers.encode_items(idx)
    assert got_items.dtype == np.float32
    np.testing.assert_array_equal(got_items, want_items)

    # users 1, 2 and 3 with no history, a short one, and one longer than L = 5
    histories = [[], [9, 8], [1, 2, 3, 4, 5, 6, 7]]
    asked = users.slice(0, 3).append_column("items", pa.array(histories, pa.list_(pa.int32())))
    hist = torch.tensor([[0] * 5, [9, 8, 0, 0, 0], [3, 4, 5, 6, 7]])
    table = UserTable.from_arrow(users, settings.registry())
    rows = torch.tensor([1, 2, 3])
    batch = {"hist": hist, "hist_len": torch.tensor([0, 2, 5])}
    batch |= {f"user.{name}": column[rows].long() for name, column in (*table.single.items(), *table.multi.items())}
    with torch.no_grad():
        want_users = encoder.user(batch).numpy()
    got_users = towers.encode_users(asked)
    assert (got_users.shape, got_users.dtype) == ((3, 1, 16), np.float32)
    np.testing.assert_allclose(got_users, want_users, atol=1e-6)
    np.testing.assert_array_equal(towers.encode_users(asked.combine_chunks().to_batches()[0]), got_users)  # a record batch, too


def test_no_rows_give_no_vectors(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path)
    users, items = features(settings)
    saved(tmp_path / "model.pt", settings, trained(settings, items))
    towers = load(str(tmp_path / "model.pt"), items)
    asked = users.slice(0, 0).append_column("items", pa.array([], pa.list_(pa.int32())))
    assert towers.encode_users(asked).shape == (0, 1, 16)
    assert towers.encode_items(np.array([], dtype=np.int32)).shape == (0, 16)


def test_the_last_items_are_kept_oldest_first() -> None:
    column = pa.chunked_array([[[1, 2, 3], []], [None, [4]], [[5, 6, 7, 8]]], pa.list_(pa.int32()))
    hist, length = last_items(column, 3)
    assert hist.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [4, 0, 0], [6, 7, 8]]
    assert length.tolist() == [3, 0, 0, 1, 3]
    hist, length = last_items(column.slice(3), 3)
    assert (hist.tolist(), length.tolist()) == ([[4, 0, 0], [6, 7, 8]], [1, 3])


def test_the_hash_is_of_rounded_weights_alone() -> None:
    weights = {"a": torch.tensor([[0.1, -0.0], [1.0, 2.0]]), "b": torch.tensor([3])}
    same = {"b": torch.tensor([3]), "a": torch.tensor([[0.1 + 1e-7, 0.0], [1.0, 2.0]])}
    others = [
        {"a": torch.tensor([[0.1001, 0.0], [1.0, 2.0]]), "b": torch.tensor([3])},
        {"a": torch.tensor([0.1, 0.0, 1.0, 2.0]), "b": torch.tensor([3])},
        {"c": weights["a"], "b": torch.tensor([3])},
    ]
    assert weights_hash(weights) == weights_hash(same)
    assert len({weights_hash(w) for w in (weights, *others)}) == 4


class Runs:
    """Code that unpickling runs."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path)
    _, items = features(settings)
    good = tmp_path / "model.pt"
    saved(good, settings, trained(settings, items))
    content = torch.load(good, weights_only=True)
    crafted, newer, short, cut = (tmp_path / f"{name}.pt" for name in ("crafted", "newer", "short", "cut"))
    torch.save({"format": 1, "weights": Runs(tmp_path / "ran")}, crafted)
    torch.save(content | {"format": 2}, newer)
    torch.save(content | {"weights": {}}, short)
    cut.write_bytes(good.read_bytes()[:-100])
    for file in (crafted, newer, short, cut, tmp_path / "absent.pt"):
        with pytest.raises(BadDataError, match="no model that this version can load") as caught:
            load(str(file), items)
        assert caught.value.where == str(file)
    assert not (tmp_path / "ran").exists()


def test_features_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    settings = planted_settings(tmp_path)
    users, items = features(settings)
    saved(tmp_path / "model.pt", settings, trained(settings, items))
    wider = items.set_column(items.column_names.index("category"), "category", pa.array([99] * 80, pa.int32()))
    with pytest.raises(BadDataError, match="'category' was numbered by another vocabulary"):
        load(str(tmp_path / "model.pt"), wider)
    towers = load(str(tmp_path / "model.pt"), items)
    asked = users.slice(0, 2).append_column("items", pa.array([[1], [2]], pa.list_(pa.int32())))
    with pytest.raises(BadDataError, match="'gender' was numbered by another vocabulary"):
        towers.encode_users(asked.set_column(asked.column_names.index("gender"), "gender", pa.array([6, 5], pa.int32())))


def test_loading_imports_nothing_heavy() -> None:
    code = "import sys, trainer.export; print([n for n in ('horovod', 'petastorm', 'faiss', 'pyspark', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
