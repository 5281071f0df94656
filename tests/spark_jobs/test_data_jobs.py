"""The data jobs one after the other through the runner, from clicks to samples, for each kind of split."""

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conf.command import Log, Request
from conf.errors import NotReadyError
from conf.settings import Settings
from conf.storage import MAIN
from spark_jobs import cooccurrence, events, samples, sessions, vocabulary
from spark_jobs.job import run_job
from tests.spark_jobs.small_logs import DAY_S, START_S, Click, histories, publish_log, random_log, settings_of, shuffle_partitions

CHAIN = (vocabulary, events, sessions, cooccurrence, samples)
LOG = [*random_log(9, users=30, clicks=260), Click("single", "i01", START_S - DAY_S)]
KINDS = {
    "last_k": {"split": {"kind": "last_k", "k": 2}},
    "temporal": {"split": {"kind": "temporal", "test_days": 1}},
    "user": {"split": {"kind": "user", "seed": 5}},
}


@dataclass(frozen=True)
class Made:
    """A chain that ran: its request, and the content hash of each table."""

    asked: Request
    contents: dict[str, str]

    def rows(self, spark, name):
        return spark.read.parquet(*self.asked.store.files_of(self.manifest(name))).collect()

    def manifest(self, name):
        return self.asked.store.manifest(name, self.asked.ds, self.asked.settings)


def request_of(root: Path, kind: str, *, run_id="r1") -> Request:
    settings = settings_of(
        storage={"root": str(root)},
        cooc={"category_field": "category", "top": 4},
        samples={"row_group_rows": 7, "masks": {"draws": 2}},
        trainer={"streams": 2, "batch": 32, "workers": 1},
        **KINDS[kind],
    )
    return Request("test", settings, (), "2026-01-31", MAIN, run_id, force=True, break_lock=False, dry_run=False, log=Log(run_id=run_id))


def run_chain(spark, asked: Request, log) -> Made:
    publish_log(spark, asked, log)
    contents = {}
    for module in CHAIN:
        contents |= run_job(module.JOB, spark, asked).record.tables
    return Made(asked, contents)


@pytest.fixture(scope="module", params=["last_k", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("temporal", "user"))])
def made(request, spark, tmp_path_factory) -> Made:
    return run_chain(spark, request_of(tmp_path_factory.mktemp(request.param), request.param), LOG)


def kind_of(made: Made) -> str:
    return made.manifest("samples").facts["split_kind"]


def test_vocabulary_and_events_split_alike(spark, made):
    trained = Counter(row.item_idx for row in made.rows(spark, "events") if row.split == 0)
    idx = {row.key: row.idx for row in made.rows(spark, "item_index")}
    assert set(idx) == {click.item for click in LOG} | {"i-cold"}
    assert {row.value: row["count"] for row in made.rows(spark, "vocab_item_id")} == {k: trained[n] for k, n in idx.items() if trained[n]}
    assert made.manifest("item_index").counters["train_clicks"] == sum(trained.values())
    numbered = sorted(idx, key=idx.get)
    assert numbered == sorted(idx, key=lambda key: (-trained[idx[key]], key))


def test_held_out_users_have_no_id_to_learn(made):
    columns = {table for table in made.contents if table.startswith("vocab_")}
    assert ("vocab_user_id" in columns) == (kind_of(made) != "user")


def test_event_files_hold_whole_users_in_order(spark, made):
    seen = set()
    for file in made.asked.store.files_of(made.manifest("events")):
        rows = [(r.user_idx, r.ts, r.seq, r.split % 3) for r in spark.read.parquet(file).collect()]
        assert rows == sorted(rows)
        users = {row[0] for row in rows}
        assert not users & seen
        seen |= users
    assert len(seen) == len(histories(LOG))


def test_pairs_within_a_time_are_counted_from_the_events(spark, made, tmp_path):
    """Bounded by far more than any session lasts, they are the pairs of the sessions."""
    shutil.copytree(made.asked.settings.storage.root, tmp_path / "root")
    counted = {}
    for seconds in (10**9, 600):
        settings = made.asked.settings.model_dump(mode="json")
        settings["storage"]["root"], settings["session"]["pair_max_dt_s"] = str(tmp_path / "root"), seconds
        asked = replace(made.asked, settings=Settings.model_validate(settings), run_id=f"within-{seconds}")
        run_job(cooccurrence.JOB, spark, asked)
        counted[seconds] = Made(asked, {}).manifest("cooc")
    assert counted[10**9].content_hash == made.contents["cooc"]
    assert 0 < counted[600].counters["meetings"] < counted[10**9].counters["meetings"]


def test_samples_are_the_targets_with_what_came_before(spark, made):  # P1.2
    users = {}
    order = sorted(
        made.rows(spark, "events"), key=lambda e: (e.user_idx, e.ts, e.seq, e.split % 3, e.item_idx, e.weight, e.session_key or "")
    )
    for event in order:
        users.setdefault(event.user_idx, []).append(event)
    first = 4 if kind_of(made) == "user" else 0
    want = {
        (user << 32) + n: (e.item_idx, e.split, [b.item_idx for b in mine[max(0, n - 5) : n]])
        for user, mine in users.items()
        for n, e in enumerate(mine)
        if (e.split == 0 and n >= first) or e.split == 1
    }
    got = {r.sample_id: (r.item_idx, r.split, r.hist[: r.hist_len]) for r in made.rows(spark, "samples")}
    assert got == want
    assert {split for _, split, _ in want.values()} == {0, 1}


def test_samples_carry_their_users_fields(spark, made):
    features = {row.idx: row for row in made.rows(spark, "user_feat")}
    single = ["city"] if kind_of(made) == "user" else ["user_id", "city"]
    for row in made.rows(spark, "samples"):
        assert [row[name] for name in single] == [features[row.user_idx][name] for name in single]


def test_single_click_users(spark, made):  # P9.4
    single = next(row.idx for row in made.rows(spark, "user_index") if row.key == "single")
    rows = [(r.hist_len, r.hist) for r in made.rows(spark, "samples") if r.user_idx == single]
    assert rows == ([] if kind_of(made) == "user" else [(0, [0] * 5)])


def test_row_groups_are_small_enough_and_of_one_split(made):
    manifest = made.manifest("samples")
    assert all(set(entry.row_group_rows[:-1]) <= {7} and entry.row_group_rows[-1] <= 7 for entry in manifest.files)
    for file in made.asked.store.files_of(manifest):
        table = pq.ParquetFile(file).read()
        assert len(set(table["split"].to_pylist())) == 1
        assert {len(hist) for hist in table["hist"].to_pylist()} == {5}


def test_pairs_met_in_train_sessions(spark, made):
    met = Counter()
    for session in made.rows(spark, "sessions"):
        items = set(session["items"])
        met.update((i, j) for i in items for j in items if i != j)
    pairs = made.rows(spark, "cooc")
    assert all(row["count"] == met[row.item_i, row.item_j] and row.weight == row["count"] * (1 + row.same_category) for row in pairs)
    assert Counter(row.item_i for row in pairs) == {i: min(4, n) for i, n in Counter(i for i, _ in met).items()}
    assert {row.same_category for row in pairs} == {True, False}
    assert made.manifest("cooc").facts["session_kind"] == "given"
    assert made.manifest("cooc").counters["meetings"] == sum(met.values()) / 2


@pytest.mark.slow
@pytest.mark.parametrize("made", ["user"], indirect=True)  # the split with the most to get wrong
def test_tables_are_the_same_for_any_partitioning_and_order_of_rows(spark, made, tmp_path):  # P1.1, P1.3
    with shuffle_partitions(spark, 5):
        again = run_chain(spark, request_of(tmp_path, "user"), LOG[::-1])
    assert again.contents == made.contents


@pytest.mark.parametrize("made", ["last_k"], indirect=True)
def test_clicks_that_the_vocabulary_does_not_know_are_refused(spark, made):
    later = replace(made.asked, run_id="r2")
    publish_log(spark, later, random_log(2, users=60, clicks=60))
    with pytest.raises(NotReadyError, match=r"made from other clicks.*trichannel vocabulary --ds 2026-01-31"):
        run_job(events.JOB, spark, later)
