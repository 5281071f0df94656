"""Neighbours by content: against loops over all pairs, and by hand; every way from a published catalogue to sem_nn."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf import jobs
from conf.errors import BadDataError, SchemaError, SettingsError
from conf.sections.semantics import Encoder, Semantics, Tfidf
from conf.settings import Settings, load
from spark_jobs import ingest, pipeline, semantics, vocabulary
from spark_jobs.job import run_job
from spark_jobs.semantics import compared_field, content_vectors, make_search, nearest, text_vectors
from spark_jobs.sources.generic import source as generic_source
from spark_jobs.taxonomy import by_taxonomy
from spark_jobs.text_vectors import batches_of, by_encoder, by_tfidf, check_encoder, learn, unit_batch
from tests.spark_jobs.published_day import day_settings, publish_day, request_for
from tests.spark_jobs.small_logs import shuffle_partitions

Lists = dict[int, list[tuple[int, float]]]


def units(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype("<f4")


def slow_nearest(idx: list[int], vectors: np.ndarray, top: int, least: float) -> Lists:
    """Every item against every other one."""
    cosine = np.clip(np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 6), -1, 1)
    found: Lists = {}
    for a, i in enumerate(idx):
        ranked = sorted((-cosine[a, b], j) for b, j in enumerate(idx) if j != i and cosine[a, b] >= least)
        found[i] = [(j, round(-distance, 6)) for distance, j in ranked[:top]]
    return found


def lists_of(near: DataFrame) -> Lists:
    return {row["idx"]: [(one["item"], round(-one["distance"], 6)) for one in row["near"]] for row in near.collect()}


def vectors_df(spark: SparkSession, idx: list[int], vectors: np.ndarray) -> DataFrame:
    return spark.createDataFrame([(i, bytearray(v.tobytes())) for i, v in zip(idx, vectors, strict=True)], "idx int, vector binary")


# ---- neighbours by vector --------------------------------------------------------------------------------------------

# directions of a small lattice: equal ones, opposite ones, and many at the same angle
lattice = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), min_size=1, max_size=40)


@examples(max_examples=200, deadline=None)
@given(lattice, st.integers(1, 6), st.sampled_from([-1.0, 0.0, 0.1, 0.5]), st.randoms(use_true_random=False))
def test_the_search_of_two_blocks_equals_all_pairs_in_any_order(numbers: Any, top: int, least: float, draw: Any) -> None:
    vectors, idx = units(numbers), list(range(10, 10 + len(numbers)))
    points: dict[bytes, list[int]] = {}
    for i, vector in zip(idx, vectors, strict=True):
        points.setdefault(vector.tobytes(), []).append(i)
    rows = [{"point": items[0], "vector": vector, "members": items[: top + 1]} for vector, items in points.items()]
    draw.shuffle(rows)
    others = pa.table(
        {
            "point": pa.array([row["point"] for row in rows], pa.int32()),
            "vector": [row["vector"] for row in rows],
            "members": pa.array([row["members"] for row in rows], pa.list_(pa.int32())),
        }
    )
    draw.shuffle(rows)
    queries = pa.table({"point": pa.array([row["point"] for row in rows], pa.int32()), "vector": [row["vector"] for row in rows]})
    found = make_search(top=top + 1, min_similarity=least)(queries, others).to_pylist()
    slow = slow_nearest(idx, vectors, top, least)
    for row in rows:
        own = [(r["item"], round(r["similarity"], 6)) for r in found if r["point"] == row["point"]]
        for item in row["members"]:
            assert [one for one in own if one[0] != item][:top] == slow[item]


def test_neighbours_are_the_same_for_any_partitioning_and_blocks(spark: SparkSession) -> None:
    rng = np.random.default_rng(3)
    vectors = units(rng.integers(-2, 3, size=(90, 4)) + np.array([0.5, 0, 0, 0]))  # copies and ties abound
    idx = rng.permutation(np.arange(1, 91)).tolist()
    slow = slow_nearest(idx, vectors, 5, 0.1)
    for partitions, block in ((1, 1000), (3, 45)):
        with shuffle_partitions(spark, partitions):
            df = vectors_df(spark, idx, vectors).repartition(partitions)
            assert lists_of(nearest(df, top=5, min_similarity=0.1, block=block)) == slow
    spark.catalog.clearCache()


def test_a_hundred_copies_crowd_nobody_out(spark: SparkSession) -> None:
    vectors = units([[1, 0]] * 100 + [[1, 0.5], [0, 1]])
    found = lists_of(nearest(vectors_df(spark, list(range(1, 103)), vectors), top=2, min_similarity=0.1))
    assert found[1] == [(2, 1.0), (3, 1.0)]
    assert found[2] == [(1, 1.0), (3, 1.0)]
    assert found[100] == [(1, 1.0), (2, 1.0)]
    assert found[101] == [(1, 0.894427), (2, 0.894427)]  # 1 / sqrt(1.25)
    assert found[102] == [(101, 0.447214)]  # the copies stand at a right angle
    spark.catalog.clearCache()


def test_vectors_without_direction_have_no_place() -> None:
    batch = unit_batch(pa.array([1, 2, 3, 4]), np.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0], [np.nan, 1.0]]))
    assert [v is None for v in batch.column(1).to_pylist()] == [False, True, True, True]
    assert np.frombuffer(batch.column(1)[0].as_py(), "<f4").tolist() == pytest.approx([0.6, 0.8])


@examples(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=10))
def test_vectors_have_unit_length_or_are_left_out(numbers: list[list[float]]) -> None:
    for packed in unit_batch(pa.array(range(len(numbers))), np.array(numbers)).column(1).to_pylist():
        assert packed is None or abs(np.linalg.norm(np.frombuffer(packed, "<f4").astype(np.float64)) - 1) < 1e-6


# ---- titles ----------------------------------------------------------------------------------------------------------

TITLES = {1: "red shoe", 2: "Red  shoes ", 3: "blue kettle", 4: "kettle, blue", 5: None, 6: "   ", 7: "red shoe", 8: "zzzz"}


def titles_df(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(list(TITLES.items()), "idx int, title string")


def test_titles_that_share_words_are_neighbours(spark: SparkSession) -> None:
    vectors = text_vectors(titles_df(spark), "title", Semantics(kind="tfidf", tfidf=Tfidf(dim=8)))
    found = lists_of(nearest(vectors, top=2, min_similarity=0.1))
    spark.catalog.clearCache()
    assert set(found) == {1, 2, 3, 4, 7, 8}  # no text, no row
    assert found[1][0] == (7, 1.0)
    assert found[7][0] == (1, 1.0)  # the same title
    assert found[1][1][0] == 2
    assert found[1][1][1] > 0.6
    assert [item for item, _ in found[2]] == [1, 7]
    assert [item for item, _ in found[3]] == [4]
    assert [item for item, _ in found[4]] == [3]
    assert found[8] == []  # shares no 3-gram with any


def test_without_loss_similarities_are_those_of_tfidf() -> None:
    """As many dimensions as texts: the SVD only turns the vectors. TF-IDF worked by its formula, text by text."""
    texts = ["red shoe", "red shoes", "blue shoe"]
    grams = [[f" {w} "[i : i + 3] for w in text.split() for i in range(len(w))] for text in texts]
    known = sorted({gram for of_text in grams for gram in of_text})
    idf = {g: np.log((1 + len(texts)) / (1 + sum(g in of_text for of_text in grams))) + 1 for g in known}
    want = units([[(1 + np.log(of_text.count(g))) * idf[g] if g in of_text else 0 for g in known] for of_text in grams])
    for dim, kept in ((5, len(texts)), (64, len(known))):  # by the SVD; without it, there being fewer 3-grams than dimensions
        made = learn(texts, Tfidf(dim=dim)).encode(texts)
        assert made.shape == (3, kept)
        assert units(made) @ units(made).T == pytest.approx(want @ want.T, abs=1e-6)


def test_one_title_alone_and_none_at_all(spark: SparkSession) -> None:
    assert learn(["a"], Tfidf()).encode(["a", "b"]).tolist() == [[1.0], [0.0]]
    assert learn(["abcd"], Tfidf(dim=1)).encode(["abcd"]).shape == (1, 1)
    empty = spark.createDataFrame([], "text string")
    assert by_tfidf(empty, Tfidf()).collect() == []


def test_titles_make_the_same_vectors_for_any_partitioning_and_a_sample_is_enough(spark: SparkSession) -> None:
    rng = np.random.default_rng(1)
    words = ["red", "blue", "shoe", "shoes", "kettle", "lamp", "garden", "tall"]
    texts = sorted({" ".join(rng.choice(words, size=3)) for _ in range(60)})
    df = spark.createDataFrame([(text,) for text in texts], "text string")
    made = [
        {row["text"]: bytes(row["vector"]) for row in by_tfidf(df.repartition(n), Tfidf(dim=4, sample=20, terms=30)).collect()}
        for n in (1, 7)
    ]
    assert made[0] == made[1]
    assert {len(vector) for vector in made[0].values()} == {16}


# ---- sentence encoder ------------------------------------------------------------------------------------------------


def write_encoder(folder: Path) -> None:
    """A sentence encoder as sentence-transformers keeps one: a BERT of one layer with random weights, mean pooling."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shoe", "shoes", "blue", "kettle"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (path, kind) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.slow
def test_a_sentence_encoder_in_a_folder_runs_inside_spark(spark: SparkSession, tmp_path: Path) -> None:
    st_package = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed; it is the extra `semantics`")
    write_encoder(tmp_path)
    texts = ["red shoe", "red shoes", "blue kettle", "kettle", "shoe red blue kettle", "unheard of"]
    df = spark.createDataFrame([(text,) for text in texts], "text string")
    settings = Encoder(path=str(tmp_path), batch=4)
    check_encoder(settings)
    made = [{row["text"]: bytes(row["vector"]) for row in by_encoder(df.repartition(n), settings).collect()} for n in (1, 3)]
    spark.catalog.clearCache()
    assert made[0] == made[1]
    alone = st_package.SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    for text, vector in zip(texts, units(alone), strict=True):
        assert np.frombuffer(made[0][text], "<f4") == pytest.approx(vector, abs=1e-5)


def test_texts_are_encoded_together_by_length_whatever_the_partitioning(spark: SparkSession) -> None:
    df = spark.createDataFrame([(text,) for text in ("eeeee", "cc", "a", "bb", "dddd")], "text string")
    for partitions in (1, 4):
        rows = batches_of(df.repartition(partitions), 2).agg(F.array_sort(F.collect_list("text")).alias("texts")).collect()
        assert {row["_batch"]: row["texts"] for row in rows} == {0: ["a", "bb"], 1: ["cc", "dddd"], 2: ["eeeee"]}
    spark.catalog.clearCache()


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the folder of the sentence encoder is not there"):
        check_encoder(Encoder(path=str(tmp_path / "none")))
    with pytest.raises(SettingsError, match=r"modules\.json is missing"):
        check_encoder(Encoder(path=str(tmp_path)))


# ---- taxonomy --------------------------------------------------------------------------------------------------------


def test_items_that_share_a_value_are_neighbours(spark: SparkSession) -> None:
    rows = [(1, ["a", "b"]), (2, ["b", "a", "b"]), (3, ["b", None]), (4, ["c"]), (5, []), (6, [None])]
    items = spark.createDataFrame(rows, "idx int, values array<string>")
    assert lists_of(by_taxonomy(items, top=3, seed=1)) == {1: [(2, 1.0), (3, 0.5)], 2: [(1, 1.0), (3, 0.5)], 3: [(1, 0.5), (2, 0.5)]}
    assert {idx: len(near) for idx, near in lists_of(by_taxonomy(items, top=1, seed=1)).items()} == {1: 1, 2: 1, 3: 1}


def test_a_large_category_is_shared_out_evenly(spark: SparkSession) -> None:
    items = spark.createDataFrame([(i, ["x"]) for i in range(1, 41)], "idx int, values array<string>")
    made = []
    for partitions in (1, 6):
        with shuffle_partitions(spark, partitions):
            made.append(lists_of(by_taxonomy(items.repartition(partitions), top=3, seed=5)))
    assert made[0] == made[1]
    assert made[0] != lists_of(by_taxonomy(items, top=3, seed=6))
    taken = [item for i, near in made[0].items() for item, similarity in near if item != i and similarity == 1.0]
    assert sorted(taken) == sorted(list(range(1, 41)) * 3)


# ---- the job ---------------------------------------------------------------------------------------------------------


def sem_nn(spark: SparkSession, asked: Any) -> tuple[Any, dict[int, tuple[list[int], list[float]]]]:
    manifest = asked.store.manifest("sem_nn", asked.ds, asked.settings)
    rows = spark.read.parquet(*asked.store.files_of(manifest)).collect()
    return manifest, {row["item_idx"]: (row["neighbours"], row["similarities"]) for row in rows}


@pytest.fixture(scope="module")
def catalogue(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a day with items and their numbers published."""
    root = tmp_path_factory.mktemp("catalogue")
    publish_day(spark, request_for(root, day_settings()), until="vocabulary")
    return root


@pytest.mark.parametrize(("kind", "field"), [("tfidf", "title"), ("taxonomy", "category")])
def test_the_job_gives_every_item_a_list_and_says_how_it_was_made(spark: SparkSession, catalogue: Path, kind: str, field: str) -> None:
    hashes = set()
    for partitions in (1, 3):
        asked = request_for(catalogue, day_settings(semantics={"kind": kind, "top": 4}), run_id=f"{kind}-{partitions}")
        with shuffle_partitions(spark, partitions):
            run_job(semantics.JOB, spark, replace(asked, force=True))
        manifest, rows = sem_nn(spark, asked)
        hashes.add(manifest.content_hash)
    assert len(hashes) == 1
    index = asked.store.manifest("item_index", asked.ds, asked.settings)
    assert len(rows) == index.rows
    assert manifest.facts["semantics"] == {"kind": kind, "field": field, "model": None}
    assert manifest.counters["kind"] == kind
    assert manifest.counters["items_with_neighbours"] == sum(bool(near) for near, _ in rows.values()) > 20
    for idx, (near, similar) in rows.items():
        assert idx not in near
        assert len(near) == len(set(near)) == len(similar) <= 4
        assert sorted(similar, reverse=True) == similar


def shop(folder: Path, **items: Any) -> dict[str, Any]:
    """Settings of a small shop: clicks of four items, and the table of items that is given."""
    rows = "".join(f"u{n % 3},i{n % 4},{1_768_046_400 + n}\n" for n in range(24))
    (folder / "clicks.csv").write_text("user_key,item_key,ts\n" + rows)
    return {"kind": "generic", "path": str(folder / "clicks.csv"), "items": {"key": "item_key", **items}}


@pytest.mark.slow
def test_content_vectors_of_the_source(spark: SparkSession, tmp_path: Path, make_request: Any) -> None:
    vectors = [[2.0, 0.0], [1.0, 1.0], [3.0, 0.3], None, [0.0, 0.0], [float("nan"), 1.0]]
    table = {"item_key": [f"i{n}" for n in range(6)], "embedding": pa.array(vectors, pa.list_(pa.float64()))}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    source = shop(tmp_path, path=str(tmp_path / "items.parquet"), format="parquet", vector="embedding")
    asked = make_request(Settings.model_validate({"source": source, "semantics": {"kind": "vectors"}}), ds="2026-01-10")
    for job in (ingest.JOB, vocabulary.JOB, semantics.JOB):
        run_job(job, spark, asked)
    idx = {
        r["key"]: r["idx"]
        for r in spark.read.parquet(*asked.store.files_of(asked.store.manifest("item_index", asked.ds, asked.settings))).collect()
    }
    key = {i: k for k, i in idx.items()}
    manifest, rows = sem_nn(spark, asked)
    assert {key[i]: [key[n] for n in near] for i, (near, _) in rows.items()} == {
        "i0": ["i2", "i1"],
        "i1": ["i2", "i0"],  # cos with (3, 0.3) is 3.3 / sqrt(2 * 9.09) = 0.774
        "i2": ["i0", "i1"],
        "i3": [],
        "i4": [],
        "i5": [],
    }
    assert rows[idx["i0"]][1] == pytest.approx([3 / 9.09**0.5, 0.5**0.5], abs=1e-6)
    assert manifest.facts["semantics"] == {"kind": "vectors", "field": None, "model": None}
    counted = {name: manifest.counters[name] for name in ("items_with_content", "items_without_direction", "items_with_neighbours")}
    assert counted == {"items_with_content": 4, "items_without_direction": 1, "items_with_neighbours": 3}


def test_content_vectors_in_csv_are_numbers_with_the_separator(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_key,v\ni0,1|2.5\ni1,1|x\ni2,\ni3,3|4|5\n")
    settings = Settings.model_validate({"source": shop(tmp_path, path=str(tmp_path / "items.csv"), vector="v")})
    items = generic_source(spark, settings, "2026-01-10").items.withColumn("idx", F.substring("item_key", 2, 1).cast("int"))
    assert {r["idx"]: r["content_vector"] for r in items.collect()} == {0: [1.0, 2.5], 1: None, 2: None, 3: [3.0, 4.0, 5.0]}
    with pytest.raises(BadDataError, match=r"content vectors differ in length   1 of 2 numbers, 1 of 3 numbers"):
        content_vectors(items)


def test_a_column_that_holds_no_vectors_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_key": ["i0"], "v": [3]}), tmp_path / "items.parquet")
    for column, message in (
        ("v", r"column 'v' in .* is bigint, want an array of numbers"),
        ("vv", "column 'vv' is missing .* set source.items.vector"),
    ):
        source = shop(tmp_path, path=str(tmp_path / "items.parquet"), format="parquet", vector=column)
        with pytest.raises(SchemaError, match=message):
            generic_source(spark, Settings.model_validate({"source": source}), "2026-01-10")


def test_a_day_runs_it_only_where_a_way_is_chosen() -> None:
    off, on = Settings(), Settings.model_validate({"semantics": {"kind": "tfidf"}})
    assert "semantics" not in pipeline.stages_until(None, off)
    assert "semantics" in pipeline.stages_until(None, on)
    assert "sem_nn" not in jobs.inputs("report", off)
    assert "sem_nn" in jobs.inputs("report", on)
    unused = Settings.model_validate({"semantics": {"top": 3}})
    assert jobs.config_hash("report", off) == jobs.config_hash("report", unused)
    assert jobs.config_hash("report", off) != jobs.config_hash("report", on)


def test_the_job_alone_says_that_no_way_is_chosen() -> None:
    with pytest.raises(SettingsError, match=r"set semantics\.kind: tfidf"):
        compared_field(Semantics(), Settings().registry())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {fields: {item: {colour: single}}}\nsemantics: {kind: tfidf}", "there is none; set source.fields.item: {title: text}"),
        ("semantics: {kind: tfidf, field: tags}", "semantics.field (line 1): 'tags' is no item field of role text; known: title"),
        ("source: {fields: {item: {a: text, b: text}}}\nsemantics: {kind: tfidf}", "several item fields have role text; name one of a, b"),
        ("model: {fields: {item: [item_id]}}\nsemantics: {kind: taxonomy}", "needs an item field of role single or multi"),
        ("semantics: {kind: encoder}", "semantics.encoder.path is needed"),
        ("semantics: {kind: vectors}", "set source.items.vector"),
        ("source: {items: {vector: v}}", "source.items.vector needs kind generic"),
    ],
)
def test_settings_that_cannot_work_say_what_to_set(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(str(tmp_path / "x.yaml"))
    assert message in str(caught.value)
