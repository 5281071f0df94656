"""What a key-value store must change: by hand, applied to a store, and through the job for a first day, the next one and a named one."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from conf.command import parse, request
from conf.errors import NotReadyError, UsageError
from conf.files import hash_file
from conf.settings import Settings
from conf.storage import FileEntry
from conf.tables import resolve
from spark_jobs import delta
from spark_jobs.delta import changes
from spark_jobs.job import run_job, spark_schema
from spark_jobs.published_lists import lists_by_key

OLD = {"a": ["x", "y"], "b": ["x"], "gone": ["y"], "same": ["z", "x"], "emptied": ["x"]}
NEW = {"a": ["y", "x"], "b": ["x", "z"], "new": ["x"], "same": ["z", "x"], "emptied": []}
WANTED = {"a": "upsert", "b": "upsert", "new": "upsert", "gone": "delete", "emptied": "delete"}


def rows(spark, lists):
    """Layout rows: a user without a list has none."""
    flat = [(user, rank, item, 1 / rank) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    return spark.createDataFrame(flat[::-1], "user_key string, rank int, item_key string, score float")


def whole(spark, lists, kind="string"):
    """Layout lists."""
    flat = [(user, items, [1 / rank for rank in range(1, len(items) + 1)]) for user, items in lists.items()]
    return spark.createDataFrame(flat, f"user_key {kind}, item_keys array<string>, scores array<float>")


@pytest.mark.parametrize(("before", "after"), [(rows, rows), (whole, whole), (rows, whole)])
def test_changes_by_hand_in_any_layout(spark, before, after):
    found = {row["user_key"]: row for row in changes(*(lists_by_key(t) for t in (before(spark, OLD), after(spark, NEW)))).collect()}
    assert {user: row["op"] for user, row in found.items()} == WANTED
    assert {user: row["item_keys"] for user, row in found.items()} == {user: NEW.get(user, []) for user in WANTED}
    assert found["b"]["scores"] == [1.0, 0.5]
    assert found["gone"]["scores"] == []


def test_keys_take_the_type_of_the_new_day(spark):
    old, new = whole(spark, {"1": ["x"], "2": ["y"]}), whole(spark, {1: ["x"], 3: ["y"]}, "bigint")
    assert {(row["user_key"], row["op"]) for row in changes(old, new).collect()} == {(2, "delete"), (3, "upsert")}


# ---- the job ---------------------------------------------------------------------------------------------------------


def publish(spark, asked, ds, lists):
    """The candidates of a day, in layout rows."""
    flat = [(user, rank, item) for user, items in lists.items() for rank, item in enumerate(items, start=1)]
    made = [(ds, user, rank, item, 1 / rank, [], False, "m", f"of-{ds}") for user, rank, item in flat]
    schema = spark_schema(resolve("candidates", asked.settings.registry(), asked.settings.shape()))
    with asked.store.publication("candidates", ds, f"of-{ds}", asked.settings) as publication:
        path = f"{publication.folder('candidates')}/part.parquet"
        pq.write_table(spark.createDataFrame(made, schema).toArrow(), path)
        entry = FileEntry("part.parquet", len(made), *hash_file(asked.store.fs, path))
        publication.seal("candidates", [entry], rows=len(made), content_hash=f"{len(made)}:{ds}")
        publication.seal("channel_candidates", [], rows=0, content_hash="0:0")
        publication.commit()


def loaded(spark, asked, store):
    """The store after the table of the day was applied to it."""
    manifest = asked.store.manifest("candidates_delta", asked.ds, asked.settings)
    store = dict(store)
    for row in spark.read.parquet(*asked.store.files_of(manifest)).collect():
        if row["op"] == "upsert":
            store[row["user_key"]] = row["item_keys"]
        else:
            del store[row["user_key"]]
    return store


def test_a_store_that_loads_day_by_day_serves_what_was_published(spark, make_request):
    days = {"2026-01-29": OLD, "2026-01-30": NEW, "2026-01-31": OLD}
    asked, store = make_request(Settings.model_validate({"publish": {"delta": True}})), {}
    for number, (ds, lists) in enumerate(days.items()):
        publish(spark, asked, ds, lists)
        today = replace(asked, ds=ds, run_id=f"delta-{number}")
        run_job(delta.JOB, spark, today)
        store = loaded(spark, today, store)
        assert store == {user: items for user, items in lists.items() if items}
    manifest = asked.store.manifest("candidates_delta", "2026-01-30", asked.settings)
    assert {name: manifest.counters[name] for name in ("upserts", "deletes", "unchanged", "base_ds")} == {
        "upserts": 3, "deletes": 2, "unchanged": 1, "base_ds": "2026-01-29",
    }  # fmt: skip
    first = asked.store.manifest("candidates_delta", "2026-01-29", asked.settings)
    assert (first.counters["upserts"], first.counters["base_ds"]) == (5, None)

    named = replace(asked, ds="2026-01-31", since="2026-01-29", run_id="named")
    assert run_job(delta.JOB, spark, named).rows == {"candidates_delta": 0}  # both days serve the same lists
    with pytest.raises(NotReadyError, match="table candidates is not there yet"):
        run_job(delta.JOB, spark, replace(named, since="2026-01-28", run_id="again"))


def test_the_earlier_day_must_lie_before(tmp_path):
    words = ["--ds", "2026-01-31", "--set", f"storage.root={tmp_path}"]
    asked = request(parse("delta", "", [*words, "--since", "2026-01-30"]))
    assert asked.since == request(parse("delta", "", asked.arguments())).since == "2026-01-30"
    with pytest.raises(UsageError, match="2026-01-31 is not before ds 2026-01-31"):
        request(parse("delta", "", [*words, "--since", "2026-01-31"]))
