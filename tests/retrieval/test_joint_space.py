"""U2I in MIC's joint space, where the settings ask for it: vectors, index, lists, ranks of clicks. MIC (Lu et al. 2022) 3.4 and 3.7."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval import click_ranks
from retrieval.similarity import JOINT
from retrieval.towers_files import TowersFiles
from retrieval.vector_index import index_files
from spark_jobs.job import run_job
from tests.retrieval.conftest import JOBS, ask
from tests.retrieval.day import NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, NUM_USERS, manifest, publish_day, table
from tests.retrieval.small_world import cosine, top_of


def made(root, spark, mic, *, channels=None, **sections):
    day = publish_day(root, objectives={"mic": mic}, channels={"u2i": {"space": "joint"}} if channels is None else channels, **sections)
    for job in (*JOBS.values(), click_ranks.JOB):
        run_job(job, spark, ask(day))
    return day


@pytest.fixture(scope="module")
def joint(tmp_path_factory, spark):
    return made(tmp_path_factory.mktemp("joint") / "root", spark, {})


@pytest.fixture(scope="module")
def towers(joint):
    model = manifest(joint, "model")
    return TowersFiles.of(model, joint.store.files_of(model), joint.store.files_of(manifest(joint, "item_feat"))).open()


def vectors(day, side, space="joint"):
    return {row["idx"]: np.array(row[space], dtype=np.float32) for row in table(day, f"embeddings_{side}")}


def u2i_by_hand(day, space="joint"):
    """user -> [(item, cosine)], best first."""
    users, items = vectors(day, "user", space), vectors(day, "item", space)
    allowed = [i for i in items if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)]
    unseen = {user: [i for i in allowed if i not in day.histories[user]] for user in users}
    return {user: top_of({i: cosine(users[user], items[i]) for i in unseen[user]}, 12) for user in users}


def u2i(day):
    return {row["user_idx"]: row for row in table(day, "channel_candidates") if row["channel"] == "u2i"}


def test_joint_vectors_are_the_projections_of_the_others(joint, towers):
    """P 5.4: the same small network takes a vector there in training and in retrieval."""
    for side, num in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        found, own = vectors(joint, side), vectors(joint, side, "vector")
        assert set(found) == set(range(1, num + 1))
        projected = towers.in_joint(side, np.stack([own[i] for i in found]))
        np.testing.assert_allclose(np.stack(list(found.values())), projected, atol=1e-6)
        assert not np.allclose(projected, np.stack(list(own.values())), atol=0.1)


def test_u2i_ranks_by_the_cosine_in_the_joint_space(joint):
    files = index_files(joint.store.folder_of(manifest(joint, "index")))
    assert set(files) == {"items", "users", JOINT}
    assert files[JOINT].is_unit
    assert manifest(joint, "index").counters["index"][JOINT]["recall"] == 1
    wanted, elsewhere = u2i_by_hand(joint), u2i_by_hand(joint, "vector")
    for user, row in u2i(joint).items():
        assert row["items"] == [i for i, _ in wanted[user]]
        np.testing.assert_allclose(row["scores"], [score for _, score in wanted[user]], rtol=1e-5, atol=1e-6)
    differ = sum(row["items"] != [i for i, _ in elsewhere[user]] for user, row in u2i(joint).items())
    assert differ > NUM_USERS / 2  # or the test could not tell the two spaces apart


def test_the_other_channels_stay_in_encoder_space(joint, tmp_path, spark):
    encoder = made(tmp_path / "root", spark, {}, channels={})
    others = [
        [
            row
            for row in sorted(table(day, "channel_candidates"), key=lambda row: (row["user_idx"], row["channel"]))
            if row["channel"] != "u2i"
        ]
        for day in (joint, encoder)
    ]
    assert others[0] == others[1]
    assert "joint" in table(encoder, "embeddings_user")[0]  # there for others to use
    assert set(index_files(encoder.store.folder_of(manifest(encoder, "index")))) == {"items", "users"}


def test_clicks_are_ranked_where_u2i_searches(joint, towers):
    items = {i: v for i, v in vectors(joint, "item").items() if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)}
    events = {}
    for row in sorted(table(joint, "events"), key=lambda row: (row["user_idx"], row["ts"], row["seq"])):
        events.setdefault(row["user_idx"], []).append(row["item_idx"])
    features = {row["idx"]: row for row in table(joint, "user_feat")}
    ranks = table(joint, "click_ranks")
    assert any(row["rank"] for row in ranks)
    for row in ranks:
        before = events[row["user_idx"]][: row["position"]]
        user = one_user(joint, features[row["user_idx"]], before)
        vector = towers.in_joint("user", towers.encode_users(user))[0, 0]
        best = [i for i, _ in top_of({i: cosine(vector, v) for i, v in items.items() if i not in before}, 12)]
        assert row["rank"] == (best.index(row["item_idx"]) + 1 if row["item_idx"] in best else 0)


def one_user(day, features, items):
    schema = pq.read_schema(day.store.files_of(manifest(day, "user_feat"))[0])
    return pa.Table.from_pylist([features], schema).append_column("items", pa.array([items], pa.list_(pa.int32())))


def test_every_interest_is_asked_for_in_the_joint_space(tmp_path, spark):
    day = made(tmp_path / "root", spark, {}, model={"encoder": "comirec_sa", "comirec": {"interests": 3}})
    users, items = {}, vectors(day, "item")
    for row in sorted(table(day, "embeddings_user"), key=lambda row: (row["idx"], row["interest"])):
        users.setdefault(row["idx"], []).append(np.array(row["joint"], dtype=np.float32))
    assert {len(own) for own in users.values()} == {3}
    allowed = [i for i in items if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)]
    for user, row in u2i(day).items():
        unseen = [i for i in allowed if i not in day.histories[user]]
        wanted = top_of({i: max(cosine(own, items[i]) for own in users[user]) for i in unseen}, 12)
        assert row["items"] == [i for i, _ in wanted]


def test_without_projection_the_joint_space_is_encoder_space_by_cosine(tmp_path, spark):
    """A model that compares by inner product, MIC without projection: no vectors of their own, the index by cosine."""
    day = made(tmp_path / "root", spark, {"projection": "identity"}, model={"encoder": "youtube_dnn"})
    assert "joint" not in table(day, "embeddings_user")[0]
    assert set(index_files(day.store.folder_of(manifest(day, "index")))) == {"items", "users", "items_cosine"}
    wanted = u2i_by_hand(day, "vector")
    assert {user: row["items"] for user, row in u2i(day).items()} == {user: [i for i, _ in best] for user, best in wanted.items()}
