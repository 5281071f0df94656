"""The compiled engine and plain Spark SQL give the same tables, and neither is made of the other."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import spark_jobs.cooccurrence as cooccurrence
import spark_jobs.samples as samples
import spark_jobs.sessions as sessions
from conf.command import Request
from conf.settings import Settings
from spark_jobs import events, vocabulary
from spark_jobs.job import run_job
from tests.spark_jobs.small_logs import publish_log, random_log
from tests.spark_jobs.test_data_jobs import request_of
from trainer.backends import build_backend
from trainer.batches import survey
from trainer.batches.arrow import read_group
from trainer.batches.columns import PLAIN

SPARK_JOBS = Path(sessions.__file__).parent
ENGINES = {"session": sessions, "cooc": cooccurrence, "samples": samples}

# What makes a table in more ways than one: sessions by span, pairs by time, in windows, of one category.
SHAPES = [
    {"cooc": {"count": "set", "max_session_items": 3, "min_count": 2}},
    {"session": {"kind": "gap", "gap_s": 5000, "max_span_s": 9000}, "cooc": {"count": "multiset", "other_category": "drop"}},
    {"session": {"kind": "given", "pair_max_dt_s": 4000}, "cooc": {"count": "set", "max_session_items": 2}},
    {"session": {"kind": "user", "pair_max_dt_s": 600}, "cooc": {"count": "multiset"}},
    {"session": {"kind": "user"}, "cooc": {"count": "window", "window": 2}, "samples": {"masks": {"draws": 3, "p_hist": 0.5}}},
    {"samples": {"masks": {"strategy": "rfm", "complementary": False}}},
    {"samples": {"masks": {"strategy": "cfm", "draws": 2, "mi": {"normalise": "sqrt"}}}},
]


def settings_with(settings: Settings, *changes) -> Settings:
    data = settings.model_dump(mode="json")
    for change in changes:
        for section, values in change.items():
            data[section].update({k: {**data[section][k], **v} if isinstance(v, dict) else v for k, v in values.items()})
    return Settings.model_validate(data)


@pytest.fixture(scope="module", params=["last_k", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("temporal", "user"))])
def encoded(request, spark, tmp_path_factory) -> Request:
    """A log up to its events."""
    asked = request_of(tmp_path_factory.mktemp(request.param), request.param)
    publish_log(spark, asked, random_log(31, users=25, clicks=300))
    for module in (vocabulary, events):
        run_job(module.JOB, spark, asked)
    return asked


def run(spark, encoded, run_id, *changes, jobs=None):
    """(content hashes, counters) of each job under settings with these changes."""
    asked = replace(encoded, settings=settings_with(encoded.settings, *changes), run_id=run_id)
    records = [run_job(job.JOB, spark, asked).record for job in jobs or ENGINES.values()]
    manifests = [asked.store.load_manifest(table, record) for record in records for table in record.tables]
    return [(manifest.table, manifest.content_hash, manifest.counters) for manifest in manifests]


@pytest.mark.parametrize("shape", [pytest.param(n, marks=[pytest.mark.slow] * (n > 0)) for n in range(len(SHAPES))])
def test_both_engines_publish_the_same_tables(spark, encoded, shape):
    compiled, sql = (
        run(spark, encoded, f"{engine}{shape}", SHAPES[shape], {section: {"engine": engine} for section in ENGINES})
        for engine in ("compiled", "sql")
    )
    assert compiled == sql


def test_each_engine_is_really_taken(spark, encoded, monkeypatch):
    """With one of them broken, only the other one works."""

    class BrokenError(Exception):
        pass

    def broken(*_args, **_options):
        raise BrokenError

    of_sql = {"session": "sessionise", "cooc": "by_sql", "samples": "by_sql"}
    for section, module in ENGINES.items():
        for engine, other, name in (("compiled", "sql", "compiled"), ("sql", "compiled", of_sql[section])):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, broken)
                with pytest.raises(BrokenError):
                    run(spark, encoded, f"broken-{engine}", {section: {"engine": engine}}, jobs=[module])
                run(spark, encoded, f"whole-{other}", {section: {"engine": other}}, jobs=[module])


def test_the_rows_of_layout_windows_can_be_cut_from_the_blocks_of_both_engines(spark, encoded):
    def published(run_id, *changes):
        asked = replace(encoded, settings=settings_with(encoded.settings, {"samples": {"row_group_rows": 16}}, *changes), run_id=run_id)
        manifest = asked.store.load_manifest("samples", run_job(samples.JOB, spark, asked).record)
        groups = survey(asked.store, manifest, build_backend("single"), num_items=1000).groups
        return manifest, [read_group(group, (*PLAIN, "ts", "city")).combine_chunks() for group in groups]

    blocks = {"samples": {"layout": "sequences", "block": 3}, "trainer": {"batches": "arrow"}}
    _, windows = published("windows")
    compiled, cut = published("blocks", blocks)
    by_sql, cut_from_sql = published("blocks-sql", blocks, {"samples": {"engine": "sql"}})
    assert len(windows) > 5
    assert all(one.equals(other) for one, other in zip(cut, windows, strict=True))
    assert (by_sql.content_hash, by_sql.counters) == (compiled.content_hash, compiled.counters)
    in_order = [pa.concat_tables(tables).sort_by("sample_id").combine_chunks() for tables in (windows, cut_from_sql)]
    assert in_order[0].equals(in_order[1])


@pytest.mark.slow
def test_who_clicked_the_item_is_one_more_column(spark, encoded):
    """Of one length, with somebody in most rows; the other columns stay as they are."""

    def published(run_id, **chosen):
        asked = replace(encoded, settings=settings_with(encoded.settings, {"samples": {"engine": "sql", **chosen}}), run_id=run_id)
        manifest = asked.store.load_manifest("samples", run_job(samples.JOB, spark, asked).record)
        return spark.read.parquet(*asked.store.files_of(manifest)).toArrow().sort_by("sample_id")

    without, listed = published("without"), published("listed", item_users=True, item_users_length=3)
    assert listed.drop_columns("item_users").equals(without)
    lists = listed["item_users"].to_pylist()
    assert {len(users) for users in lists} == {3}
    assert sum(any(users) for users in lists) > len(lists) / 2


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_neither_engine_calls_the_other():
    names = ("baskets.py", "event_files.py", "increment.py", "pair_counts.py", "task_files.py")
    compiled = [*(SPARK_JOBS / "kernels").glob("*.py"), *(SPARK_JOBS / name for name in names)]
    for path in compiled:
        assert not any("spark_jobs.sql" in name for name in imported(path)), path
    for path in (SPARK_JOBS / "sql").glob("*.py"):
        names = set(imported(path))
        assert not any(name.split(".")[0] in ("numba", "numpy", "pyarrow", "pandas") for name in names), path
        ours = {name for name in names if name.startswith("spark_jobs.") and not name.startswith("spark_jobs.sql.")}
        assert ours <= {"spark_jobs.session_cuts.Rule"}, path
