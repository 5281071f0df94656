"""Similar users and items as published: business keys of the type they came with, every user and item asked for, self left out."""

import pytest

from conf import jobs
from conf.settings import Settings
from retrieval import similar
from spark_jobs.job import run_job
from tests.retrieval.conftest import ask
from tests.retrieval.day import HELD_OUT, NO_HISTORY, NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, NUM_USERS, manifest, table
from tests.retrieval.small_world import cosine, top_of


@pytest.fixture(scope="module")
def made(spark, variant):
    """The day with 4 similar users and 5 similar items of each."""
    asked = variant("similar", similar={"users": 4, "items": 5})
    run_job(similar.JOB, spark, ask(asked))
    return asked


def lists(day, name):
    """key -> [(neighbour_key, score)] by rank; ranks are checked to count from 1."""
    found = {}
    for row in sorted(table(day, name), key=lambda row: (row["key"], row["rank"])):
        found.setdefault(row["key"], []).append((row["neighbour_key"], row["score"]))
        assert row["rank"] == len(found[row["key"]])
    return found


def test_users_are_the_nearest_training_users_under_string_keys(made):
    vectors = {row["idx"]: row["vector"] for row in table(made, "embeddings_user")}
    found = lists(made, "similar_users")
    assert set(found) == {str(1000 + user) for user in range(1, NUM_USERS + 1)}
    for user in vectors:
        wanted = top_of({u: cosine(vectors[user], vectors[u]) for u in made.train if u != user}, 4)
        assert [key for key, _ in found[str(1000 + user)]] == [str(1000 + u) for u, _ in wanted]
        assert [score for _, score in found[str(1000 + user)]] == pytest.approx([s for _, s in wanted], abs=1e-6)
    named = {key for near in found.values() for key, _ in near}
    assert not named & {str(1000 + user) for user in (*HELD_OUT, *NO_HISTORY)}


def test_items_are_the_nearest_that_may_be_recommended_under_integer_keys(made):
    vectors = {row["idx"]: row["vector"] for row in table(made, "embeddings_item")}
    found = lists(made, "similar_items")
    assert set(found) == {5000 + item for item in range(1, NUM_ITEMS + 1)}  # those without a click, too
    for item in vectors:
        others = [j for j in vectors if j not in (item, NOT_ELIGIBLE, NOTHING_KNOWN)]
        wanted = top_of({j: cosine(vectors[item], vectors[j]) for j in others}, 5)
        assert [key for key, _ in found[5000 + item]] == [5000 + j for j, _ in wanted]


def test_only_what_is_asked_for_is_made(spark, variant):
    asked = variant("items_only", similar={"items": 2})
    assert run_job(similar.JOB, spark, ask(asked, "r2")).rows == {"similar_items": 2 * NUM_ITEMS}
    assert manifest(asked, "similar_items").run_id == "r2"


def test_a_day_that_asks_for_none_has_no_such_stage():
    assert "similar" not in jobs.stages(Settings())
    assert jobs.outputs("similar", Settings.model_validate({"similar": {"users": 3}})) == ("similar_users",)
    assert "similar" in jobs.stages(Settings.model_validate({"similar": {"items": 3}}))


def test_keys_join_the_same_rows_from_one_partition_and_from_many(spark, made):
    index = spark.createDataFrame([(str(k), k) for k in range(1, 40)], "key string, idx int")
    near = [(k, [1 + (k + n) % 39 for n in range(1, 4)], [0.9, 0.5, 0.1]) for k in range(1, 40)]
    df = spark.createDataFrame(near, "idx int, neighbours array<int>, similarities array<float>")
    rows = [sorted(similar.under_keys(df.repartition(n), index, key_type="int64").collect()) for n in (1, 64)]
    assert rows[0] == rows[1]
    assert rows[0][:3] == [(1, 1, 3, pytest.approx(0.9)), (1, 2, 4, 0.5), (1, 3, 5, pytest.approx(0.1))]
