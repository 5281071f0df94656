"""Commands: requests are checked before anything runs; the status file is there whatever happens; exit codes are documented."""

import json
import os
import shlex
import signal

import pytest

from conf import errors
from conf.command import Log, RunStatus, exit_code, guarded, parse, request
from conf.errors import LockedError, SettingsError, StorageError, UsageError
from conf.storage import Store


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(f"storage: {{root: '{tmp_path}/root'}}\n")
    return str(path)


@pytest.fixture
def ask(config):
    return lambda *words: request(parse("job", "doc", ["--config", config, *words]))


@pytest.fixture(autouse=True)
def _keep_signal_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# ---- requests --------------------------------------------------------------------------------------------------


def test_defaults_and_options(ask, tmp_path):
    plain = ask()
    assert (plain.ds, plain.variant, plain.force, plain.break_lock) == (plain.settings.source.default_ds, "main", False, False)
    asked = ask("--ds", "2026-01-07", "--variant", "exp", "--run-id", "r7", "--set", "trainer.epochs=3", "--force", "--break-lock")
    assert (asked.ds, asked.variant, asked.run_id, asked.force, asked.break_lock) == ("2026-01-07", "exp", "r7", True, True)
    assert asked.settings.trainer.epochs == 3
    assert (asked.store.base, asked.store.variant) == (str(tmp_path / "root"), "exp")


def test_a_published_day_and_the_later_one_that_judges_it(config):
    def ask(*words):
        return request(parse("offline_metrics", "doc", ["--config", config, *words]))

    for words in (("--ds", "2026-01-07"), ("--candidates-ds", "2026-01-07"), ("--ds", "2026-01-07", "--candidates-ds", "2026-01-07")):
        asked = ask(*words, "--truth-ds", "2026-01-09")
        assert (asked.ds, asked.truth_ds) == ("2026-01-07", "2026-01-09")
        again = request(parse("offline_metrics", "doc", asked.arguments()))
        assert (again.ds, again.truth_ds, again.arguments()) == (asked.ds, asked.truth_ds, asked.arguments())
    assert ask("--candidates-ds", "2026-01-07").truth_ds is None
    days = ("--set", "source.train_days=2", "--set", "source.lookback_days=1", "--ds", "2026-01-07", "--truth-ds")
    assert ask(*days, "2026-01-10").truth_ds == "2026-01-10"
    with pytest.raises(UsageError, match="is 4 days after ds 2026-01-07   its clicks go back 3 days"):
        ask(*days, "2026-01-11")
    for truth_ds in ("2026-01-07", "2026-01-06"):
        with pytest.raises(UsageError, match="is not after ds 2026-01-07   give a day after it") as caught:
            ask("--ds", "2026-01-07", "--truth-ds", truth_ds)
        assert caught.value.exit_code == 2
    with pytest.raises(SettingsError, match=r"error\[T101\] --truth-ds: 1 fault\n  'tomorrow' is not a day"):
        ask("--truth-ds", "tomorrow")
    with pytest.raises(UsageError, match="is 2026-01-08, and --ds is 2026-01-07"):
        ask("--ds", "2026-01-07", "--candidates-ds", "2026-01-08")


def test_only_the_job_that_reads_a_later_day_takes_one(config, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("sessions", "doc", ["--config", config, "--truth-ds", "2026-01-09"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --truth-ds" in capsys.readouterr().err


def test_arguments_ask_for_the_same_again(ask):
    asked = ask("--ds", "2026-01-07", "--set", "source.path='a b; c'", "--set", "trainer.epochs=3", "--force", "--log-format", "text")
    again = request(parse("job", "doc", shlex.split(shlex.join(asked.arguments()))))
    assert again.arguments() == asked.arguments()
    assert again.settings == asked.settings


@pytest.mark.parametrize(
    "words",
    [
        ("--ds", "../../x"),
        ("--ds", "2026-02-30"),
        ("--ds", ""),
        ("--run-id", ""),
        ("--variant", "a/../b"),
        ("--variant", "_runs"),
        ("--run-id", "x; rm -rf ~"),
        ("--run-id", "'\""),
        ("--set", "trainer.epoch=3"),
    ],
)
def test_hostile_or_wrong_options_are_settings_errors_and_write_nothing(ask, tmp_path, words):
    with pytest.raises(SettingsError):
        ask(*words)
    assert [p.name for p in tmp_path.iterdir()] == ["my.yaml"]


def test_unknown_options_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("job", "doc", ["--frobnicate"])
    assert caught.value.code == errors.USAGE
    assert "--frobnicate" in capsys.readouterr().err


# ---- exit codes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LockedError("x", ["y"]), 5),
        (StorageError("x", ["full"]), 1),
        (StorageError("x", ["read-only"], exit_code=2), 2),
        (RuntimeError("x"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (SystemExit(None), 0),
        (SystemExit("message"), 1),
    ],
)
def test_exit_codes(error, code, capsys):
    def body():
        raise error

    assert exit_code(error) == code
    assert guarded(body) == code
    assert code in errors.EXIT_CODES


def test_known_errors_print_no_trace_and_unknown_ones_do(capsys):
    def known():
        raise LockedError("lock", ["held"])

    guarded(known)
    err = capsys.readouterr().err
    assert "error[T501]" in err
    assert "Traceback" not in err

    def unknown():
        raise RuntimeError("surprise")

    guarded(unknown)
    assert "Traceback" in capsys.readouterr().err


def test_terminated_and_interrupted_end_with_their_codes(capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background by a shell, it would be ignored
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        assert guarded(lambda number=number: os.kill(os.getpid(), number) or signal.pause() or 0) == code


# ---- status file -----------------------------------------------------------------------------------------------


def status_of(asked):
    return Store.of(asked.settings).read_status(asked.run_id)


def test_status_while_running_says_where_and_afterwards_ok(ask):
    asked = ask("--run-id", "r1")
    with RunStatus(asked, "sessions") as status:
        running = status_of(asked)
        assert (running["status"], running["exit_code"], running["pid"]) == ("running", None, os.getpid())
        status.stage("sessions", "ok", 1.23456, rows={"sessions": 3})
        status.annotate(peak_rss_mb=7)
    ended = status_of(asked)
    assert (ended["status"], ended["exit_code"], ended["command"], ended["errors"]) == ("ok", 0, "sessions", [])
    (stage,) = ended["stages"]
    assert (stage["stage"], stage["status"], stage["seconds"], stage["rows"], stage["peak_rss_mb"]) == (
        "sessions",
        "ok",
        1.235,
        {"sessions": 3},
        7,
    )
    assert ended["started_at"] <= stage["ended_at"] <= ended["ended_at"]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LockedError("lock", ["held"]), 5, "held"),
        (RuntimeError("surprise"), 1, "surprise"),
        (SystemExit(143), 143, "143"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
    ],
)
def test_status_of_a_failed_run_keeps_exit_code_and_error(ask, error, code, text):
    asked = ask("--run-id", "r1")

    def fail():
        with RunStatus(asked, "sessions") as status:
            status.stage("sessions", "failed", 0.1)
            raise error

    with pytest.raises(type(error)):
        fail()
    ended = status_of(asked)
    assert (ended["status"], ended["exit_code"]) == ("failed", code)
    assert text in ended["errors"][0]


def test_commands_under_one_run_id_keep_each_others_stages_and_a_repeated_stage_counts_once(ask):
    asked = ask("--run-id", "r1")
    for command, state in (("ingest", "ok"), ("events", "failed"), ("events", "ok")):
        with RunStatus(asked, command) as status:
            status.stage(command, state, 0.1)
    assert [(s["stage"], s["status"]) for s in status_of(asked)["stages"]] == [("ingest", "ok"), ("events", "ok")]


def test_damaged_status_file_is_replaced(ask, tmp_path):
    asked = ask("--run-id", "r1")
    (tmp_path / "root" / "_runs").mkdir(parents=True)
    (tmp_path / "root" / "_runs" / "r1.json").write_text("{")
    with RunStatus(asked, "events"):
        pass
    assert status_of(asked)["status"] == "ok"


def test_a_full_disk_does_not_hide_what_failed_before(ask, monkeypatch):
    status = RunStatus(ask("--run-id", "r1"), "events")

    def full(*_):
        raise StorageError("root", ["the disk is full"])

    def fail():
        with status:
            monkeypatch.setattr(Store, "write_status", full)
            status.stage("events", "failed", 0.1)
            raise RuntimeError("first")

    with pytest.raises(RuntimeError, match="first"):
        fail()
    with pytest.raises(StorageError):
        status.stage("events", "ok", 0.1)


# ---- log -------------------------------------------------------------------------------------------------------


def test_log_lines_are_json_or_text_on_stderr(capsys):
    Log("json", run_id="r1")("stage", stage="events", rows={"events": 3})
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["run_id"], line["stage"], line["rows"]) == ("stage", "r1", "events", {"events": 3})
    Log("text")("stage", stage="events")
    captured = capsys.readouterr()
    assert captured.err.endswith("stage stage=events\n")
    assert captured.out == ""
