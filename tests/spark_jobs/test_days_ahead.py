"""Days side by side: which stages may run so, what share each gets, and that any order of days makes the same tables."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from conf import jobs
from conf.errors import UsageError
from conf.settings import Settings, load
from conf.storage import Store
from spark_jobs import cli, days_ahead
from spark_jobs.backfill import backfill
from spark_jobs.days_ahead import LEAST_HEAP_MB, MOST_HEAP_MB, command_of, run_ahead, shares, stages_apart, submit_args
from tests.faults.publishing import publish, settings_at
from tests.spark_jobs.test_backfill import TINY

DAYS = ("2026-01-29", "2026-01-30", "2026-01-31")
LATEST = {"vocabulary": {"previous_ds": "latest"}}


@pytest.mark.parametrize(
    ("sections", "first_that_waits"),
    [({}, "yesterday"), (LATEST, "vocabulary"), ({**LATEST, "trainer": {"warm_start": True}}, "vocabulary")],
)
def test_stages_that_read_another_day_wait_for_their_turn(sections, first_that_waits):
    settings = Settings.model_validate(sections)
    stages = jobs.stages(settings)
    assert stages_apart(stages, settings) == stages[: stages.index(first_that_waits)]
    assert stages_apart(stages[:1], settings) == ("ingest",)


def test_cores_and_memory_are_shared_out():
    assert shares(1, cores=8, memory_mb=64_000) == (8, MOST_HEAP_MB)
    assert shares(4, cores=8, memory_mb=16_000) == (2, 1600)
    assert shares(3, cores=2, memory_mb=4_000) == (1, LEAST_HEAP_MB)


def test_sizes_that_the_user_gives_are_the_users():
    with ExitStack() as stack:
        assert submit_args(stack, 2, {"PYSPARK_SUBMIT_ARGS": "--master yarn pyspark-shell"}) == "--master yarn pyspark-shell"
        words = submit_args(stack, 2, {}).split()
        assert Path(words[1]).read_text().startswith("# Sizes of a run on one machine")
        assert words[2::2][:2] == ["--master", "--driver-memory"]


def test_at_most_so_many_run_at_a_time_and_codes_are_kept(make_request, monkeypatch, tmp_path):
    """Stand-ins for days write down when they began and ended."""
    script = "import sys,time; log=open(sys.argv[1],'ab',0); log.write(b'+'); time.sleep(2); log.write(b'-'); sys.exit(int(sys.argv[2]))"
    codes = dict(zip(DAYS, (0, 4, 3), strict=True))
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    monkeypatch.setattr(days_ahead, "command_of", lambda day, until: [*command, str(codes[day.ds])])
    assert run_ahead([make_request(ds=ds) for ds in DAYS], "ingest", num=2) == codes
    running = [0]
    for mark in (tmp_path / "log").read_text():
        running.append(running[-1] + (1 if mark == "+" else -1))
    assert (max(running), running[-1]) == (2, 0)


def test_a_day_ahead_has_a_run_of_its_own(make_request):
    words = command_of(make_request(run_id="b1.2026-01-31"), "embed")
    assert words[1:4] == ["-m", "spark_jobs.cli", "run"]
    assert words[words.index("--run-id") + 1] == "b1.2026-01-31.ahead"
    assert words[-2:] == ["--until", "embed"]


def test_one_application_cannot_hold_several_days(make_request, monkeypatch):
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    with pytest.raises(UsageError, match="this one came by spark-submit"):
        run_ahead([make_request()], "ingest", num=2)


def test_days_that_are_up_to_date_start_no_process(make_request, monkeypatch, capsys):
    asked = make_request(settings_at("unused"))
    for ds in DAYS[1:]:
        publish(asked.store, asked.settings, "r1", "one", job="ingest", ds=ds)
    monkeypatch.setattr(days_ahead.subprocess, "Popen", None)
    assert backfill(asked, DAYS[1], DAYS[2], only_missing=True, until="ingest", max_parallel=2) == 0
    assert capsys.readouterr().out.splitlines() == [f"present ds={ds}" for ds in DAYS[1:]]


def test_a_number_of_days_below_one_is_refused(capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(["backfill", "--start", DAYS[0], "--end", DAYS[1], "--max-parallel", "0"])
    assert refused.value.code == 2
    assert "--max-parallel: invalid positive value: '0'" in capsys.readouterr().err


# ---- the real thing --------------------------------------------------------------------------------------------------

TWO = DAYS[1:]
SMALL = (
    *TINY, "model.dim=8", "model.hidden=[16]", "trainer.epochs=1", "trainer.batch=128", "trainer.launcher=single", "trainer.workers=1",
    "evaluation.baselines=[]", "evaluation.at=[5, 20]", "source.synthetic.days=10", "channels.top=20", "merge.top=20",
)  # fmt: skip


def trichannel(root: Path, *words: str) -> str:
    """stdout of the command, which must end well."""
    sets = [word for setting in (f"storage.root={root}", *SMALL) for word in ("--set", setting)]
    command = [sys.executable, "-m", "spark_jobs.cli", *words, *sets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def contents(root: Path) -> dict[tuple[str, str], str]:
    """(day, table) -> content hash of all that is current, but for what tells of other days."""
    settings = load("demo", [f"storage.root={root}", *SMALL])
    store, found = Store.of(settings), {}
    for ds in TWO:
        for job in jobs.stages(settings):
            record = store.current(job, ds)
            assert record is not None, (job, ds)
            found |= {(ds, table): content for table, content in record.tables.items() if table != "metrics_yesterday"}
    return found


@pytest.mark.slow
def test_any_order_of_days_makes_the_same_tables(tmp_path):
    """The newest day first, one command a day; and a backfill two days at a time."""
    for ds in reversed(TWO):
        trichannel(tmp_path / "backwards", "run", "--ds", ds)
    words = ["backfill", "--start", TWO[0], "--end", TWO[1], "--max-parallel", "2", "--run-id", "b1"]
    lines = trichannel(tmp_path / "parallel", *words).splitlines()
    assert [line.split()[2] for line in lines] == [f"ds={ds}" for ds in TWO]
    assert contents(tmp_path / "parallel") == contents(tmp_path / "backwards")

    settings = load("demo", [f"storage.root={tmp_path}/parallel", *SMALL])
    store = Store.of(settings)
    for ds in TWO:
        in_turn = {stage["stage"]: stage["status"] for stage in store.read_status(f"b1.{ds}")["stages"]}
        assert {in_turn[name] for name in stages_apart(tuple(in_turn), settings)} == {"skipped"}
        assert store.read_status(f"b1.{ds}.ahead")["exit_code"] == 0
    scored = [store.manifest("metrics_yesterday", ds, settings).counters.get("candidates_ds") for ds in TWO]
    assert scored == [None, TWO[0]]
    assert {stage["status"] for stage in store.read_status("b1")["stages"]} == {"ok"}
