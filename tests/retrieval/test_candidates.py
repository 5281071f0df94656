"""The published tables of a whole day against the formulas of the channels, from the tables the jobs read."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from conf.errors import BadDataError
from conf.jobs import stages
from conf.tables import VALID, resolve
from retrieval.candidates import with_user_keys
from retrieval.candidates_quotas import valid_clicks
from retrieval.merge import merge as merge_lists
from retrieval.merge_quotas import learn_quotas
from retrieval.ragged import Ragged
from retrieval.world import Users, most_clicked, seen_items, unclicked
from tests.retrieval.day import (
    DS,
    HELD_OUT,
    NO_HISTORY,
    NOT_ELIGIBLE,
    NOTHING_KNOWN,
    NUM_ITEMS,
    NUM_USERS,
    flip_a_bit,
    manifest,
    table,
)
from tests.retrieval.small_world import TWINS, ArrayWorld, Case, flat_index, newest_distinct
from tests.trainer.planted import write


def case_of(day):
    """The day as the twins take it, read from the published tables; user u stands at place u - 1."""
    vectors = {row["idx"]: np.array(row["vector"], dtype=np.float32) for row in table(day, "embeddings_user")}
    items = {row["idx"]: np.array(row["vector"], dtype=np.float32) for row in table(day, "embeddings_item")}
    ids = [i for i in sorted(items) if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)]
    index = flat_index(ids, np.stack([items[i] for i in ids]))
    pairs = {
        side: {r["idx"]: list(zip(r["neighbours"], r["similarities"], strict=True)) for r in table(day, f"neighbours_{side}")}
        for side in ("user", "item")
    }
    met = {i: [] for i in items}
    for row in table(day, "cooc"):
        met[row["item_i"]].append((row["item_j"], row["weight"]))
    histories = [day.histories[u] for u in range(1, NUM_USERS + 1)]
    clicks = np.bincount([i for items in day.train.values() for i in items], minlength=NUM_ITEMS + 1)
    history = Ragged.of(histories)
    none = Ragged.empty(0)
    users = Users(
        np.arange(1, NUM_USERS + 1, dtype=np.int32),
        np.stack([vectors[u][None] for u in range(1, NUM_USERS + 1)]),
        history,
        seen_items(history, day.settings.channels.seen, last=day.settings.model.history),
        none,
    )
    world = ArrayWorld(index, unclicked(clicks, index), none, none, none, clicks, most_clicked(clicks, index))
    profiles = {u: newest_distinct(items, day.settings.channels.u2u2i.profile) for u, items in day.train.items()}
    near = [pairs["user"][u] for u in range(1, NUM_USERS + 1)]
    return Case(world, users, users.vectors, items, histories, [set(h) for h in histories], near, pairs["item"], met, profiles)


def test_channel_candidates_equal_the_formulas(day):
    case, channels = case_of(day), day.settings.channels
    rows = {(row["user_idx"], row["channel"]): row for row in table(day, "channel_candidates")}
    assert set(rows) == {(user, name) for user in range(1, NUM_USERS + 1) for name in channels.names}
    for (user, name), row in rows.items():
        wanted = TWINS[name](case, user - 1, channels)
        assert row["items"] == [item for item, _ in wanted], (user, name)
        np.testing.assert_allclose(row["scores"], [score for _, score in wanted], rtol=3e-6, atol=1e-7)


def test_candidates_are_the_fusion_of_the_channels_under_business_keys(day):
    lists = {(row["user_idx"], row["channel"]): row for row in table(day, "channel_candidates")}
    published = {}
    for row in table(day, "candidates"):
        published.setdefault(row["user_key"], []).append(row)
    for user in range(1, NUM_USERS + 1):
        fallback = user in NO_HISTORY
        names = ["popular"] if fallback else ["u2i", "u2u2i", "i2i", "itemcf"]
        scores, sources = {}, {}
        for name in names:
            for rank, (item, score) in enumerate(zip(lists[user, name]["items"], lists[user, name]["scores"], strict=True), start=1):
                scores[item] = scores.get(item, 0) + 1 / (60 + rank)
                sources.setdefault(item, []).append({"channel": name, "rank": rank, "score": score})
        best = sorted(scores, key=lambda item: (-np.float32(scores[item]), item))[: day.settings.merge.top]
        rows = sorted(published[str(1000 + user)], key=lambda row: row["rank"])
        assert [row["rank"] for row in rows] == list(range(1, len(best) + 1))
        assert [row["item_key"] for row in rows] == [5000 + item for item in best]  # int64, as it came
        assert [row["sources"] for row in rows] == [sources[item] for item in best]
        np.testing.assert_allclose([row["score"] for row in rows], [scores[item] for item in best], rtol=1e-6)
        assert {row["is_fallback"] for row in rows} == {fallback}
        assert {(row["ds"], row["run_id"], row["model_id"]) for row in rows} == {(DS, "r1", manifest(day, "candidates").facts["model_id"])}


def test_p7_7_neighbours_and_profiles_come_from_train_events_only(day):
    """Held-out users have context: nobody's neighbour, in nobody's profile, in no popularity; yet they get lists themselves."""
    for row in table(day, "neighbours_user"):
        assert not set(row["neighbours"]) & {*HELD_OUT, *NO_HISTORY}
        assert row["idx"] not in row["neighbours"]
        assert row["similarities"] == sorted(row["similarities"], reverse=True)
    popular = next(row for row in table(day, "channel_candidates") if row["user_idx"] == NO_HISTORY[0] and row["channel"] == "popular")
    counts = np.bincount([i for items in day.train.values() for i in items], minlength=NUM_ITEMS + 1)
    assert popular["scores"] == counts[popular["items"]].tolist()
    assert {row["user_idx"] for row in table(day, "channel_candidates") if row["items"]} >= set(HELD_OUT)


def test_counters_say_what_was_made(day):
    counted = manifest(day, "candidates").counters["candidates"]
    lists = [row for row in table(day, "channel_candidates") if row["channel"] == "i2i"]
    assert (counted["users"], counted["fallback_users"]) == (NUM_USERS, len(NO_HISTORY))
    assert counted["channels"]["i2i"] == {
        "mean_length": pytest.approx(np.mean([len(row["items"]) for row in lists]), abs=1e-3),
        "empty": sum(not row["items"] for row in lists),
    }


def test_layout_lists_holds_the_same_candidates(day, variant, run):
    listed = variant("lists", merge={"layout": "lists"})
    run(listed, "candidates")
    rows = {}
    for row in table(day, "candidates"):
        rows.setdefault(row["user_key"], []).append(row)
    found = {row["user_key"]: row for row in table(listed, "candidates")}
    assert set(found) == {str(1000 + user) for user in range(1, NUM_USERS + 1)}
    for key, one in found.items():
        expected = sorted(rows[key], key=lambda row: row["rank"])
        assert one["item_keys"] == [row["item_key"] for row in expected]
        assert one["scores"] == [row["score"] for row in expected]
        assert one["sources"] == [row["sources"] for row in expected]
        assert one["is_fallback"] == (int(key) - 1000 in NO_HISTORY)


def test_a_day_without_channels_of_neighbours_makes_and_reads_none(day, variant, run):
    made = variant("alone", channels={"names": ["u2i", "popular"]})
    assert "neighbours" not in stages(made.settings)
    run(made, "candidates")
    assert not {name for name in manifest(made, "candidates").inputs if name.startswith("neighbours")}
    names = ("u2i", "popular")
    alone, all_channels = ([row for row in table(one, "channel_candidates") if row["channel"] in names] for one in (made, day))
    assert len(alone) == len(names) * NUM_USERS
    assert sorted(alone, key=str) == sorted(all_channels, key=str)


def test_a_user_whose_lists_are_empty_is_a_row_of_layout_lists(variant, run):
    """Only i2i runs, and no popular: a user without history gets nothing, and is not called a fallback."""
    made = variant("i2i", merge={"layout": "lists"}, channels={"names": ["i2i"], "top": 12, "i2i": {"history": 10}})
    run(made, "neighbours", "candidates")
    rows = [row for row in table(made, "candidates") if row["user_key"] == str(1000 + NO_HISTORY[0])]
    assert [(row["item_keys"], row["sources"], row["is_fallback"]) for row in rows] == [([], [], False)]


def test_learned_quotas_are_those_that_find_most_valid_clicks(day, variant, run):
    """Under a cap of categories; every published list is then the merge of the stored channel lists by these quotas."""
    merge = {"kind": "quota", "quotas": "learned", "quota_steps": 5, "category_field": "category", "max_per_category": 4, "top": 15}
    made = variant("quotas", merge=merge)
    run(made, "candidates")
    lists = {(row["user_idx"], row["channel"]): row for row in table(made, "channel_candidates")}
    valid = {
        row["user_idx"]: [row["item_idx"]] for row in table(made, "events") if row["split"] == VALID and day.histories[row["user_idx"]]
    }
    names, users, everyone = made.settings.channels.names, sorted(valid), range(1, NUM_USERS + 1)

    def channels_of(users):
        rows = {name: [lists[user, name] for user in users] for name in names}
        return {name: Ragged.of([r["items"] for r in some], [r["scores"] for r in some]) for name, some in rows.items()}

    learned = learn_quotas(channels_of(users), Ragged.of([valid[user] for user in users]), top=15, steps=5)
    counted = {"learned": learned.quotas, "valid_recall": pytest.approx(learned.recall), "tried": learned.tried}
    assert manifest(made, "candidates").counters["quotas"] == counted
    settings = made.settings.merge.model_copy(update={"quotas": learned.quotas})
    categories = np.array([-1] + [4 + i % 4 if i != NOTHING_KNOWN else -1 for i in range(1, NUM_ITEMS + 1)], dtype=np.int32)
    has_history = np.array([bool(day.histories[user]) for user in everyone])
    wanted = merge_lists(channels_of(everyone), settings, has_history=has_history, categories=categories).lists
    published = {}
    for row in sorted(table(made, "candidates"), key=lambda row: row["rank"]):
        published.setdefault(int(row["user_key"]) - 1000, []).append(row["item_key"] - 5000)
    assert published == {user: wanted.part(user - 1, user).values.tolist() for user in everyone}


def test_quotas_are_learned_from_valid_clicks_only(spark):
    """Ten users with a click of each split: train, valid and test ones are told apart, and the sample is the same on every run."""
    rows = [(user, item, split) for user in range(1, 11) for item, split in ((1, 0), (9, 1), (5 + user, 1), (2, 2), (3, 3))]
    events = spark.createDataFrame(rows, "user_idx int, item_idx int, split tinyint")
    assert {row.user_idx: row.truth for row in valid_clicks(events, num=99, seed=1).collect()} == {
        u: sorted({9, 5 + u}) for u in range(1, 11)
    }
    chosen = [sorted(row.user_idx for row in valid_clicks(events.repartition(n), num=4, seed=1).collect()) for n in (1, 3)]
    assert len(chosen[0]) == 4
    assert chosen[0] == chosen[1]


def test_user_keys_come_back_in_their_type(spark):
    made = spark.createDataFrame([(1, "a"), (2, "b")], "user_idx int, other string")
    index = spark.createDataFrame([("12", 2, DS), ("11", 1, DS)], "key string, idx int, added_ds string")
    for kind, keys in (("int64", [11, 12]), ("string", ["11", "12"])):
        assert [row.user_key for row in with_user_keys(made, index, kind).orderBy("user_idx").collect()] == keys


@pytest.mark.slow
def test_the_same_bits_whatever_the_partitions(day, variant, spark, run):
    """Nothing depends on which users share a task or a block, or on the number of files before."""
    other = variant("again")
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "3")
    try:
        run(other, run_id="r2")
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
        spark.conf.unset("spark.sql.adaptive.coalescePartitions.enabled")
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    for name in ("embeddings_user", "embeddings_item", "index", "neighbours_user", "neighbours_item", "channel_candidates", "candidates"):
        assert manifest(other, name).content_hash == manifest(day, name).content_hash, name
    by_key = {row["idx"]: row["vector"] for row in table(day, "embeddings_user")}
    assert {row["idx"]: row["vector"] for row in table(other, "embeddings_user")} == by_key


def test_a_damaged_index_is_refused_as_bad_data_and_the_old_candidates_stay(copied, run):
    before = copied.store.current("candidates", DS)
    flip_a_bit(next(file for file in copied.store.files_of(manifest(copied, "index")) if file.endswith("items.faiss")))
    for job in ("neighbours", "candidates"):
        with pytest.raises(BadDataError, match="the file is damaged"):
            run(copied, job, run_id="r2")
    assert copied.store.current("candidates", DS) == before


def test_users_without_vectors_are_missed(copied, run):
    """A user_state with one more user than embed saw: candidates stops, it does not publish fewer users."""
    store, settings = copied.store, copied.settings
    old = store.files_of(manifest(copied, "user_state"))
    rows = [*pq.read_table(old).to_pylist(), {"user_idx": NUM_USERS + 1, "items": [1], "ts": [1], "num_train": 1}]
    with store.publication("events", DS, "later", settings) as publication:
        write(publication, resolve("user_state", settings.registry(), settings.shape()), rows, ((len(rows),),))
        publication.commit()
    with pytest.raises(BadDataError, match="41 users, but vectors and neighbours of 40"):
        run(copied, "candidates", run_id="r2")
