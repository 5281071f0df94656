"""trichannel erase: no kept run of any day or variant holds the users any more; what is left is whole, as a run without them makes it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.command import Log, Request
from conf.errors import BadDataError, LockedError
from conf.jobs import JOBS
from conf.settings import Settings
from conf.storage import MAIN, Manifest
from spark_jobs import ingest, vocabulary
from spark_jobs.erase import erase
from spark_jobs.erased_runs import OtherKeyError
from spark_jobs.job import run_job
from spark_jobs.without_users import BY_NUMBER
from tests.faults.publishing import everything_under
from tests.spark_jobs.published_day import day_settings, publish_day, request_for
from tests.tiny_day import DS, TinyDay


def listed(asked: Request, folder: Path, *keys: str, run_id: str = "e1") -> Request:
    """The same request with the users on the erasure list."""
    (folder / "erased.txt").write_text("".join(f"{key}\n" for key in keys))
    source = asked.settings.source.model_copy(update={"erasure": str(folder / "erased.txt")})
    return replace(asked, settings=asked.settings.model_copy(update={"source": source}), run_id=run_id)


def run_erase(spark: SparkSession, asked: Request) -> int:
    return erase(asked, started=lambda: nullcontext(spark))


def table(asked: Request, name: str) -> pa.Table:
    return pq.read_table(asked.store.files_of(asked.store.manifest(name, asked.ds, asked.settings)))


def strings(array: Any) -> Iterator[Any]:
    """Every array of strings within the column, however deep."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_list(array.type):
        yield from strings(array.flatten())
    elif pa.types.is_struct(array.type):
        for part in array.flatten():
            yield from strings(part)
    elif pa.types.is_string(array.type):
        yield array


def files_naming(root: Path, keys: list[str]) -> set[str]:
    """The tables, of whatever run, in whose files one of the keys stands anywhere; JSON, HTML and text files as text."""
    found = set()
    for file in (path for path in root.rglob("*") if path.is_file() and "_runs" not in path.parts):
        if file.suffix == ".parquet":
            parts = [part for column in pq.read_table(file).columns for part in strings(column)]
            named = any(pc.any(pc.is_in(part, value_set=pa.array(keys))).as_py() for part in parts)
        elif file.suffix in (".json", ".jsonl", ".html"):
            text = file.read_text()
            named = any(f'"{key}"' in text or f">{key}<" in text for key in keys)
        else:
            named = False
        if named:
            found.add(file.relative_to(root).parts[1])
    return found


UNTOUCHED = {"cooc", "model", "index", "metrics_yesterday"}  # what holds no user stays as it is


# ---- a whole day, as one command made it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Day:
    """A copy of the tiny day, two users erased. before, after: manifests by table. numbers: the users' in the day's user_index."""

    asked: Request
    keys: list[str]
    numbers: list[int]
    before: dict[str, Manifest]
    after: dict[str, Manifest]
    dry: str
    said: str
    named: set[str]


def manifests(asked: Request) -> dict[str, Manifest]:
    store = asked.store
    tables = {name: record for job in JOBS if (record := store.current(job, DS)) for name in record.tables}
    return {name: store.load_manifest(name, record) for name, record in tables.items()}


@pytest.fixture(scope="module")
def day(tiny_day: TinyDay, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Day:
    folder = tmp_path_factory.mktemp("erased")
    shutil.copytree(tiny_day.root, folder / "root")
    settings = TinyDay(folder / "root").settings
    asked = Request("demo", settings, (), DS, MAIN, "e1", force=False, break_lock=False, dry_run=False, log=Log("text", run_id="e1"))
    shown = json.loads((Path(asked.store.folder_of(manifests(asked)["report"])) / "report.json").read_text())["users"][0]["key"]
    nearest = table(asked, "neighbours_user")["neighbours"].combine_chunks().flatten()[0].as_py()  # stands in another's list
    index = {row["idx"]: row["key"] for row in table(asked, "user_index").to_pylist()}
    keys = [shown, index[nearest]] if index[nearest] != shown else [shown, index[1 + nearest % len(index)]]
    numbers = [idx for idx, key in index.items() if key in keys]
    asked, before, named = listed(asked, folder, *keys), manifests(asked), files_naming(folder / "root", keys)
    texts = []
    for dry_run in (True, False):
        there = everything_under(folder / "root")
        with pytest.MonkeyPatch.context() as patched:
            lines: list[str] = []
            patched.setattr("builtins.print", lambda *words, lines=lines, **_: lines.append(" ".join(map(str, words))))
            assert run_erase(spark, replace(asked, dry_run=dry_run)) == 0
        texts.append("\n".join(lines))
        assert not dry_run or everything_under(folder / "root") == there
    return Day(asked, keys, numbers, before, manifests(asked), *texts, named)


def test_no_file_under_the_root_names_them_any_more(day: Day) -> None:
    root = Path(day.asked.settings.storage.root)
    assert {"clicks", "users", "user_index", "vocab_user_id", "candidates", "report"} <= day.named
    assert files_naming(root, day.keys) == set()
    assert {path.parents[1].name for path in root.glob("*/*/ds=*/run=first")} == UNTOUCHED, "an old run is still there"


@pytest.mark.parametrize("name", sorted(BY_NUMBER))
def test_no_table_holds_their_row_numbers(day: Day, name: str) -> None:
    left = table(day.asked, name)
    assert not set(left[BY_NUMBER[name]].to_pylist()) & set(day.numbers)
    assert left.num_rows == day.after[name].rows == day.before[name].rows - day.after[name].counters["erased_rows"]
    assert day.after[name].run_id == "first.erased-1"
    if name == "neighbours_user":
        assert not set(left["neighbours"].combine_chunks().flatten().to_pylist()) & set(day.numbers)
        assert pc.list_value_length(left["neighbours"]).equals(pc.list_value_length(left["similarities"]))


def test_what_holds_no_user_is_the_same_to_the_byte(day: Day) -> None:
    for name in ("items", "item_index", "item_feat", "metrics", "cooc", "embeddings_item", "neighbours_item", "model", "index"):
        assert day.after[name].content_hash == day.before[name].content_hash, name
        assert [entry.sha256 for entry in day.after[name].files] == [entry.sha256 for entry in day.before[name].files], name
    assert day.after["cooc"].run_id == "first"  # a run that holds nobody stays as it is


def test_the_command_says_what_it_does_and_what_only_training_takes_out(day: Day) -> None:
    counted = day.said.splitlines()[-1].removeprefix("rewrote ")
    assert day.dry.splitlines()[-1] == f"would rewrite {counted}"
    assert counted.startswith("runs=11 days=1 rows=")
    assert f"would rewrite variant=main job=events ds={DS} run=first rows: events=" in day.dry
    assert f"still learned from them: variant=main job=train ds={DS} run=first" in day.said


def test_again_there_is_nothing_to_do(day: Day, spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything_under(Path(day.asked.settings.storage.root) / MAIN)
    assert run_erase(spark, replace(day.asked, run_id="e2")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "rewrote runs=0 days=0 rows=0 unrecorded=0 other_key=0"
    assert everything_under(Path(day.asked.settings.storage.root) / MAIN) == before
    assert day.asked.store.read_status("e2")["status"] == "ok"  # type: ignore[index]


@pytest.mark.slow
def test_clicks_are_those_that_a_run_under_the_list_publishes_and_the_next_run_makes_all_anew(day: Day, spark: SparkSession) -> None:
    root = Path(day.asked.settings.storage.root).with_name("again")
    shutil.copytree(day.asked.settings.storage.root, root)
    settings = day.asked.settings.model_copy(update={"storage": day.asked.settings.storage.model_copy(update={"root": str(root)})})
    asked = replace(day.asked, settings=settings, run_id="r2")
    assert not run_job(ingest.JOB, spark, asked).skipped
    for name in ("clicks", "users"):
        assert asked.store.manifest(name, DS, settings).content_hash == day.after[name].content_hash, name
    assert not run_job(vocabulary.JOB, spark, asked).skipped  # numbered anew: 1..n, which training wants
    numbers = table(asked, "user_index")["idx"].to_pylist()
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


# ---- older runs, variants, days ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_older_runs_and_variants_too_and_what_killed_attempts_left(spark: SparkSession, tmp_path: Path) -> None:
    asked = request_for(tmp_path / "root", day_settings())
    publish_day(spark, asked, until="events")
    publish_day(spark, replace(asked, run_id="r2", force=True), until="ingest")
    publish_day(spark, replace(asked, run_id="x1", variant="exp", force=True), until="ingest")
    shutil.copytree(tmp_path / f"root/main/clicks/ds={asked.ds}/run=r1", tmp_path / f"root/main/clicks/ds={asked.ds}/run=killed")
    keys = sorted(table(asked, "users")["user_key"].to_pylist())
    times = {run: asked.store.read_record(asked.store.record_path("ingest", asked.ds, run)).committed_at for run in ("r1", "r2")}  # type: ignore[union-attr]

    assert run_erase(spark, listed(asked, tmp_path, keys[0])) == 0
    store = asked.store
    assert files_naming(tmp_path / "root", [keys[0]]) == set()
    assert sorted(store.runs("ingest", asked.ds)) == ["r1.erased-1", "r2.erased-1"]
    assert store.current("ingest", asked.ds).run_id == "r2.erased-1"  # type: ignore[union-attr]
    assert not (tmp_path / f"root/main/clicks/ds={asked.ds}/run=killed").exists()
    for run, time in times.items():  # gc counts by the time of the commit
        assert store.read_record(store.record_path("ingest", asked.ds, f"{run}.erased-1")).committed_at == time  # type: ignore[union-attr]
    record = store.current("events", asked.ds)
    assert record is not None
    assert {name: identity.split(" ")[0] for name, identity in record.inputs.items()} == dict.fromkeys(
        ("clicks", "user_index", "item_index"), f"main/{asked.ds}/r1.erased-1"
    )
    assert store.rollback("ingest", asked.ds, "r1.erased-1", asked.settings).tables["clicks"]

    assert run_erase(spark, listed(asked, tmp_path, *keys[:2], run_id="e2")) == 0  # one more: found by the index as it is now
    assert sorted(store.runs("ingest", asked.ds)) == ["r1.erased-2", "r2.erased-2"]
    assert store.current("ingest", asked.ds).run_id == "r1.erased-2"  # type: ignore[union-attr]
    assert store.current("events", asked.ds).run_id == "r1.erased-2"  # type: ignore[union-attr]
    assert files_naming(tmp_path / "root", keys[:2]) == set()


@pytest.mark.slow
def test_a_day_does_not_go_on_from_numbers_with_gaps(spark: SparkSession, tmp_path: Path) -> None:
    asked = request_for(tmp_path / "root", day_settings())
    publish_day(spark, asked, until="vocabulary")
    run_erase(spark, listed(asked, tmp_path, next(row["key"] for row in table(asked, "user_index").to_pylist() if row["idx"] == 3)))
    later = request_for(tmp_path / "root", day_settings(vocabulary={"previous_ds": "latest"}), ds="2026-01-07")
    publish_day(spark, later, until="vocabulary")
    manifest = later.store.manifest("user_index", later.ds, later.settings)
    assert manifest.inputs["user_index"].startswith(f"main/{asked.ds}/r1.erased-1 ")
    assert manifest.counters["starts_cold"] is True
    numbers = table(later, "user_index")["idx"].to_pylist()
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_a_day_in_use_or_damaged_is_left_alone(spark: SparkSession, tmp_path: Path) -> None:
    asked = request_for(tmp_path / "root", day_settings())
    publish_day(spark, asked, until="ingest")
    key = table(asked, "users")["user_key"][0].as_py()
    before = {path: path.read_bytes() for path in (tmp_path / "root" / "main").rglob("run=r1/*")}
    with asked.store.locked("events", asked.ds, "other", asked.settings), pytest.raises(LockedError, match="job=ingest"):
        run_erase(spark, listed(asked, tmp_path, key))  # events may be reading what ingest published
    assert {path: path.read_bytes() for path in (tmp_path / "root" / "main").rglob("run=r1/*")} == before
    file = next(path for path in before if path.parts[-4:-2] == ("clicks", f"ds={asked.ds}") and path.suffix == ".parquet")
    file.write_bytes(bytes(len(before[file])))
    before[file] = file.read_bytes()
    with pytest.raises(BadDataError, match="a file cannot be read"):
        run_erase(spark, listed(asked, tmp_path, key, run_id="e2"))
    assert {path: path.read_bytes() for path in (tmp_path / "root" / "main").rglob("run=r1/*")} == before


# ---- pseudonyms, rejects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [pytest.param(False, id="plain"), pytest.param(True, id="with pseudonyms", marks=pytest.mark.slow)])
def test_pseudonyms_and_raw_text(
    spark: SparkSession, make_request: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    monkeypatch.setenv("SHOP_KEY", "correct-horse-battery-staple")
    noon = 1_769_860_800
    rows = [f"7,a,{noon}", f"8,a,{noon}", "8,b,never", f"18,b,{noon}", f"7,,{noon}"]
    (tmp_path / "log.csv").write_text("user_key,item_key,ts\n" + "".join(f"{row}\n" for row in rows))
    source = {"kind": "generic", "path": str(tmp_path / "log.csv"), "pseudonyms": {"users": keyed, "key_env": "SHOP_KEY"}}
    asked = make_request(Settings.model_validate({"source": source, "gates": {"max_reject_share": 1}}))
    run_job(ingest.JOB, spark, asked)
    with monkeypatch.context() as patched:
        patched.setenv("SHOP_KEY", "another-key-of-sixteen-bytes")
        if keyed:
            with pytest.raises(OtherKeyError, match="pseudonyms by another key") as caught:
                run_erase(spark, listed(asked, tmp_path, "8", run_id="e0"))
            assert caught.value.exit_code == 2
            assert table(asked, "clicks").num_rows == 3
    assert run_erase(spark, listed(asked, tmp_path, "8")) == 0
    assert sorted(table(asked, "clicks")["item_key"].to_pylist()) == ["a", "b"]
    assert table(asked, "users").num_rows == 2
    raw = sorted(table(asked, "rejects")["raw"].to_pylist())
    assert raw == (["", ""] if keyed else ["", f"7,,{noon}"])
