"""A model that compares by inner product: u2i by that, similar users and items by cosine, from an index of its own."""

from dataclasses import replace

import numpy as np
import pytest

from conf.storage import Store
from conf.tables import resolve
from retrieval import index
from retrieval.index_build import build_all
from retrieval.vector_index import index_files
from tests.retrieval.day import DS, NOT_ELIGIBLE, NOTHING_KNOWN, NUM_ITEMS, NUM_USERS, day_settings, manifest, table
from tests.retrieval.small_world import cosine, top_of
from tests.trainer.planted import write

FACTS = {"model_id": "ip-1", "similarity": "inner_product", "dim": 4, "interests": 1}


@pytest.fixture(scope="module")
def inner(day, tmp_path_factory):
    """The day in a variant of which the vectors differ much in length."""
    import shutil

    root = tmp_path_factory.mktemp("inner") / "root"
    shutil.copytree(day.settings.storage.root, root)
    settings, rng = day_settings(root), np.random.default_rng(4)
    made = replace(day, settings=settings, store=Store.of(settings))
    with made.store.publication("embed", DS, "inner", settings) as publication:
        for side, num in (("user", NUM_USERS), ("item", NUM_ITEMS)):
            vectors = (rng.normal(size=(num, 4)) * rng.uniform(0.1, 5, size=(num, 1))).astype(np.float32)
            rows = [{"idx": i, "interest": 0, "vector": v.tolist()} for i, v in enumerate(vectors, start=1)]
            write(publication, resolve(f"embeddings_{side}", settings.registry(), settings.shape()), rows, ((len(rows),),), FACTS)
        publication.commit()
    return made


def test_similar_items_are_measured_with_items_from_all_over_the_catalogue(inner, run, monkeypatch):
    asked = {}
    monkeypatch.setattr(index, "build_all", lambda all_asked, settings: asked.update(all_asked) or build_all(all_asked, settings))
    run(inner, "index", run_id="measured")
    vectors = {row["idx"]: row["vector"] for row in table(inner, "embeddings_item")}
    ids = asked["items"].source.ids
    first = [vectors[i] for i in ids[:30].tolist()]
    queries = asked["items_cosine"].queries[:, 0].tolist()
    assert len(queries) == 30
    assert all(query in vectors.values() for query in queries)
    assert sum(query in first for query in queries) < 25


def test_u2i_ranks_by_inner_product_and_the_neighbours_by_cosine(inner, run):
    run(inner, "index", "neighbours", "candidates", run_id="ip")
    files = index_files(inner.store.folder_of(manifest(inner, "index")))
    assert set(files) == {"items", "users", "items_cosine"}
    assert not files["items"].is_unit
    users, items = ({row["idx"]: np.array(row["vector"]) for row in table(inner, f"embeddings_{side}")} for side in ("user", "item"))
    allowed = [i for i in items if i not in (NOT_ELIGIBLE, NOTHING_KNOWN)]
    lists = {row["user_idx"]: row for row in table(inner, "channel_candidates") if row["channel"] == "u2i"}
    differ = 0
    for user, row in lists.items():
        unseen = [i for i in allowed if i not in inner.histories[user]]
        wanted = top_of({i: float(users[user] @ items[i]) for i in unseen}, 12)
        assert row["items"] == [i for i, _ in wanted]
        np.testing.assert_allclose(row["scores"], [s for _, s in wanted], rtol=1e-5, atol=1e-5)
        differ += row["items"] != [i for i, _ in top_of({i: cosine(users[user], items[i]) for i in unseen}, 12)]
    assert differ > len(lists) / 2  # or the test could not tell the two apart
    for row in table(inner, "neighbours_item"):
        wanted = top_of({j: cosine(items[row["idx"]], items[j]) for j in allowed if j != row["idx"]}, 6)
        assert row["neighbours"] == [j for j, _ in wanted]
