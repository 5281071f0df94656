"""HIT as of the click: the place of each held-out click, as U2I would have put it just before, against a loop over the clicks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf import jobs
from conf.settings import Settings
from conf.tables import TEST
from retrieval import click_ranks
from retrieval.click_ranks import Asked, make_rank, ranks_of, with_history
from retrieval.ragged import Ragged
from retrieval.towers_files import TowersFiles
from retrieval.vector_index import index_files
from spark_jobs.held_out import held_out, sample_units
from spark_jobs.job import run_job
from tests.retrieval.conftest import ask
from tests.retrieval.day import NOT_ELIGIBLE, NOTHING_KNOWN, manifest, table

LEFT_OUT = {NOT_ELIGIBLE, NOTHING_KNOWN}  # of the index
EVENT = "user_idx int, item_idx int, ts bigint, seq bigint, split tinyint"


@pytest.fixture(scope="module")
def ranked(spark, day):
    run_job(click_ranks.JOB, spark, ask(day))
    return day


@pytest.fixture(scope="module")
def events(day):
    """user_idx -> its events, oldest first."""
    found = {}
    for row in sorted(table(day, "events"), key=lambda row: (row["user_idx"], row["ts"], row["seq"])):
        found.setdefault(row["user_idx"], []).append(row)
    return found


def test_ranks_are_those_of_a_search_over_all_items(ranked, events):
    """The twin encodes one user at a time and sorts all items by their cosine."""
    model = manifest(ranked, "model")
    towers = TowersFiles.of(model, ranked.store.files_of(model), ranked.store.files_of(manifest(ranked, "item_feat"))).open()
    feat = {row["idx"]: row for row in table(ranked, "user_feat")}
    schema = pq.read_schema(ranked.store.files_of(manifest(ranked, "user_feat"))[0])
    items = {row["idx"]: np.array(row["vector"]) for row in table(ranked, "embeddings_item") if row["idx"] not in LEFT_OUT}
    want = {}
    for user, own in events.items():
        for place, row in enumerate(own):
            if row["split"] != TEST:
                continue
            before = [event["item_idx"] for event in own[:place]]
            one = pa.Table.from_pylist([feat[user]], schema).append_column("items", pa.array([before], pa.list_(pa.int32())))
            vector = towers.encode_users(one)[0, 0]
            fresh = [i for i in items if i not in before]
            cosine = {i: float(items[i] @ vector / np.linalg.norm(items[i]) / np.linalg.norm(vector)) for i in fresh}
            best = sorted(fresh, key=lambda i: (-cosine[i], i))[:12]  # channels.top
            want[user, place] = row["item_idx"], best.index(row["item_idx"]) + 1 if row["item_idx"] in best else 0
    found = {(row["user_idx"], row["position"]): (row["item_idx"], row["rank"]) for row in table(ranked, "click_ranks")}
    assert found == want
    assert 0 < sum(rank > 0 for _, rank in found.values()) < len(found)
    counters = manifest(ranked, "click_ranks").counters
    assert counters == {"clicks": len(found), "clicks_found": sum(rank > 0 for _, rank in found.values())}


def test_a_click_is_no_part_of_what_came_before_it(spark, ranked):
    """Two users with the same past have the same list, whatever they clicked then and after."""
    model = manifest(ranked, "model")
    towers = TowersFiles.of(model, ranked.store.files_of(model), ranked.store.files_of(manifest(ranked, "item_feat"))).open()
    index = index_files(ranked.store.folder_of(manifest(ranked, "index")))["items"].open()
    body = make_rank(lambda: towers, lambda: index, Asked(60, "none", 5))
    (feat,) = (row for row in table(ranked, "user_feat") if row["idx"] == 1)
    events = [([4, 8, item, 20], [False, False, True, False]) for item in range(1, 61)]
    rows = [{**feat, "user_idx": n} | {"items": items, "asked": asked} for n, (items, asked) in enumerate(events, start=1)]
    schema = pq.read_schema(ranked.store.files_of(manifest(ranked, "user_feat"))[0])
    schema = (
        schema.append(pa.field("user_idx", pa.int32()))
        .append(pa.field("items", pa.list_(pa.int32())))
        .append(pa.field("asked", pa.list_(pa.bool_())))
    )
    (made,) = body([pa.RecordBatch.from_pylist(rows, schema=schema)])
    ranks = made.column("rank").to_pylist()
    assert made.column("position").to_pylist() == [2] * 60
    assert {item for item, rank in enumerate(ranks, start=1) if rank == 0} == LEFT_OUT
    assert sorted(rank for rank in ranks if rank) == list(range(1, 59))  # each of the others has its own place in the one list


def test_the_users_are_those_that_are_scored_and_clicks_are_drawn_by_hash(spark):
    rows = [(user, user + n, n, n, TEST if n > 3 else 0) for user in range(1, 101) for n in range(10)]
    events = spark.createDataFrame(rows, EVENT)
    units = {row["user_idx"] for row in sample_units(held_out(events), max_users=30, seed=7).collect()}

    def asked(max_clicks, df=events):
        found = with_history(df, max_users=30, max_clicks=max_clicks, seed=7).collect()
        assert all(row["items"] == [row["user_idx"] + n for n in range(10)] for row in found)
        return {row["user_idx"]: row["asked"] for row in found}

    whole, part = asked(180), asked(60)
    assert set(whole) == set(part) == units
    assert set(map(tuple, whole.values())) == {(False,) * 4 + (True,) * 6}
    assert 35 < sum(map(sum, part.values())) < 85
    assert part == asked(60, events.repartition(5))


def test_the_place_in_a_list():
    lists = Ragged.of([[5, 3], [], [3, 9, 4]])
    assert ranks_of(lists, np.array([3, 3, 5], np.int32)).tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    "sections",
    [
        {"split": {"kind": "production"}},
        {"evaluation": {"max_clicks": 0}},
        {"channels": {"names": ["i2i", "popular"]}},
        {"embeddings": {"path": "vectors"}},
    ],
)
def test_it_is_left_out_where_nobody_can_or_wants_to_be_asked(sections):
    held_out = {"split": {"kind": "last_k"}}
    assert "click_ranks" in jobs.stages(Settings.model_validate(held_out))
    settings = Settings.model_validate(held_out | sections)
    assert "click_ranks" not in jobs.stages(settings)
    assert "click_ranks" not in jobs.inputs("offline_metrics", settings)
