"""The Arrow function without Spark, inside Spark, and as a function in SQL."""

import json
from dataclasses import asdict

import faiss
import numpy as np
import pyarrow as pa
import pytest

from conf.errors import BadDataError
from conf.files import hash_file, open_root
from conf.manifest import FileEntry, Manifest
from retrieval import search, worker
from retrieval.search import NEIGHBOURS_SCHEMA, make_search, register_search_udf
from retrieval.vector_index import VectorIndex, index_files, unit
from tests.retrieval.day import manifest
from tests.retrieval.small_world import flat_index, lists_of


def batch(idx, vectors):
    return pa.RecordBatch.from_arrays(
        [pa.array(idx, pa.int32()), pa.array(vectors.tolist(), pa.list_(pa.float32()))], names=["idx", "vector"]
    )


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 8)).astype(np.float32)
    vectors[50] = vectors[20]  # items 21 and 51 are twins
    return flat_index(np.arange(1, 121), vectors), vectors


@pytest.fixture
def folder(tmp_path, world):
    index, _ = world
    faiss.write_index(index.searcher, str(tmp_path / "items.faiss"))
    np.save(tmp_path / "items_ids.npy", index.ids)
    filesystem, root = open_root(str(tmp_path))
    files = {}
    for name in ("items.faiss", "items_ids.npy"):
        size, sha256 = hash_file(filesystem, f"{root}/{name}")
        files[name] = {"bytes": size, "sha256": sha256}
    (tmp_path / "index.json").write_text(
        json.dumps({"indexes": {"items": {"is_unit": True, "effort": 0, "parts": ["items"], "files": files}}})
    )
    size, sha256 = hash_file(filesystem, f"{root}/index.json")
    entry = FileEntry("index.json", 0, size, sha256)
    made = Manifest("index", "index", "main", "2026-01-31", "r1", 120, "120:0", (entry,), "")
    (tmp_path / "manifest.json").write_text(json.dumps(asdict(made)))
    return tmp_path


def test_search_loads_once_a_task_and_answers_every_row(world):
    index, vectors = world
    loads = []

    def load():
        loads.append(1)
        return index

    batches = [batch(np.arange(1, 61), vectors[:60]), batch(np.arange(61, 121), vectors[60:]), batch([], vectors[:0])]
    found = pa.Table.from_batches(make_search(load, top_k=5)(iter(batches)))
    assert len(loads) == 1
    assert found["idx"].to_pylist() == list(range(1, 121))
    assert found["neighbours"].to_pylist() == [[i for i, _ in one] for one in lists_of(index.nearest(vectors[:, None], 5))]
    assert found["neighbours"][3].as_py()[0] == 4  # itself: nothing is nearer


def test_blocks_are_as_large_as_their_answers_allow(world, monkeypatch):
    index, vectors = world
    whole = pa.Table.from_batches(make_search(lambda: index, top_k=5)([batch(np.arange(1, 61), vectors[:60])]))
    monkeypatch.setattr(search, "_ANSWERS", 37)
    blocks = list(make_search(lambda: index, top_k=5)([batch(np.arange(1, 61), vectors[:60])]))
    assert [block.num_rows for block in blocks] == [7] * 8 + [4]
    assert pa.Table.from_batches(blocks).equals(whole)


def test_exclude_self_goes_by_id_and_keeps_the_twin(world):
    index, vectors = world
    (found,) = make_search(lambda: index, top_k=3, exclude_self=True)([batch([21, 51, 500], vectors[[20, 50, 20]])])
    neighbours = found.column("neighbours").to_pylist()
    assert neighbours[0][0] == 51
    assert neighbours[1][0] == 21
    assert neighbours[2][:2] == [21, 51]  # not in the index itself
    assert [len(one) for one in neighbours] == [3, 3, 3]


@pytest.mark.parametrize("lengths", [(5, 5), (8, 7), (5, 11)], ids=["all", "one", "as many numbers in all"])
def test_vectors_of_another_length_are_refused(world, lengths):
    index, _ = world
    lists = pa.array([[1.0] * length for length in lengths], pa.list_(pa.float32()))
    asked = pa.RecordBatch.from_arrays([pa.array([1, 2], pa.int32()), lists], names=["idx", "vector"])
    with pytest.raises(BadDataError, match=r"the first of [57] numbers, want 8   search with vectors of the model"):
        list(make_search(lambda: index, top_k=3)([asked]))


def test_minus_one_never_leaks_from_a_short_answer(world):
    _, vectors = world
    searcher = faiss.index_factory(8, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    searcher.train(unit(vectors))
    searcher.add(unit(vectors))
    index = VectorIndex(searcher, np.arange(1, 121, dtype=np.int32), unit(vectors), True)
    (found,) = make_search(lambda: index, top_k=100)([batch(np.arange(1, 121), vectors)])
    lists = found.column("neighbours").to_pylist()
    assert min(len(one) for one in lists) < 100
    assert all(min(one) >= 1 for one in lists)
    assert [len(one) for one in lists] == [len(one) for one in found.column("similarities").to_pylist()]


def test_in_spark_the_index_is_opened_by_the_workers(spark, folder, world):
    index, vectors = world
    files = index_files(str(folder))["items"]
    df = spark.createDataFrame([(i + 1, vectors[i].tolist()) for i in range(120)], "idx int, vector array<float>")
    rows = df.repartition(3).mapInArrow(make_search(files.held, top_k=4), NEIGHBOURS_SCHEMA).orderBy("idx").collect()
    expected = lists_of(index.nearest(vectors[:, None], 4))
    assert [list(zip(r.neighbours, r.similarities, strict=True)) for r in rows] == expected


def test_search_in_sql(spark, folder, world):
    index, vectors = world
    register_search_udf(spark, "nearest_items", str(folder), top_k=3)
    data = [(1, vectors[0].tolist()), (2, None), (3, vectors[2].tolist())]
    spark.createDataFrame(data, "idx int, vector array<float>").createOrReplaceTempView("asked")
    rows = spark.sql("select idx, near.neighbours, near.similarities from (select idx, nearest_items(vector) near from asked) order by idx")
    found = [(r.idx, r.neighbours, r.similarities) for r in rows.collect()]
    first, third = lists_of(index.nearest(vectors[[0, 2], None], 3))
    assert found[0] == (1, [i for i, _ in first], [s for _, s in first])
    assert found[1] == (2, None, None)
    assert found[2] == (3, [i for i, _ in third], [s for _, s in third])


@pytest.mark.parametrize(
    ("index", "table", "base", "key_type", "kind"),
    [("items", "item_index", 5000, int, "bigint"), ("users", "user_index", 1000, str, "string")],
)
def test_search_in_sql_gives_business_keys_of_the_type_they_came(spark, day, index, table, base, key_type, kind):
    """Items came with integer keys, users with text; key = base + idx."""
    side = table.removesuffix("_index")
    folder, keys = (day.store.folder_of(manifest(day, name)) for name in ("index", table))
    register_search_udf(spark, "by_number", folder, top_k=4, index=index)
    register_search_udf(spark, "by_key", folder, top_k=4, index=index, key_folder=keys)
    vectors = spark.read.parquet(*day.store.files_of(manifest(day, f"embeddings_{side}"))).repartition(3)
    found = vectors.selectExpr("by_number(vector) as numbers", "by_key(vector) as keys")
    assert dict(found.select("keys.neighbours").dtypes)["neighbours"] == f"array<{kind}>"
    rows = found.collect()
    assert len(rows) > 30
    for row in rows:
        assert row.keys.neighbours == [key_type(base + idx) for idx in row.numbers.neighbours]
        assert row.keys.similarities == row.numbers.similarities


def test_keys_of_another_table_and_neighbours_without_one_are_refused(spark, day):
    folder, keys = (day.store.folder_of(manifest(day, name)) for name in ("index", "user_index"))
    with pytest.raises(BadDataError, match=r"want table item_index   found user_index   give a run folder.*trichannel path item_index"):
        register_search_udf(spark, "wrong", folder, top_k=3, key_folder=keys)
    with pytest.raises(BadDataError, match=r"2 neighbours have no business key   idx \[1, 7\]"):
        search.keys_of(pa.array(["a", None, "c"]), np.array([0, 1, 7], dtype=np.int32))


def flipped(content):
    """One bit in the middle is another: same size, only the checksum can tell."""
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-100], lambda content: b""], ids=["bit", "truncated", "empty"])
@pytest.mark.parametrize("name", ["items.faiss", "items_ids.npy", "index.json"])
def test_a_damaged_file_is_refused_by_its_checksum_before_faiss_sees_it(spark, folder, name, damage, monkeypatch):
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS opened a damaged file"))
    with pytest.raises(BadDataError, match="the file is damaged"):
        index_files(str(folder))["items"].open()
    with pytest.raises(BadDataError, match="the file is damaged"):
        register_search_udf(spark, "damaged", str(folder), top_k=3)


@pytest.mark.parametrize("name", ["items_ids.npy", "index.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BadDataError, match=rf"{name}.*\n.*the file is missing"):
        index_files(str(folder))["items"].open()


def test_an_index_json_that_lacks_something_and_a_folder_that_is_no_run_are_named(folder):
    (folder / "index.json").write_text('{"indexes": {"items": {"is_unit": true}}}')
    _, sha256 = hash_file(*open_root(str(folder / "index.json")))
    with pytest.raises(BadDataError, match=r"index.json lacks 'files'.*run: trichannel index"):
        index_files(str(folder), sha256)
    (folder / "manifest.json").write_text("{")
    for nowhere in (folder, folder / "elsewhere"):
        with pytest.raises(BadDataError, match=r"manifest.json is missing or damaged.*trichannel path index"):
            index_files(str(nowhere))


def test_a_file_of_a_remote_storage_is_copied_once_and_checked(folder, monkeypatch, tmp_path_factory):
    """A file:// URI opened as if it were remote: the copy is what is read, and it is checked too."""
    import pyarrow.fs as pafs

    class Remote(pafs.SubTreeFileSystem):
        pass

    opened = []

    def open_remote(uri):
        opened.append(uri)
        path = uri.removeprefix("remote://")
        return Remote("/", pafs.LocalFileSystem()), path

    monkeypatch.setattr(worker, "open_root", open_remote)
    size, sha256 = hash_file(pafs.LocalFileSystem(), str(folder / "items.faiss"))
    first = worker.local_file(f"remote://{folder}/items.faiss", sha256)
    assert first != str(folder / "items.faiss")
    assert hash_file(pafs.LocalFileSystem(), first) == (size, sha256)
    (folder / "items.faiss").unlink()
    assert worker.local_file(f"remote://{folder}/items.faiss", sha256) == first  # the copy serves again
    with pytest.raises(BadDataError, match="the file is damaged"):
        worker.local_file(f"remote://{folder}/items_ids.npy", sha256)


def test_one_value_a_kind_is_held():
    calls = []
    for key in ("a", "a", "b", "b", "a"):
        assert worker.once("test", key, lambda key=key: calls.append(key) or key) == key
    assert calls == ["a", "b", "a"]
