"""The whole day on tiny generated data by one command; then again, all up to date."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from conf import jobs
from tests.tiny_day import DS, trichannel


def test_one_line_says_what_was_published(tiny_day):
    line = tiny_day.stdout.splitlines()[-1]
    assert re.fullmatch(
        rf"published candidates ds={DS} users=400 channels=u2i,u2u2i,i2i,itemcf,popular recall@50=0\.\d{{4}} report=\S+/report\.html", line
    )
    assert Path(line.rsplit("report=", 1)[1]).stat().st_size > 10_000


def test_the_lines_recall_is_the_metrics_cell(tiny_day):
    store, settings = tiny_day.store, tiny_day.settings
    rows = pq.read_table(store.files_of(store.manifest("metrics", DS, settings))).to_pylist()
    value = next(r["value"] for r in rows if (r["channel"], r["metric"], r["n"], r["slice"]) == ("merged", "recall", 50, "all"))
    assert f"recall@50={value:.4f}" in tiny_day.stdout
    by_channel = {r["channel"]: r["value"] for r in rows if (r["metric"], r["n"]) == ("recall", 50)}
    assert by_channel["oracle"] > by_channel["most_pop"]


def test_every_table_is_there_and_checked_out_of_the_manifest(tiny_day):
    store, settings = tiny_day.store, tiny_day.settings
    for job in jobs.stages(settings):
        for table in jobs.outputs(job, settings):
            assert store.manifest(table, DS, settings).run_id == "first"


def test_status_file_has_every_stage_with_time_and_memory(tiny_day):
    status = json.loads((tiny_day.root / "_runs" / "first.json").read_text())
    assert (status["status"], status["exit_code"]) == ("ok", 0)
    assert [s["stage"] for s in status["stages"]] == list(jobs.stages(tiny_day.settings))
    assert all(s["seconds"] > 0 and s["peak_rss_mb"] > 100 for s in status["stages"])
    told = {s["stage"]: (s["status"], s.get("reason")) for s in status["stages"]}
    assert told.pop("yesterday") == ("skipped", f"no day before {DS} has candidates")
    assert set(told.values()) == {("ok", None)}
    logged = [json.loads(line) for line in tiny_day.stderr.splitlines() if line.startswith('{"time"')]
    assert {line["stage"] for line in logged if line["event"] == "stage"} >= set(jobs.stages(tiny_day.settings))


def test_the_same_command_again_does_nothing(tiny_day):
    again = trichannel(tiny_day, "run", "--run-id", "second")
    assert again.returncode == 0, again.stderr[-3000:]
    status = json.loads((tiny_day.root / "_runs" / "second.json").read_text())
    assert {s["status"] for s in status["stages"]} == {"skipped"}


def test_a_changed_learning_rate_rebuilds_the_model_but_no_table_before_it(tiny_day):
    plan = trichannel(tiny_day, "plan", "--set", "trainer.optimizer.lr=0.01")
    assert plan.returncode == 0
    states = dict(re.findall(r"^(\w+) +(up to date|run: .*)$", plan.stdout, flags=re.MULTILINE))
    before = ("ingest", "vocabulary", "events", "sessions", "cooccurrence", "samples")
    assert all(states[job] == "up to date" for job in before)
    assert states["train"] == "run: settings changed"
    assert states["candidates"].startswith("run: ")


def test_jobs_md_explains_every_counter(tiny_day):
    store, settings = tiny_day.store, tiny_day.settings
    text = (Path(__file__).resolve().parents[1] / "docs" / "jobs.md").read_text(encoding="utf-8")
    for job in jobs.stages(settings):
        section = text.split(f"\n## {job}\n", 1)[1].split("\n## ", 1)[0]
        tables = "".join(re.findall(r"^\| counter \| meaning \|\n((?:\|.*\n)+)", section, flags=re.MULTILINE))
        told = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", tables, flags=re.MULTILINE))
        patterns = {name: re.sub(r"<\w+>", r"\\w+", re.escape(name)) for name in told}
        for table in jobs.outputs(job, settings):
            found = set(store.manifest(table, DS, settings).counters)
            for name, pattern in patterns.items():
                matched = {counter for counter in found if re.fullmatch(pattern, counter)}
                assert matched or told[name].startswith("only "), f"{job} has no counter {name}"
                found -= matched
            assert not found, f"{job} has counters that nobody explains"
