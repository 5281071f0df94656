"""Views of published tables: which files they read, and with Spark's own Derby catalogue that they move with publishing and rollback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.files import hash_file
from conf.storage import FileEntry, Store
from spark_jobs import cli
from spark_jobs.hive_views import columns_of, current_files, view_of
from tests.faults.publishing import settings_at

DAYS = ("2026-01-30", "2026-01-31")


def publish(store: Store, settings, ds: str, run_id: str, rows: pa.Table, *, files: int = 1) -> None:
    """The candidates of a run, in so many files."""
    with store.publication("candidates", ds, run_id, settings) as publication:
        folder, entries = publication.folder("candidates"), []
        for number in range(files):
            path = f"{folder}/part-{number}.parquet"
            pq.write_table(rows.slice(number, None if number == files - 1 else 1), path)
            entries.append(FileEntry(f"part-{number}.parquet", 1, *hash_file(store.fs, path)))
        publication.seal("candidates", entries, rows=len(rows), content_hash=f"{len(rows)}:{ds}.{run_id}")
        publication.seal("channel_candidates", [], rows=0, content_hash="0:0")
        publication.commit()


def rows_of(ds: str, run_id: str, **more: object) -> pa.Table:
    return pa.table({"ds": [ds] * 2, "user_key": ["u", "v"], "rank": [1, 1], "item_key": ["x", "y"], "run_id": [run_id] * 2, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Candidates of two days, the last one with two runs in two files each."""
    settings = settings_at(tmp_path / "root")
    store = Store.of(settings)
    publish(store, settings, DAYS[0], "r1", rows_of(DAYS[0], "r1"))
    for run_id in ("r1", "r2"):
        publish(store, settings, DAYS[1], run_id, rows_of(DAYS[1], run_id), files=2)
    return tmp_path / "root"


def test_a_view_reads_the_current_run_of_each_day(root):
    store = Store.of(settings_at(root))
    found = current_files(store, "candidates", 31)
    folders = {ds: f"{root}/main/candidates/ds={ds}/run={run}" for ds, run in zip(DAYS, ("r1", "r2"), strict=True)}
    assert found == {DAYS[0]: [f"{folders[DAYS[0]]}/part-0.parquet"], DAYS[1]: [f"{folders[DAYS[1]]}/part-{n}.parquet" for n in (0, 1)]}
    assert view_of("`d`.`candidates`", found, ["user_key", "rank"]) == (
        "CREATE OR REPLACE VIEW `d`.`candidates` AS\n"
        f"SELECT '{DAYS[0]}' AS ds, `user_key`, `rank` FROM parquet.`{folders[DAYS[0]]}/part-0.parquet`\n"
        "UNION ALL\n"
        f"SELECT '{DAYS[1]}' AS ds, `user_key`, `rank` FROM parquet.`{folders[DAYS[1]]}/{{part-0.parquet,part-1.parquet}}`"
    )
    assert columns_of(found) == ["user_key", "rank", "item_key", "run_id"]
    assert set(current_files(store, "candidates", 1)) == {DAYS[1]}
    assert current_files(store, "similar_users", 31) == {}


def test_days_of_other_columns_are_left_out(root):
    settings = settings_at(root)
    store = Store.of(settings)
    publish(store, settings, "2026-02-01", "r1", rows_of("2026-02-01", "r1", layout=["lists"] * 2))
    assert set(current_files(store, "candidates", 31)) == {"2026-02-01"}


@pytest.mark.parametrize(("words", "fault"), [((), "set publish.hive to a database"), (("--variant", "x"), "only main has views")])
def test_without_a_database_nothing_is_registered(words, fault, tmp_path, capsys):
    hive = ["--set", "publish.hive=reco"] if words else []
    assert cli.main(["register", *words, *hive, "--set", f"storage.root={tmp_path}"]) == 2
    assert fault in capsys.readouterr().err


QUERY = """
import json, sys
from spark_jobs.session import running
with running("query", hive=True) as spark:
    rows = spark.table("reco.candidates").orderBy("ds", "user_key").collect()
    print(json.dumps([[row["ds"], row["user_key"], row["run_id"]] for row in rows]))
"""


@pytest.mark.slow
def test_views_in_the_derby_catalogue_move_with_rollback(root, tmp_path):
    derby = f"--conf spark.hadoop.javax.jdo.option.ConnectionURL=jdbc:derby:;databaseName={tmp_path}/metastore;create=true"
    sizes = f"--master local[1] --conf spark.ui.enabled=false --conf spark.sql.warehouse.dir={tmp_path}/warehouse"
    environment = os.environ | {"PYSPARK_SUBMIT_ARGS": f"{sizes} {derby} pyspark-shell"}

    def ran(*words: str) -> str:
        """The last line on stdout of a Python of its own."""
        command = [sys.executable, *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.splitlines()[-1]

    def seen() -> list[list[str]]:
        """[day, user, run] of every row of the view."""
        return json.loads(ran("-c", QUERY))

    asked = ["--set", f"storage.root={root}", "--set", "publish.hive=reco", "--ds", DAYS[1]]
    wanted = f"view reco.candidates days=2 latest={DAYS[1]}"
    assert ran("-m", "spark_jobs.cli", "register", *asked) == wanted
    users = [(ds, user) for ds in DAYS for user in ("u", "v")]
    assert seen() == [[ds, user, "r1" if ds == DAYS[0] else "r2"] for ds, user in users]
    assert ran("-m", "spark_jobs.cli", "rollback", "candidates", "--to", "r1", *asked) == wanted
    assert seen() == [[ds, user, "r1"] for ds, user in users]
