"""Indexes that Spark tasks build in parts: the tables are those of the whole, and what lost attempts wrote is gone."""

import json
from pathlib import Path

import numpy as np
import pytest

from conf.errors import GateError
from conf.files import hash_file
from conf.sections.retrieval import Index
from retrieval.index_inputs import Source
from retrieval.index_parts import Parts
from retrieval.index_shards import parts_of
from retrieval.vector_index import index_files
from tests.retrieval.day import DS, manifest

RESULTS = ("neighbours_user", "neighbours_item", "channel_candidates")


def folder_of(day):
    return Path(day.store.folder_of(manifest(day, "index")))


@pytest.mark.parametrize("shards", [3, 64])
def test_sharded_equals_replicated(variant, run, day, shards):
    """64 parts of 58 items: no more parts than items, and the same neighbours and candidates as from one index."""
    made = variant(f"parts{shards}", index={"shards": shards})
    run(made, "index", "neighbours", "candidates")
    for name in RESULTS:
        assert manifest(made, name).content_hash == manifest(day, name).content_hash
    files = index_files(str(folder_of(made)))
    items = files["items"].open()
    assert isinstance(items.searcher, Parts)
    assert len(files["items"].parts) == min(shards, len(items.ids))
    np.testing.assert_array_equal(items.ids, index_files(str(folder_of(day)))["items"].open().ids)
    with open(folder_of(made) / "index.json", encoding="utf-8") as stream:
        told = json.load(stream)["indexes"]["items"]
    assert (told["factory"], told["recall"], told["rows"]) == ("Flat", 1.0, len(items.ids))


def test_by_default_a_small_index_is_one_file_as_if_told_so(variant, run, day):
    one = variant("one", index={"shards": 1})
    run(one, "index")
    assert manifest(one, "index").content_hash == manifest(day, "index").content_hash
    assert sorted((e.name, e.sha256) for e in manifest(one, "index").files if e.name != "index.json") == sorted(
        (e.name, e.sha256) for e in manifest(day, "index").files if e.name != "index.json"
    )


def test_by_default_vectors_beyond_max_memory_are_built_by_tasks_into_an_index_within_it(variant, run):
    """58 items of 16 numbers take 3.7 kB: two parts, and codes, as one index of them would need."""
    made = variant("beyond", index={"max_memory": "3.5kB", "min_recall": 0.8})
    run(made, "index")
    with open(folder_of(made) / "index.json", encoding="utf-8") as stream:
        told = json.load(stream)["indexes"]
    assert (told["items"]["factory"], len(told["items"]["parts"])) == ("IVF1,SQ8", 2)
    assert (told["users"]["factory"], len(told["users"]["parts"])) == ("Flat", 1)


def test_lists_and_codes_are_trained_once_for_all_parts(variant, run, day):
    made = variant("ivfparts", index={"shards": 2, "factory": "IVF4,Flat", "nprobe": 4, "min_recall": 1})
    run(made, "index", "neighbours", "candidates")
    assert manifest(made, "channel_candidates").content_hash == manifest(day, "channel_candidates").content_hash
    first, second = index_files(str(folder_of(made)))["items"].open().searcher.searchers
    centres = [searcher.quantizer.reconstruct_n(0, 4) for searcher in (first, second)]
    np.testing.assert_array_equal(*centres)


def test_every_file_is_one_of_the_manifest_and_hashed(variant, run):
    made = variant("files", index={"shards": 3})
    run(made, "index")
    entries = {entry.name: (entry.bytes, entry.sha256) for entry in manifest(made, "index").files}
    found = {path.name for path in folder_of(made).iterdir()} - {"manifest.json", "_SUCCESS"}
    assert found == set(entries)
    for name, entry in entries.items():
        assert hash_file(made.store.fs, str(folder_of(made) / name)) == entry


def test_what_other_attempts_wrote_is_removed(variant, run, monkeypatch):
    """A file as a lost attempt leaves it, there before the job ends."""
    from retrieval import index

    made, whole = variant("losers", index={"shards": 2}), index.write

    def write(context, folder, *rest):
        (Path(folder) / "items-00000-999.faiss").write_bytes(b"half of an ind")
        return whole(context, folder, *rest)

    monkeypatch.setattr(index, "write", write)
    run(made, "index")
    assert not list(folder_of(made).glob("*-999.faiss"))


def test_a_sharded_index_below_the_goal_is_refused(variant, run):
    made = variant("poor", index={"shards": 2, "factory": "IVF8,Flat", "nprobe": 1, "recall_at": 10, "min_recall": 0.99})
    with pytest.raises(GateError, match=r"items: recall@10 is 0\.\d+, want 0.99"):
        run(made, "index")
    assert made.store.current("index", DS) is None


@pytest.mark.parametrize(
    ("shards", "ids", "wanted"), [(1, 900, 1), (7, 900, 7), (7, 3, 3), ("auto", 100, 1), ("auto", 101, 2), ("auto", 400, 4)]
)
def test_parts_are_as_set_or_as_many_as_memory_asks(shards, ids, wanted):
    """A vector of width 64 takes 256 bytes: a hundred of them fill the memory that is allowed."""
    source = Source((), np.arange(1, ids + 1, dtype=np.int32))
    assert parts_of(source, 64, Index(shards=shards, max_memory="25.6kB")) == wanted
