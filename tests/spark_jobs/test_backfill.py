"""Many days in one session: order, what stops and what does not, the worst exit code, one line a day."""

import subprocess
import sys
from pathlib import Path

import pytest

from conf import errors
from conf.command import RunStatus
from conf.errors import BadDataError, LockedError, NotReadyError, SchemaError, SettingsError, UsageError
from conf.settings import load
from conf.storage import Store
from spark_jobs import cli
from spark_jobs.backfill import BY_WEIGHT, BackfillError, day_of, days_between, run_days
from spark_jobs.backfill import backfill as run_backfill
from tests.faults.publishing import publish, settings_at

TINY = [
    "source.synthetic.users=40", "source.synthetic.items=30", "source.synthetic.clicks=800", "source.synthetic.topics=3",
]  # fmt: skip


def test_days_run_from_the_oldest_to_the_newest_over_the_end_of_a_month():
    assert days_between("2026-02-27", "2026-03-02") == ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert days_between("2026-02-27", "2026-02-27") == ["2026-02-27"]


@pytest.fixture
def backfill(make_request):
    """backfill({day: error}) -> (days tried, times Spark was restarted, the error at the end, the status file)."""

    def backfill(failing: dict[str, Exception]):
        asked = make_request(run_id="b1")
        tried, restarts = [], []

        def run(day) -> str:
            tried.append(day.ds)
            if day.ds in failing:
                raise failing[day.ds]
            return f"finished ds={day.ds}"

        caught = None
        try:
            with RunStatus(asked, "backfill") as status:
                run_days([day_of(asked, f"2026-01-0{n}") for n in (1, 2, 3, 4)], run, status, lambda: restarts.append(len(tried)))
        except BackfillError as error:
            caught = error
        return tried, restarts, caught, asked.store.read_status("b1")

    return backfill


ALL = [f"2026-01-0{n}" for n in (1, 2, 3, 4)]


def test_without_failures_each_day_is_a_stage_of_the_status_file(backfill, capsys):
    tried, restarts, error, status = backfill({})
    assert (tried, restarts, error) == (ALL, [], None)
    assert capsys.readouterr().out.splitlines() == [f"finished ds={ds}" for ds in ALL]
    assert [(stage["stage"], stage["status"], stage["run_id"]) for stage in status["stages"]] == [(ds, "ok", f"b1.{ds}") for ds in ALL]


def test_a_failing_day_is_reported_and_the_others_go_on(backfill, capsys):
    failing = {ALL[0]: NotReadyError("job x", ["clicks are late"]), ALL[2]: BadDataError("job y", ["a file is cut"])}
    tried, restarts, error, status = backfill(failing)
    assert (tried, restarts) == (ALL, [])  # causes that are known are not Spark's
    assert error.exit_code == status["exit_code"] == 6
    assert str(error).splitlines() == [
        "error[T801] backfill: 2 faults",
        "  ds=2026-01-01 exit 3   job x: clicks are late   status file: _runs/b1.2026-01-01.json",
        "  ds=2026-01-03 exit 6   job y: a file is cut   status file: _runs/b1.2026-01-03.json",
        "all other days are done; exit 6",
    ]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "failed ds=2026-01-01 exit=3 run=b1.2026-01-01"
    assert [line.split()[0] for line in out] == ["failed", "finished", "failed", "finished"]
    assert [stage["status"] for stage in status["stages"]] == ["failed", "ok", "failed", "ok"]


@pytest.mark.parametrize("error", [SettingsError("s", ["wrong"]), UsageError("u", ["wrong"])])
def test_wrong_settings_are_as_wrong_on_the_next_day(backfill, error):
    tried, _, caught, _ = backfill({ALL[0]: LockedError("l", ["held"]), ALL[1]: error})
    assert tried == ALL[:2]
    assert caught.exit_code == 2
    assert str(caught).endswith("2 later days were not tried; exit 2")


def test_another_schema_of_one_day_stops_no_other(backfill):
    tried, _, caught, _ = backfill({ALL[1]: SchemaError("t", ["column missing"])})
    assert (tried, caught.exit_code) == (ALL, 2)


def test_after_an_unknown_error_the_next_day_gets_another_session(backfill, capsys):
    tried, restarts, caught, _ = backfill({ALL[1]: RuntimeError("the JVM is gone"), ALL[3]: NotReadyError("n", ["late"])})
    assert (tried, restarts, caught.exit_code) == (ALL, [2], 1)
    assert "RuntimeError: the JVM is gone" in str(caught)
    assert "Traceback" in capsys.readouterr().err


def test_days_that_are_present_need_no_spark(make_request, capsys):
    asked = make_request(settings_at("unused"))
    for ds in ("2026-01-30", "2026-01-31"):
        publish(asked.store, asked.settings, "r1", "one", job="ingest", ds=ds)
    assert run_backfill(asked, "2026-01-30", "2026-01-31", only_missing=True, until="ingest") == 0
    assert capsys.readouterr().out.splitlines() == ["present ds=2026-01-30", "present ds=2026-01-31"]
    assert asked.store.runs("ingest", "2026-01-30") == ["r1"]


def test_every_exit_code_of_an_error_has_a_weight():
    assert {code for code in errors.EXIT_CODES if code < 128} == set(BY_WEIGHT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "2026-02-30", "--end", "2026-03-01"], "'2026-02-30' is not a day   use YYYY-MM-DD, for instance --start"),
        (["--start", "2026-01-01", "--end", "soon"], "'soon' is not a day   use YYYY-MM-DD, for instance --end"),
        (["--start", "2026-01-02", "--end", "2026-01-01"], "--start 2026-01-02 lies after --end 2026-01-01"),
        (["--start", "2026-01-01", "--end", "2026-01-02", "--ds", "2026-01-01"], "give --start and --end"),
        (["--start", "2026-01-01", "--end", "2026-01-02", "--until", "smaples"], "unknown stage 'smaples'"),
        (["--start", "2026-01-01", "--end", "2026-01-02", "--run-id", "r" * 60], "cannot be a name"),
    ],
)
def test_wrong_use_is_refused_before_anything_runs(words, message, tmp_path, capsys):
    assert cli.main(["backfill", *words, "--set", f"storage.root={tmp_path}/root"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_dry_run_prints_the_plan_of_each_day(tmp_path, capsys):
    words = ["--start", "2026-01-30", "--end", "2026-01-31", "--until", "events", "--dry-run", "--run-id", "b1"]
    assert cli.main(["backfill", *words, "--set", f"storage.root={tmp_path}/root"]) == 0
    out = capsys.readouterr().out
    assert out.count("run: nothing is committed for the day") == 2 * 3
    for ds in ("2026-01-30", "2026-01-31"):
        assert f"ds={ds} variant=main" in out
        assert f"spark_jobs/events.py --config demo --ds {ds} --variant main --run-id b1.{ds}" in out
    assert not (tmp_path / "root").exists()


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it: with a Spark of its own."""
    command = [sys.executable, "-m", "spark_jobs.cli", "backfill", "--start", "2026-01-29", "--end", "2026-01-31", "--until", "ingest"]
    sets = [word for setting in (f"storage.root={root}", *TINY) for word in ("--set", setting)]
    return subprocess.run([*command, *sets, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_three_days_one_of_them_locked_then_only_what_is_missing(tmp_path, capsys):
    settings = load("demo", [f"storage.root={tmp_path}/root", *TINY])
    store = Store.of(settings)
    with store.locked("ingest", "2026-01-30", "somebody", settings):
        done = run(tmp_path / "root", "--run-id", "b1")
    assert done.returncode == 5, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "finished ds=2026-01-29 run=b1.2026-01-29 stages=ingest"
    assert lines[1] == "failed ds=2026-01-30 exit=5 run=b1.2026-01-30"
    assert lines[2] == "finished ds=2026-01-31 run=b1.2026-01-31 stages=ingest"
    assert "held by run somebody" in done.stderr
    assert store.days("ingest") == ["2026-01-29", "2026-01-31"]
    assert store.read_status("b1.2026-01-30")["exit_code"] == store.read_status("b1")["exit_code"] == 5

    # other settings, and yet present
    words = ["--start", "2026-01-29", "--end", "2026-01-31", "--until", "ingest", "--only-missing", "--dry-run"]
    sets = [word for setting in (f"storage.root={tmp_path}/root", *TINY, "source.train_days=5") for word in ("--set", setting)]
    assert cli.main(["backfill", *words, *sets]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("ds=2026-01-29 present", "ds=2026-01-31 present")
    assert [line for line in lines if "run: " in line] == ["ingest           run: nothing is committed for the day"]
