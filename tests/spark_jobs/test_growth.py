"""Numbers that stay from day to day: three days against a slow twin that only ever appends, in any partitioning; and a rebuild."""

from collections import Counter

import pytest

from conf.command import Log, Request
from conf.inventory import runs_named
from conf.storage import MAIN
from spark_jobs import vocabulary
from spark_jobs.job import run_job
from tests.spark_jobs.small_logs import Click, entities, publish_log, random_log, settings_of, shuffle_partitions

pytestmark = pytest.mark.slow  # three days of two jobs each

DAYS = ("2026-01-29", "2026-01-30", "2026-01-31")
# Each day loses some users and items of the day before, and has new ones.
LOGS = {
    ds: [
        Click(f"u{int(c.user[1:]) + (0, 5, 7)[n]:02}", f"i{int(c.item[1:]) + (0, 6, 8)[n]:02}", c.ts, c.seq, c.kind)
        for c in random_log(40 + n, users=11, items=13, clicks=90)
    ]
    for n, ds in enumerate(DAYS)
}
MIN_COUNT = {"user_id": 4, "item_id": 1, "city": 1, "hobbies": 1, "category": 9, "tags": 1}


def request_of(root, ds, run_id="r1", erasure=None, **chosen) -> Request:
    fields = {
        "user": {"city": "single", "hobbies": "multi"},
        "item": {"category": {"role": "single", "min_count": MIN_COUNT["category"]}, "tags": "multi"},
    }
    source = {"fields": fields, "user_id_min_count": MIN_COUNT["user_id"], "erasure": erasure and str(erasure)}
    settings = settings_of(storage={"root": str(root)}, source=source, vocabulary={"previous_ds": "latest", **chosen})
    return Request("test", settings, (), ds, MAIN, run_id, force=False, break_lock=False, dry_run=False, log=Log(run_id=run_id))


def slow_day(ds, log, known):
    """What the day's tables hold, given `known` {table: {key: (number, added_ds)}}, which grows: row by row, append only."""
    users, items = entities(log)
    clicks = {"user": Counter(c.user for c in log), "item": Counter(c.item for c in log)}
    rows = {
        "user": {user: {"city": [city], "hobbies": hobbies} for user, city, hobbies in users},
        "item": {item: {"category": [category], "tags": tags} for item, _, _, category, tags in items},
    }
    tables = {}
    for side in rows:
        found = {key: clicks[side][key] for key in rows[side]}
        tables[f"{side}_index"] = _appended(known.setdefault(f"{side}_index", {}), found, 0, 1, ds)
        counts = {f"{side}_id": {key: n for key, n in found.items() if n}}
        for key, values in rows[side].items():
            for name, carried in values.items():
                counted = counts.setdefault(name, Counter())
                for value in {v for v in carried if v is not None} if found[key] else ():
                    counted[value] += found[key]
        for name, counted in counts.items():
            table = _appended(known.setdefault(f"vocab_{name}", {}), counted, MIN_COUNT[name], 0, ds)
            tables[f"vocab_{name}"] = {(value, rank + 4, rank, counted.get(value, 0), added) for value, rank, added in table}
    return tables


def _appended(numbers, found, least, start, ds):
    new = sorted((key for key in found if key not in numbers and found[key] >= least), key=lambda key: (-found[key], key))
    for number, key in enumerate(new, start=start + len(numbers)):
        numbers[key] = (number, ds)
    return {(key, number, added) for key, (number, added) in numbers.items()}


@pytest.fixture(scope="module")
def root(spark, tmp_path_factory):
    """Three days of vocabularies, each going on from the one before."""
    root = tmp_path_factory.mktemp("growing")
    for ds in DAYS:
        publish_log(spark, request_of(root, ds), LOGS[ds])
        run_job(vocabulary.JOB, spark, request_of(root, ds))
    return root


def rows(spark, asked, table):
    store = asked.store
    return [tuple(row) for row in spark.read.parquet(*store.files_of(store.manifest(table, asked.ds, asked.settings))).collect()]


def counters(asked):
    return asked.store.manifest("user_index", asked.ds, asked.settings).counters


def test_growth_over_three_days_equals_append_only(spark, root):
    known, before = {}, {}
    for ds in DAYS:
        asked, want = request_of(root, ds), slow_day(ds, LOGS[ds], known)
        got = {table: set(rows(spark, asked, table)) for table in want}
        assert got == want
        numbers = {table: {row[0]: row[1] for row in found} for table, found in got.items()}
        for table, old in before.items():
            assert old.items() <= numbers[table].items(), f"{table}: an old number changed"
        if before:
            grown = counters(asked)["growth"]
            assert grown.keys() == want.keys()
            for table, counted in grown.items():
                assert counted["new"] == len(numbers[table]) - len(before[table])
                assert counted["kept"] + counted["gone"] == len(before[table])
        before = numbers
    old = [count for _, _, _, count, added in want["vocab_user_id"] if added < DAYS[2]]
    assert any(0 < count < MIN_COUNT["user_id"] for count in old), "an old value below min_count is to be tested"
    assert all(grown[table][part] for table in ("user_index", "item_index", "vocab_user_id") for part in ("new", "kept", "gone"))


def test_features_are_encoded_by_the_grown_vocabularies(spark, root):
    asked, log = request_of(root, DAYS[2]), LOGS[DAYS[2]]
    idx = {row[0]: row[1] for row in rows(spark, asked, "item_index")}
    ids = {name: {row[0]: row[1] for row in rows(spark, asked, f"vocab_{name}")} for name in ("item_id", "category", "tags")}
    found = {row[0]: row[1:] for row in rows(spark, asked, "item_feat")}
    today = {item: (eligible, category, tags) for item, _, eligible, category, tags in entities(log)[1]}
    assert found.keys() == set(idx.values())
    for item, n in idx.items():  # what is gone cannot be recommended and knows no field but its own id
        eligible, category, tags = today.get(item, (False, None, []))
        distinct = list(dict.fromkeys(tags))
        want = (
            eligible,
            ids["item_id"].get(item, 2),
            ids["category"].get(category, 2),
            [ids["tags"][t] for t in distinct if t in ids["tags"]],
        )
        assert found[n] == want, item


def test_the_same_for_any_partitioning(spark, root):
    asked = request_of(root, DAYS[2])
    want = asked.store.current("vocabulary", DAYS[2]).tables
    for partitions in (1, 7):
        again = request_of(root, DAYS[2], f"p{partitions}")
        with shuffle_partitions(spark, partitions):
            made = run_job(vocabulary.JOB, spark, Request(**{**vars(again), "force": True})).record
        assert made.tables == want


def test_the_earlier_day_is_an_input_and_the_epoch_stays(root):
    manifests = [request_of(root, ds).store.manifest("item_index", ds, request_of(root, ds).settings) for ds in DAYS]
    assert {m.facts["vocabulary_epoch"] for m in manifests} == {f"{DAYS[0]}/r1"}
    assert [m.counters["starts_cold"] for m in manifests] == [True, False, False]
    before, after = manifests[1], manifests[2]
    assert after.inputs["item_index"].split(" ")[0] == f"main/{DAYS[1]}/{before.run_id}"
    # so retention keeps it
    named = [run for run in runs_named(after.inputs) if run.day.job == "vocabulary"]
    assert {(run.day.ds, run.run_id) for run in named} == {(DAYS[1], before.run_id)}


def test_a_rebuild_numbers_all_anew_and_says_so(spark, root):
    asked = request_of(root, DAYS[2], "rebuilt", rebuild_every_days=2)
    run_job(vocabulary.JOB, spark, asked)
    assert set(rows(spark, asked, "item_index")) == slow_day(DAYS[2], LOGS[DAYS[2]], {})["item_index"]
    manifest = asked.store.manifest("item_index", DAYS[2], asked.settings)
    assert manifest.counters["starts_cold"]
    assert "growth" not in manifest.counters
    assert manifest.facts["vocabulary_epoch"] == f"{DAYS[2]}/rebuilt"


def test_an_erased_user_is_not_kept_though_long_gone(spark, root, tmp_path):
    """Its row cannot simply be left out: row numbers and ids have no holes."""
    erasure = tmp_path / "erasure.txt"
    gone = {click.user for click in LOGS[DAYS[0]]} - {click.user for click in LOGS[DAYS[2]]}
    for run_id, listed, cold in (("nobody", "who-is-this", False), ("erased", min(gone), True)):
        erasure.write_text(f"{listed}\n")
        asked = request_of(root, DAYS[2], run_id, erasure)
        run_job(vocabulary.JOB, spark, asked)
        assert counters(asked)["starts_cold"] == cold
        assert gone.isdisjoint({row[0] for row in rows(spark, asked, "user_index")}) == cold
        epoch = asked.store.manifest("user_feat", DAYS[2], asked.settings).facts["vocabulary_epoch"]
        assert epoch == (f"{DAYS[2]}/erased" if cold else f"{DAYS[0]}/r1")
