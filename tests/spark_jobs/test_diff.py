"""What changed from one version of a table to another: the manifests' part without Spark, the lists' part by hand."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.files import hash_file
from conf.manifest import FileEntry
from conf.storage import Store
from spark_jobs import cli
from spark_jobs.diff import compare, diff, flat, list_facts, lists_of
from tests.faults.publishing import DS, publish, settings_at

NEXT = "2026-02-01"


@pytest.fixture
def root(tmp_path) -> Path:
    """Events of two days, the first one with three runs: r1 and r3 of equal content."""
    settings = settings_at(tmp_path / "root")
    store = Store.of(settings)
    for ds, run_id, content in ((DS, "r1", "one"), (DS, "r2", "two"), (DS, "r3", "one"), (NEXT, "n1", "next")):
        inputs = {"clicks": f"main/{ds}/{run_id} 1:{content}", "item_index": f"main/{ds}/{run_id} 1:same"}
        publish(store, settings, run_id, content, ds=ds, inputs=inputs)
        for table in ("events", "user_state"):
            path = Path(store.run_folder(table, ds, run_id)) / "manifest.json"
            manifest = json.loads(path.read_text())
            counters = {"kept": 5 if ds == DS else 7, "dropped": {"late": len(content)}, "seconds.als": len(run_id)}
            path.write_text(json.dumps(manifest | {"counters": counters, "rows": 10 if ds == DS else 12}))
    return tmp_path / "root"


def compared(root: Path, capsys: pytest.CaptureFixture[str], *words: str, table: str = "events") -> list[str]:
    """The lines printed, with exit code 0."""
    assert cli.main(["diff", table, *words, "--set", f"storage.root={root}"]) == 0
    return capsys.readouterr().out.splitlines()


def test_two_days_are_compared_fact_by_fact(root, capsys):
    lines = compared(root, capsys, "--ds", DS, "--to-ds", NEXT)
    assert lines == [
        f"events: variant=main ds={DS} run=r3 -> variant=main ds={NEXT} run=n1",
        "settings: equal",
        f"input clicks: main/{DS}/r3 -> main/{NEXT}/n1, other content",
        f"input item_index: main/{DS}/r3 -> main/{NEXT}/n1, equal content",
        "rows: 10 -> 12 (+2)",
        "content: changed, 1:one -> 1:next",
        "counter dropped.late: 3 -> 4",
        "counter kept: 5 -> 7",
    ]
    assert compared(root, capsys, "--ds", DS, "--ds", NEXT) == lines
    assert compared(root, capsys, "--to-ds", NEXT) == lines  # the first day is the default one


def test_two_runs_of_a_day_and_equal_ones_say_so(root, capsys):
    assert "content: changed, 1:one -> 1:two" in compared(root, capsys, "--ds", DS, "--run", "r1", "--to-run", "r2")
    lines = compared(root, capsys, "--ds", DS, "--to-run", "r1")  # from the current one
    assert lines[0].endswith(f"run=r3 -> variant=main ds={DS} run=r1")
    assert lines[-2:] == ["rows: 10 -> 10", "content: equal, both hold the same rows"]
    assert not any(line.startswith("counter") for line in lines)
    assert compared(root, capsys, "--ds", DS, "--run", "r3", "--ds", NEXT, "--to-run", "n1")[4] == "rows: 10 -> 12 (+2)"


def test_other_settings_are_named_by_their_hashes(root, capsys):
    settings = settings_at(root, session={"max_user_clicks": 9})
    publish(Store.of(settings), settings, "r4", "few")
    lines = compared(root, capsys, "--run", "r3", "--to-run", "r4", table="user_state")
    assert lines[1].startswith("settings: changed, ")
    assert f"input clicks: main/{DS}/r3 -> none, other content" in lines
    assert "counter dropped.late: 3 -> none" in lines


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["events"], 2, "two versions are compared   give --ds and --to-ds"),
        (["events", "--ds", DS], 2, "two versions are compared"),
        (["events", "--ds", DS, "--ds", NEXT, "--to-ds", NEXT], 2, "two versions are compared"),
        (["events", "--ds", DS, "--to-ds", "later"], 2, "'later' is not a day   use YYYY-MM-DD, for instance --to-ds"),
        (["events", "--ds", DS, "--to-run", "r9"], 2, "no committed run r9   known: r1, r2, r3"),
        (["event", "--ds", DS, "--to-ds", NEXT], 2, "unknown table 'event'"),
        (["events", "--ds", DS, "--to-ds", "2026-02-02"], 3, "table events is not there yet"),
        (["sessions", "--ds", DS, "--to-ds", NEXT], 3, "table sessions is not there yet"),
    ],
)
def test_wrong_use_says_what_to_do(root, words, code, message, capsys):
    assert cli.main(["diff", *words, "--set", f"storage.root={root}"]) == code
    assert message in capsys.readouterr().err


def test_counters_in_counters_are_named_by_dots():
    assert flat({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}) == {"a": 1, "b.c": 2, "b.d.e": 3}


def test_lists_are_compared_whatever_their_layout_and_types(spark: SparkSession) -> None:
    # 1: the same; 2: two places swapped; 3: one of three stays, one is new; 4 and 5: in one version only
    rows = [(1, 1, 7), (1, 2, 8), (2, 2, 8), (2, 1, 7), (3, 1, 5), (3, 3, 7), (3, 2, 6), (4, 1, 7)]
    old = spark.createDataFrame(rows, "user_key long, rank int, item_key long").repartition(3)
    lists = [("1", ["7", "8"]), ("2", ["8", "7"]), ("3", ["7", "9"]), ("5", ["7"])]
    new = spark.createDataFrame(lists, "user_key string, item_keys array<string>")
    found = compare(lists_of(old), lists_of(new), at=[1, 3])
    assert {name: found[name] for name in ("only_old", "only_new", "both", "changed")} == {
        "only_old": 1, "only_new": 1, "both": 3, "changed": 2,
    }  # fmt: skip
    assert found["overlap@1"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["overlap@3"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert [*list_facts(found)] == [
        "users: 1 only in the old, 1 only in the new, 3 in both",
        "lists changed: 2 of 3",
        "mean overlap@1: 0.3333",
        "mean overlap@3: 0.7778",
    ]


def test_published_candidates_of_two_layouts_and_their_cut_offs(spark: SparkSession, make_request, capsys) -> None:
    asked = make_request(settings_at("unused", evaluation={"at": [2, 1]}))
    store = asked.store
    rows = pa.table({"user_key": ["a", "a", "b"], "rank": pa.array([2, 1, 1], pa.int32()), "item_key": [8, 7, 7]})
    lists = pa.table({"user_key": ["a", "c"], "item_keys": [[7, 9], [7]]})
    for run_id, table in (("r1", rows), ("r2", lists)):
        with store.publication("candidates", asked.ds, run_id, asked.settings) as publication:
            path = f"{publication.folder('candidates')}/a.parquet"
            pq.write_table(table, path)
            size, sha256 = hash_file(store.fs, path)
            publication.seal("candidates", [FileEntry("a.parquet", len(table), size, sha256)], rows=len(table), content_hash=run_id)
            publication.commit()
    assert diff(asked, "candidates", asked.ds, run_id="r1", started=lambda: nullcontext(spark)) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "rows: 3 -> 2 (-1)",
        "content: changed, r1 -> r2",
        "users: 1 only in the old, 1 only in the new, 1 in both",
        "lists changed: 1 of 1",
        "mean overlap@1: 1.0000",
        "mean overlap@2: 0.5000",
    ]

    def never() -> AbstractContextManager[SparkSession]:
        raise AssertionError("equal content needs no Spark")

    assert diff(asked, "candidates", asked.ds, run_id="r2", started=never) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "content: equal, both hold the same rows"


def test_of_no_common_user_there_is_no_overlap(spark: SparkSession) -> None:
    one, other = (spark.createDataFrame([(user, ["7"])], "user_key string, item_keys array<string>") for user in "ab")
    found = compare(lists_of(one), lists_of(other), at=[5])
    assert found["overlap@5"] is None
    assert [*list_facts(found)] == ["users: 1 only in the old, 1 only in the new, 0 in both", "lists changed: 0 of 0"]
