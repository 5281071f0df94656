"""The day's neighbours: of every user its nearest training users, of every clicked item its nearest items."""

import numpy as np
import pytest

from conf.sections.retrieval import I2I
from retrieval.clusters import find_centres, num_clusters
from retrieval.neighbours import of_clicked, raised_neighbours
from retrieval.vector_index import unit
from tests.retrieval.day import HELD_OUT, NO_HISTORY, NOT_ELIGIBLE, NOTHING_KNOWN, manifest, table
from tests.retrieval.small_world import cosine, top_of
from tests.retrieval.test_clusters import slow_clusters


def test_published_user_neighbours_are_the_nearest_training_users(day):
    vectors = {row["idx"]: row["vector"] for row in table(day, "embeddings_user")}
    rows = table(day, "neighbours_user")
    assert {row["idx"] for row in rows} == set(vectors)  # also those without history, and held-out ones
    for row in rows:
        wanted = top_of({u: cosine(vectors[row["idx"]], vectors[u]) for u in day.train if u != row["idx"]}, 6)
        assert row["neighbours"] == [u for u, _ in wanted]
        np.testing.assert_allclose(row["similarities"], [s for _, s in wanted], atol=1e-6)


def test_published_item_neighbours_are_there_for_every_clicked_item(day):
    vectors = {row["idx"]: row["vector"] for row in table(day, "embeddings_item")}
    rows = {row["idx"]: row for row in table(day, "neighbours_item")}
    assert set(rows) == {item for items in day.histories.values() for item in items}
    assert NOT_ELIGIBLE in rows  # was clicked: its neighbours may be recommended, though it may not
    for item, row in rows.items():
        others = [j for j in vectors if j not in (item, NOT_ELIGIBLE, NOTHING_KNOWN)]
        wanted = top_of({j: cosine(vectors[item], vectors[j]) for j in others}, 6)
        assert row["neighbours"] == [j for j, _ in wanted]
        np.testing.assert_allclose(row["similarities"], [s for _, s in wanted], atol=1e-6)


@pytest.mark.parametrize("side", ["user", "item"])
def test_published_clusters_are_the_nearest_centres_of_what_can_be_a_neighbour(day, side):
    vectors = {row["idx"]: np.array(row["vector"], dtype=np.float32) for row in table(day, f"embeddings_{side}")}
    can_be = sorted(day.train) if side == "user" else sorted(set(vectors) - {NOT_ELIGIBLE, NOTHING_KNOWN})
    centres = find_centres(unit(np.stack([vectors[idx] for idx in can_be])), num_clusters(len(can_be)))
    rows = table(day, f"neighbours_{side}")
    assert [row["cluster"] for row in rows] == slow_clusters(centres, np.stack([vectors[row["idx"]] for row in rows])[:, None])
    counters = manifest(day, f"neighbours_{side}").counters[f"clusters_{side}"]
    sizes = np.bincount(slow_clusters(centres, np.stack([vectors[idx] for idx in can_be])[:, None]), minlength=len(centres))
    assert counters == {"clusters": len(can_be) // 2, "sample": len(can_be), "smallest": sizes.min(), "largest": sizes.max()}


@pytest.mark.parametrize(("neighbours", "history", "top", "used"), [(20, 20, 200, 20), (20, 5, 200, 80), (3, 7, 10, 3), (2, 7, 10, 3)])
def test_neighbours_are_raised_until_a_full_history_reaches_twice_the_list(neighbours, history, top, used):
    settings = I2I(neighbours=neighbours, history=history)
    assert raised_neighbours(settings, top=top) == used
    assert used == neighbours or (used - 1) * history < 2 * top <= used * history


def test_raising_is_counted_and_said(variant, run):
    made = variant("raised", channels={"top": 12, "i2i": {"neighbours": 2, "history": 3}})
    run(made, "neighbours")
    counters = manifest(made, "neighbours_item").counters
    assert counters["neighbours_item"] == {"asked": 2, "used": 8}
    assert counters["warnings"] == [
        "channels.i2i.neighbours raised from 2 to 8: 3 clicks of history must reach 2 * channels.top = 24 items"
    ]
    assert {len(row["neighbours"]) for row in table(made, "neighbours_item")} == {8}


def test_only_clicked_items_are_asked_for(spark):
    items = spark.createDataFrame([(i, 0, [float(i)]) for i in range(1, 5)], "idx int, interest tinyint, vector array<float>")
    state = spark.createDataFrame([(1, [2, 2, 4]), (2, [])], "user_idx int, items array<int>")
    assert sorted(tuple(row) for row in of_clicked(items, state).collect()) == [(2, 0, [2.0]), (4, 0, [4.0])]


def test_held_out_users_and_users_without_history_have_neighbours_too(day):
    rows = {row["idx"]: row["neighbours"] for row in table(day, "neighbours_user")}
    assert all(len(rows[user]) == 6 for user in (*HELD_OUT, *NO_HISTORY))
