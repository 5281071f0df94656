"""The index job: what it takes in, what it measures, what it refuses, what it writes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import BadDataError, GateError
from conf.files import hash_file
from conf.tables import resolve
from retrieval.index_inputs import Source, has_known_field, read_ids, read_vectors, sample_queries
from retrieval.vector_index import index_files, unit
from tests.retrieval.day import DS, NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, day_settings, manifest, table
from tests.trainer.planted import write


def test_items_that_are_eligible_and_known_and_users_with_train_events_are_indexed(day):
    files = index_files(day.store.folder_of(manifest(day, "index")))
    items, users = files["items"].open(), files["users"].open()
    assert items.ids.tolist() == [i for i in range(1, NUM_ITEMS + 1) if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)]
    assert users.ids.tolist() == sorted(day.train)
    vectors = {row["idx"]: row["vector"] for row in table(day, "embeddings_item")}
    np.testing.assert_array_equal(items.vectors, unit(np.array([vectors[i] for i in items.ids.tolist()], dtype=np.float32)))
    counted = manifest(day, "index").counters
    assert counted["index_items"] == {"catalogue": NUM_ITEMS, "indexed": NUM_ITEMS - 2, "not_eligible": 1, "nothing_known": 1, "blocked": 0}
    assert counted["index_users"] == {"indexed": len(day.train), "no_train_events": 40 - len(day.train)}


def test_index_json_tells_what_was_built_and_hashes_every_file(day):
    made = manifest(day, "index")
    folder = day.store.folder_of(made)
    with open(f"{folder}/index.json", encoding="utf-8") as stream:
        document = json.load(stream)
    assert {k: document[k] for k in ("factory", "similarity", "interests", "recall_at", "recall_queries")} == {
        "factory": "auto",
        "similarity": "cosine",
        "interests": 1,
        "recall_at": 12,
        "recall_queries": 30,
    }
    assert set(document["indexes"]) == {"items", "users"}
    for part in document["indexes"].values():
        assert (part["factory"], part["effort"], part["recall"]) == ("Flat", 0, 1.0)
        assert part["bytes"] == sum(file["bytes"] for file in part["files"].values())
        for name, file in part["files"].items():
            assert hash_file(day.store.fs, f"{folder}/{name}") == (file["bytes"], file["sha256"])
    assert {entry.name for entry in made.files} == {"items.faiss", "items_ids.npy", "users.faiss", "users_ids.npy", "index.json"}


def test_an_ivf_index_below_the_recall_goal_is_refused_and_nothing_is_published(variant, run):
    made = variant("ivf1", index={"factory": "IVF8,Flat", "nprobe": 1, "recall_at": 10, "min_recall": 0.99})
    with pytest.raises(GateError, match=r"items: recall@10 is 0\.\d+, want 0.99") as refused:
        run(made, "index")
    assert refused.value.exit_code == 4
    assert made.store.current("index", DS) is None


def test_recall_is_promised_as_deep_as_lists_go(variant, run):
    """Half of the lists looked into: the nearest few are found, most of the 40 that a list publishes are not."""
    half = {"factory": "IVF2,Flat", "nprobe": 1, "min_recall": 0.6}
    shallow = variant("shallow", index={**half, "recall_at": 3}, channels={"top": 40})
    run(shallow, "index")
    assert min(one["recall"] for one in manifest(shallow, "index").counters["index"].values()) >= 0.6
    deep = variant("deep", index=half, channels={"top": 40})
    with pytest.raises(GateError, match=r"items: recall@40 is 0\.\d+, want 0.6"):
        run(deep, "index")


def test_goals_that_no_kind_meets_are_refused_and_nothing_is_published(variant, run):
    made = variant("tiny", index={"max_memory": "1kB"})
    with pytest.raises(GateError, match=r"items: Flat: takes 0.0 MB, may take 0.0 MB   not measured") as refused:
        run(made, "index")
    assert refused.value.exit_code == 4
    assert made.store.current("index", DS) is None


def test_nothing_to_index_is_refused_with_what_there_is_and_what_to_do(variant, run, tmp_path):
    blocked = tmp_path / "all.txt"
    blocked.write_text("\n".join(str(5000 + i) for i in range(1, NUM_ITEMS + 1)))
    said = r"no item may be recommended   60 items: not_eligible 1, nothing_known 1, blocked 58   look at .*index.blocklist"
    with pytest.raises(BadDataError, match=said):
        run(variant("nothing", index={"blocklist": str(blocked)}), "index")


LACKING = {
    "embeddings_item": (lambda day, row: row["idx"] != 1, r"1 items have no vector.*run: trichannel embed --ds"),
    "embeddings_user": (lambda day, row: row["idx"] not in day.train, "no user has train events.*see split"),
}


@pytest.mark.parametrize("short", LACKING)
def test_items_without_a_vector_and_users_without_clicks_are_refused(copied, run, short):
    keep, said = LACKING[short]
    rows = {name: [row for row in table(copied, name) if name != short or keep(copied, row)] for name in LACKING}
    with copied.store.publication("embed", DS, "short", copied.settings) as publication:
        for name, kept in rows.items():
            shape = resolve(name, copied.settings.registry(), copied.settings.shape())
            write(publication, shape, kept, ((len(kept),),), manifest(copied, name).facts)
        publication.commit()
    with pytest.raises(BadDataError, match=said):
        run(copied, "index", run_id="refused")


def test_what_was_tried_stands_in_the_manifest_and_in_the_log(day, run, capsys):
    run(day, "index", run_id="told")
    (one,) = manifest(day, "index").counters["index"]["items"]["tried"]
    assert (one["kind"], one["factory"], one["recall"]) == ("flat", "Flat", 1.0)
    assert one["why"] == "taken: exact, and up to 20,000 vectors nothing else pays"
    assert "choice stage=index text=items: Flat: taken: exact" in capsys.readouterr().err


def test_an_ivf_index_that_looks_everywhere_is_exact(variant, run, day):
    """nprobe = all lists: the same candidates as the flat index, with the vectors beside the index."""
    made = variant("ivf4", index={"factory": "IVF4,Flat", "nprobe": 4, "recall_at": 10, "min_recall": 1})
    run(made, "index", "neighbours", "candidates")
    assert manifest(made, "channel_candidates").content_hash == manifest(day, "channel_candidates").content_hash
    assert {"items_vectors.npy", "users_vectors.npy"} <= {entry.name for entry in manifest(made, "index").files}


def test_known_fields_are_those_with_a_real_id():
    registry = day_settings("unused").registry()
    rows = [(3 + 4, 2, []), (2, 5, []), (2, 2, [2, 9]), (2, 2, [2]), (0, 2, []), (3, 1, [])]
    item_feat = pa.table(
        {"item_id": [r[0] for r in rows], "category": [r[1] for r in rows], "tags": pa.array([r[2] for r in rows], pa.list_(pa.int32()))}
    )
    assert has_known_field(item_feat, registry).tolist() == [True, True, True, False, False, False]


@pytest.fixture
def stored(tmp_path):
    """stored(name, rows) -> a file of an embedding table with these (idx, interest, vector)."""
    schema = pa.schema([("idx", pa.int32()), ("interest", pa.int8()), ("vector", pa.list_(pa.float32()))])

    def write(name, rows):
        pq.write_table(pa.Table.from_pylist([dict(zip(schema.names, r, strict=True)) for r in rows], schema=schema), tmp_path / name)
        return str(tmp_path / name)

    return write


ROWS = [(2, 1, [5.0, 6.0]), (1, 0, [1.0, 2.0]), (2, 0, [3.0, 4.0]), (1, 1, [7.0, 8.0])]


def test_vectors_are_read_by_idx_and_interest_and_must_be_finite(stored):
    files = (stored("a", ROWS[:3]), stored("b", ROWS[3:]))
    assert read_ids(files).tolist() == [1, 2]
    for found in (read_vectors(files), read_vectors(files, keep=np.array([1, 2, 3], dtype=np.int32))):
        assert found.idx.tolist() == [1, 1, 2, 2]
        assert found.matrix.tolist() == [[1, 2], [7, 8], [3, 4], [5, 6]]
    assert read_vectors(files, keep=np.array([2], dtype=np.int32)).matrix.tolist() == [[3, 4], [5, 6]]
    source = Source(files, read_ids(files), rows_per_id=2)
    assert source.rows == 4
    assert sample_queries(source, 5).shape == (2, 2, 2)
    assert sorted(sample_queries(source, 1).reshape(-1).tolist()) in ([1, 2, 7, 8], [3, 4, 5, 6])
    with pytest.raises(BadDataError, match="1 vectors are not finite   idx \\[9\\]"):
        read_vectors([stored("c", [*ROWS, (9, 0, [float("nan"), 0.0])])])


def test_a_sample_is_the_same_every_time_and_spread_over_the_ids():
    source = Source((), np.arange(5, 505, dtype=np.int32), rows_per_id=3)
    chosen = source.sample(100, 7).ids
    assert len(chosen) == 33
    assert chosen.min() < 50
    assert chosen.max() > 450
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(source.sample(100, 7).ids, chosen)
    np.testing.assert_array_equal(source.sample(10_000, 7).ids, source.ids)
    assert len(source.sample(1, 7).ids) == 1


def test_parts_are_even_and_hold_every_id_once():
    parts = Source((), np.arange(1, 12, dtype=np.int32)).split(4)
    assert [part.ids.tolist() for part in parts] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11]]
