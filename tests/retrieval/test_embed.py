"""Batch inference: the vectors of the towers themselves, the same bits whatever the batches."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import BadDataError
from retrieval.embed import blocks, make_embed_items, make_embed_users, vectors_batch
from retrieval.towers_files import TowersFiles
from tests.retrieval.day import DS, NUM_ITEMS, NUM_USERS, flip_a_bit, manifest, table
from trainer import export


@pytest.fixture(scope="module")
def towers_files(day):
    return TowersFiles.of(
        manifest(day, "model"), day.store.files_of(manifest(day, "model")), day.store.files_of(manifest(day, "item_feat"))
    )


@pytest.fixture(scope="module")
def users(day):
    """What embed_users gives the towers, one row a user by user_idx."""
    state = pa.concat_tables([pq.read_table(f, columns=["user_idx", "items"]) for f in day.store.files_of(manifest(day, "user_state"))])
    feat = pa.concat_tables([pq.read_table(f) for f in day.store.files_of(manifest(day, "user_feat"))])
    feat = feat.rename_columns(["user_idx", *feat.column_names[1:]])
    rows = {row["user_idx"]: row for row in feat.to_pylist()}
    joined = [row | rows[row["user_idx"]] for row in sorted(state.to_pylist(), key=lambda r: r["user_idx"])]
    schema = pa.schema([*state.schema, *(f for f in feat.schema if f.name != "user_idx")])
    return pa.Table.from_pylist(joined, schema=schema).combine_chunks()


def test_published_vectors_are_those_of_the_towers(day, towers_files, users):
    towers = towers_files.open()
    found = sorted(table(day, "embeddings_user"), key=lambda row: row["idx"])
    assert [(row["idx"], row["interest"]) for row in found] == [(u, 0) for u in range(1, NUM_USERS + 1)]
    np.testing.assert_allclose([row["vector"] for row in found], towers.encode_users(users)[:, 0], atol=1e-6)
    items = sorted(table(day, "embeddings_item"), key=lambda row: row["idx"])
    assert [row["idx"] for row in items] == list(range(1, NUM_ITEMS + 1))
    np.testing.assert_allclose(
        [row["vector"] for row in items], towers.encode_items(np.arange(1, NUM_ITEMS + 1, dtype=np.int32)), atol=1e-6
    )


def test_facts_of_the_model_travel_on_to_every_later_table(day, towers_files):
    towers = towers_files.open()
    facts = {"model_id": towers.model_id, "similarity": "cosine", "dim": 16, "interests": 1}
    for name in ("embeddings_user", "index", "neighbours_item", "candidates"):
        assert facts.items() <= manifest(day, name).facts.items()
    assert manifest(day, "candidates").facts["item_key_type"] == "int64"  # of the data: kept


def test_same_bits_for_one_row_and_for_all(towers_files, users):
    towers = towers_files.open()
    whole = pa.Table.from_batches(make_embed_users(lambda: towers)(users.to_batches()))
    single = pa.Table.from_batches(make_embed_users(lambda: towers)(users.to_batches(max_chunksize=1)))
    assert whole.equals(single)
    idx = pa.RecordBatch.from_arrays([pa.array(np.arange(1, NUM_ITEMS + 1), pa.int32())], names=["idx"])
    together = pa.Table.from_batches(make_embed_items(lambda: towers)([idx]))
    apart = pa.Table.from_batches(make_embed_items(lambda: towers)([idx.slice(40), idx.slice(0, 40)]))
    assert together.equals(apart.sort_by("idx"))


def test_several_interests_give_several_rows():
    made = vectors_batch(np.array([4, 9], dtype=np.int32), np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    assert made.to_pydict() == {
        "idx": [4, 4, 4, 9, 9, 9],
        "interest": [0, 1, 2, 0, 1, 2],
        "vector": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]],
    }


def test_empty_batches_give_no_blocks():
    empty = pa.RecordBatch.from_arrays([pa.array([], pa.int32())], names=["idx"])
    assert list(blocks([empty])) == []


def test_the_towers_are_loaded_once_in_a_process(towers_files, monkeypatch):
    loads = []
    real = export.load
    monkeypatch.setattr(export, "load", lambda *given: loads.append(1) or real(*given))
    assert towers_files.held() is towers_files.held()
    assert len(loads) == 1


def test_a_damaged_model_file_ends_the_job_before_any_task(copied, run):
    before = copied.store.current("embed", DS)
    flip_a_bit(next(file for file in copied.store.files_of(manifest(copied, "model")) if file.endswith("model.pt")))
    with pytest.raises(BadDataError, match=r"model.pt.*\n.*the file is damaged"):
        run(copied, "embed", run_id="r2")
    assert copied.store.current("embed", DS) == before
