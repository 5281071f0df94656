"""One user in words: the same history, titles and candidates as the report shows of it, whatever the layout and the type of keys."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.command import Request
from conf.errors import UsageError
from spark_jobs.cli import main
from spark_jobs.one_user import matching, show_user
from spark_jobs.showcase import HISTORY_SHOWN, sample_users

TABLES = ("user_index", "item_index", "user_state", "events", "candidates", "items", "users")


def test_what_is_shown_is_what_the_report_shows(spark: SparkSession, scored_day: Request) -> None:
    store, settings = scored_day.store, scored_day.settings
    tables = {name: spark.read.parquet(*store.files_of(store.manifest(name, scored_day.ds, settings))) for name in TABLES}
    wanted = sample_users(tables, settings.registry(), num=4, title_field="title")
    assert len(wanted) == 4
    for user in wanted:
        lines = list(show_user(scored_day, user["key"], num=HISTORY_SHOWN))
        assert lines[0] == "  ".join([f"user {user['key']}", *user["fields"].values()])
        cut = next(n for n, line in enumerate(lines) if line.startswith("candidates, "))
        assert lines[1].startswith(f"history, newest first: {len(user['history'])} of ")
        assert lines[2:cut] == ["  " + "  ".join([i["key"], i["title"], *i["fields"]]) for i in user["history"]]
        assert lines[cut].startswith(f"candidates, ds={scored_day.ds} run=r1: {HISTORY_SHOWN} of ")
        for rank, (line, item) in enumerate(zip(lines[cut + 1 :], user["candidates"], strict=False), start=1):
            sources = " ".join(f"{s['channel']}#{s['rank']}" for s in item["sources"])
            words = [f"{rank:4}", f"{item['score']:.4f}", item["key"], item["title"], *item["fields"], sources]
            assert line == "  ".join(words)


def test_layout_lists_shows_the_same(spark: SparkSession, scored_day: Request, copy_of_day: Callable[..., Request]) -> None:
    from spark_jobs.job import Job, run_job
    from tests.spark_jobs.published_day import candidates

    lists = copy_of_day(merge={"layout": "lists"})
    run_job(Job("candidates", candidates), spark, lists)
    key = pq.read_table(scored_day.store.files_of(scored_day.store.manifest("user_index", scored_day.ds, scored_day.settings))[0])["key"][
        0
    ].as_py()
    rows_, lists_ = (list(show_user(asked, key, num=5)) for asked in (scored_day, lists))
    assert len(rows_) > 8
    assert [line.replace("run=r2", "run=r1") for line in lists_] == rows_


def test_keys_are_found_in_the_type_they_are_stored_in(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_key": pa.array([7, 8, 8], pa.int64()), "rank": [1, 1, 2]}), tmp_path / "numbers")
    pq.write_table(pa.table({"user_key": ["7", "07"], "rank": [1, 2]}), tmp_path / "texts")
    assert [row["rank"] for row in matching(str(tmp_path / "numbers"), "user_key", ["8"])] == [1, 2]
    assert matching(str(tmp_path / "numbers"), "user_key", ["ann"]) == []
    assert [row["rank"] for row in matching(str(tmp_path / "texts"), "user_key", ["07"])] == [2]
    assert matching(str(tmp_path / "texts"), "user_key", []) == []


def test_nobody_and_another_table_are_refused(scored_day: Request, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no user 'nobody' on ds="):
        list(show_user(scored_day, "nobody", num=5))
    root = ["--set", f"storage.root={tmp_path}"]
    assert main(["show", "clicks", "--config", "demo", *root, "--user", "u1"]) == 2
    assert "trichannel show candidates --user KEY" in capsys.readouterr().err
