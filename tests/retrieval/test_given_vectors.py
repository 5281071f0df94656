"""Vectors made elsewhere: matched by key, refused where they are no vectors, and users without one placed among what they clicked."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf import jobs
from conf.errors import BadDataError, NotReadyError, SchemaError
from conf.settings import Settings
from retrieval.given_vectors import mean_of_clicks, parquet_files
from tests.retrieval.day import NO_HISTORY, NUM_ITEMS, NUM_USERS, manifest, table
from tests.retrieval.small_world import cosine, top_of

DIM = 6
WITHOUT = 20  # an item that has no vector


def vectors_by_key(base, numbers, seed):
    rng = np.random.default_rng(seed)
    return {base + n: rng.normal(size=DIM).astype(np.float32) for n in numbers}


def write_file(path, vectors, key_type=None):
    kind = key_type or pa.int64()
    keys = pa.array([str(key) if kind == pa.string() else key for key in vectors], kind)
    pq.write_table(pa.table({"vector": pa.array([v.tolist() for v in vectors.values()], pa.list_(pa.float64())), "key": keys}), path)


ITEMS = vectors_by_key(5000, [i for i in range(1, NUM_ITEMS + 5) if i != WITHOUT], 0)  # four of them no item of the day
USERS = vectors_by_key(1000, (1, 2, 8), 1)


@pytest.fixture
def given(variant, tmp_path):
    """given(similarity=...) -> the day with the vectors of the folder, which a test may write to before."""
    write_file(tmp_path / "items.parquet", ITEMS)

    def make(**settings):
        return variant(tmp_path.name, embeddings={"path": str(tmp_path), **settings})

    return make


def test_the_whole_retrieval_runs_on_given_vectors(given, run, tmp_path):
    (tmp_path / "users.parquet").mkdir()
    write_file(tmp_path / "users.parquet" / "part-0.parquet", dict(list(USERS.items())[:2]), pa.string())
    write_file(tmp_path / "users.parquet" / "part-1.parquet", dict(list(USERS.items())[2:]), pa.string())
    made = given()
    run(made)
    items = {row["idx"]: row["vector"] for row in table(made, "embeddings_item")}
    assert set(items) == set(range(1, NUM_ITEMS + 1)) - {WITHOUT}
    assert all(np.array_equal(np.float32(items[i]), ITEMS[5000 + i]) for i in items)
    users = {row["idx"]: row["vector"] for row in table(made, "embeddings_user")}
    assert set(users) == set(range(1, NUM_USERS + 1))
    assert all(np.array_equal(np.float32(users[key - 1000]), vector) for key, vector in USERS.items())
    counted = {"items": {"given": NUM_ITEMS + 3, "known": NUM_ITEMS - 1}, "users": {"given": 3, "known": 3}}
    assert manifest(made, "embeddings_user").counters["given_vectors"] == counted
    assert manifest(made, "index").counters["index_items"]["nothing_known"] == 1  # the one without a vector; item 9 has one now
    facts = manifest(made, "candidates").facts
    assert (facts["similarity"], facts["dim"], facts["interests"]) == ("cosine", DIM, 1)
    lists = {row["user_idx"]: row["items"] for row in table(made, "channel_candidates") if row["channel"] == "u2i"}
    user = 8
    free = {i: cosine(users[user], items[i]) for i in items if i not in {7, *made.histories[user]}}
    assert lists[user] == [i for i, _ in top_of(free, 12)]
    assert {row["model_id"] for row in table(made, "candidates")} == {facts["model_id"]}
    assert facts["model_id"].startswith("given-")


def test_users_without_a_vector_get_the_mean_of_their_last_clicks(given, run):
    made = given()
    run(made, "embed")
    users = {row["idx"]: row["vector"] for row in table(made, "embeddings_user")}
    for user, history in made.histories.items():
        last = [ITEMS[5000 + i] for i in history[::-1][:5] if i != WITHOUT]  # model.history is 5
        want = np.mean([v / np.linalg.norm(v) for v in last], axis=0) if last else np.zeros(DIM)
        np.testing.assert_allclose(users[user], want, atol=1e-6)
    assert not any(np.any(users[user]) for user in NO_HISTORY)


def test_same_means_from_one_partition_and_from_many(spark):
    rng = np.random.default_rng(3)
    items = [(i, rng.normal(size=3).astype(np.float32).tolist()) for i in range(1, 30)]
    state = [(u, rng.integers(1, 40, u % 7).tolist()) for u in range(1, 50)]
    found = []
    for partitions in (1, 64):
        users = spark.createDataFrame(state, "user_idx int, items array<int>").repartition(partitions)
        vectors = spark.createDataFrame(items, "idx int, vector array<float>").repartition(partitions)
        found.append(sorted(map(tuple, mean_of_clicks(users, vectors, last=4, dim=3).collect())))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("table_", "error", "said"),
    [
        (None, NotReadyError, "no items.parquet there"),
        ({"key": [1], "vec": [[1.0]]}, SchemaError, "want columns key and vector.*found: key int64, vec.*name its columns"),
        ({"key": [1], "vector": ["a"]}, SchemaError, "want columns key and vector"),
        ({"key": [5001, 5001], "vector": [[1.0], [2.0]]}, BadDataError, "1 keys are missing or stand there twice"),
        ({"key": [5001, 5002], "vector": [[1.0], [2.0, 3.0]]}, BadDataError, "1 of 2 vectors are missing.*take these rows out"),
        ({"key": [5001, 5002], "vector": [[1.0], [float("nan")]]}, BadDataError, "not finite"),
        ({"key": [1, 2], "vector": [[1.0], [2.0]]}, BadDataError, "no key is known.*use the items' keys"),
    ],
    ids=["none", "column", "type", "twice", "length", "nan", "strangers"],
)
def test_what_is_no_vector_is_refused_and_nothing_is_published(given, run, tmp_path, table_, error, said):
    made = given()
    (tmp_path / "items.parquet").unlink()
    if table_ is not None:
        pq.write_table(pa.table(table_), tmp_path / "items.parquet")
    with pytest.raises(error, match=f"(?s){said}"):
        run(made, "embed")
    assert made.store.current("embed", manifest(made, "user_state").ds) is None


def test_vectors_of_users_must_be_as_long_as_those_of_items(given, run, tmp_path):
    write_file(tmp_path / "users.parquet", {1001: np.ones(DIM + 1, dtype=np.float32)})
    with pytest.raises(BadDataError, match=r"users.parquet.*\n.*without the 6 numbers of the first item's.*users need vectors as long"):
        run(given(), "embed")


def test_a_day_with_given_vectors_trains_nothing():
    settings = Settings.model_validate({"embeddings": {"path": "vectors"}})
    assert not {"samples", "train"} & set(jobs.stages(settings))
    assert "model" not in jobs.inputs("embed", settings)
    assert {"user_index", "item_index"} <= set(jobs.inputs("embed", settings))
    assert not {"user_index", "item_index"} & set(jobs.inputs("embed", Settings()))


def test_a_file_or_a_folder_of_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "b.parquet").mkdir()
    for name in ("2.parquet", "1.parquet", "_SUCCESS"):
        (tmp_path / "b.parquet" / name).write_bytes(b"")
    assert [file.rsplit("/", 1)[1] for file in parquet_files(str(tmp_path), "a")] == ["a.parquet"]
    assert [file.rsplit("/", 1)[1] for file in parquet_files(str(tmp_path), "b")] == ["1.parquet", "2.parquet"]
    assert parquet_files(str(tmp_path), "c") == []
