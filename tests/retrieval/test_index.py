"""The index job: what it takes in, what it measures, what it refuses, what it writes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.errors import BadDataError, GateError, SettingsError
from conf.files import hash_file
from conf.sections.retrieval import Index
from retrieval.index import Vectors, build, has_known_field, measure_recall, read_vectors, refuse_below, sample_users
from retrieval.vector_index import index_files, unit
from tests.retrieval.day import DS, NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, day_settings, manifest, table
from tests.retrieval.small_world import flat_index


def random_vectors(num, dim=16, seed=0):
    return Vectors(np.arange(1, num + 1, dtype=np.int32), np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32))


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
        "factory": "Flat",
        "similarity": "cosine",
        "interests": 1,
        "recall_at": 10,
        "recall_queries": 30,
    }
    assert set(document["indexes"]) == {"items", "users"}
    for part in document["indexes"].values():
        assert part["recall"] == 1.0
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


def test_an_ivf_index_that_looks_everywhere_is_exact(variant, run, day):
    """nprobe = all lists: the same candidates as the flat index, with the vectors beside the index."""
    made = variant("ivf4", index={"factory": "IVF4,Flat", "nprobe": 4, "recall_at": 10, "min_recall": 1})
    run(made, "index", "neighbours", "candidates")
    assert manifest(made, "channel_candidates").content_hash == manifest(day, "channel_candidates").content_hash
    assert {"items_vectors.npy", "users_vectors.npy"} <= {entry.name for entry in manifest(made, "index").files}


@pytest.mark.parametrize("factory", ["SQ8", "IVF8,SQ8", "PQ4x4", "HNSW8"])
def test_coded_indexes_answer_with_exact_scores(factory):
    """Quantised codes decide who is found; scores come from the vectors."""
    vectors = random_vectors(600)
    built = build("items", vectors, Index(factory=factory, nprobe=8, recall_at=10), is_unit=True, queries=vectors.matrix[:50, None])
    found = built.index.nearest(vectors.matrix[:20, None], 5)
    assert 0.3 < built.recall <= 1
    exact = np.einsum("nd,nd->n", unit(vectors.matrix)[found.rows].astype(np.float64), unit(vectors.matrix)[found.values - 1])
    np.testing.assert_allclose(found.weights, exact, atol=1e-7)


@pytest.mark.parametrize(
    ("factory", "reason"), [("Flot", "could not parse index string"), ("IVF99,Flat", "at least as large as number of")]
)
def test_a_factory_that_faiss_refuses_is_a_settings_error(factory, reason):
    vectors = random_vectors(50)
    with pytest.raises(SettingsError, match=reason):
        build("items", vectors, Index(factory=factory), is_unit=True, queries=vectors.matrix[:5, None])


def test_recall_counts_what_brute_force_would_have_found():
    """Half of the vectors hidden from the search: about half of the true neighbours are missed, exactly those that are hidden."""
    whole = flat_index(np.arange(200), random_vectors(200).matrix)
    queries = random_vectors(40, seed=1).matrix[:, None]
    assert measure_recall(whole, queries, at=20) == 1.0

    class Half:
        def search(self, asked, size):
            scores, rows = whole.searcher.search(asked, 200)
            hidden = np.where(rows % 2 == 0, rows, -1)
            order = np.argsort(hidden < 0, axis=1, kind="stable")
            return np.take_along_axis(scores, order, 1)[:, :size], np.take_along_axis(hidden, order, 1)[:, :size]

    half = type(whole)(Half(), whole.ids, whole.vectors, True)
    truth = np.argsort(-(unit(queries)[:, 0] @ whole.vectors.T), axis=1)[:, :20]
    assert measure_recall(half, queries, at=20) == pytest.approx((truth % 2 == 0).mean())


def test_recall_of_several_rows_an_id_and_vectors_a_query():
    vectors = random_vectors(90)
    index = flat_index(np.repeat(np.arange(30), 3), vectors.matrix, is_unit=False)
    assert measure_recall(index, random_vectors(20, seed=2).matrix.reshape(10, 2, 16), at=7) == 1.0
    assert measure_recall(index, vectors.matrix[:4, None], at=500) == 1.0


def test_equal_scores_count_as_found():
    index = flat_index(np.arange(1, 41), np.ones((40, 4), dtype=np.float32))
    assert measure_recall(index, np.ones((3, 1, 4), dtype=np.float32), at=5) == 1.0


def test_every_index_below_the_goal_is_named():
    with pytest.raises(GateError) as refused:
        refuse_below({"items": 0.5, "users": 0.9, "good": 0.96}, Index())
    assert [fault.what for fault in refused.value.faults] == [
        "items: recall@50 is 0.5000, want 0.95",
        "users: recall@50 is 0.9000, want 0.95",
    ]


def test_known_fields_are_those_with_a_real_id():
    registry = day_settings("unused").registry()
    rows = [(3 + 4, 2, []), (2, 5, []), (2, 2, [2, 9]), (2, 2, [2]), (0, 2, []), (3, 1, [])]
    item_feat = pa.table(
        {"item_id": [r[0] for r in rows], "category": [r[1] for r in rows], "tags": pa.array([r[2] for r in rows], pa.list_(pa.int32()))}
    )
    assert has_known_field(item_feat, registry).tolist() == [True, True, True, False, False, False]


def test_vectors_are_read_by_idx_and_interest_and_must_be_finite(tmp_path):
    rows = [(2, 1, [5.0, 6.0]), (1, 0, [1.0, 2.0]), (2, 0, [3.0, 4.0]), (1, 1, [7.0, 8.0])]
    schema = pa.schema([("idx", pa.int32()), ("interest", pa.int8()), ("vector", pa.list_(pa.float32()))])

    def stored(name, data):
        pq.write_table(pa.Table.from_pylist([dict(zip(schema.names, r, strict=True)) for r in data], schema=schema), tmp_path / name)
        return str(tmp_path / name)

    found = read_vectors([stored("a", rows[:3]), stored("b", rows[3:])])
    assert found.idx.tolist() == [1, 1, 2, 2]
    assert found.matrix.tolist() == [[1, 2], [7, 8], [3, 4], [5, 6]]
    assert sample_users(found, 2, 5).shape == (2, 2, 2)
    assert sorted(sample_users(found, 2, 1).reshape(-1).tolist()) in ([1, 2, 7, 8], [3, 4, 5, 6])
    with pytest.raises(BadDataError, match="1 vectors are not finite   idx \\[9\\]"):
        read_vectors([stored("c", [*rows, (9, 0, [float("nan"), 0.0])])])
