"""What every command shares: its arguments, log lines, run status file and exit codes."""

import argparse
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from types import FrameType
from typing import Any, NoReturn

from conf import errors
from conf.errors import Fault, UsageError
from conf.jobs import JOBS
from conf.manifest import new_run_id, now
from conf.names import check_ds, check_name
from conf.settings import Settings, load
from conf.storage import MAIN, Store


@dataclass(frozen=True)
class Request:
    """One command as the user gave it, checked.

    truth_ds: the later day whose clicks judge those of ds, for the job that can. since: the earlier day that a job reads; None = the last.
    """

    config: str
    settings: Settings
    overrides: tuple[str, ...]
    ds: str
    variant: str
    run_id: str
    force: bool
    break_lock: bool
    dry_run: bool
    log: "Log"
    truth_ds: str | None = None
    since: str | None = None

    @property
    def store(self) -> Store:
        """The tables this request reads and writes."""
        return Store.of(self.settings, self.variant)

    def arguments(self) -> list[str]:
        """The same request as arguments for another process."""
        words = ["--config", self.config, "--ds", self.ds, "--variant", self.variant, "--run-id", self.run_id]
        for override in self.overrides:
            words += ["--set", override]
        for name, day in (("--truth-ds", self.truth_ds), ("--since", self.since)):
            words += [] if day is None else [name, day]
        return words + ["--force"] * self.force + ["--break-lock"] * self.break_lock + ["--log-format", self.log.format]


class Log:
    """One line an event on stderr, as JSON or text."""

    def __init__(self, log_format: str = "json", *, run_id: str = "") -> None:
        self.format, self.run_id = log_format, run_id

    def __call__(self, event: str, **values: Any) -> None:
        """Print one event."""
        if self.format == "json":
            line = json.dumps({"time": now(), "event": event, "run_id": self.run_id, **values}, default=str)
        else:
            line = f"{now()} {event} " + " ".join(f"{key}={value}" for key, value in values.items())
        print(line, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every job and verb takes."""
    parser.add_argument(
        "--config", default="demo", metavar="NAME_OR_FILE", help="packaged settings by name, or a YAML file (default: demo)"
    )
    parser.add_argument("--ds", metavar="YYYY-MM-DD", help="the last day included (default: source.default_ds)")
    parser.add_argument("--variant", default=MAIN, metavar="NAME", help="where the tables go, beside production's 'main'")
    parser.add_argument("--run-id", metavar="ID", help="name of this run (default: time and a random part)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")
    parser.add_argument("--force", action="store_true", help="do it again even if nothing changed")
    parser.add_argument("--break-lock", action="store_true", help="take the lock of a run that you know is dead")
    parser.add_argument("--log-format", choices=("json", "text"), default="json", help="log lines on stderr (default: json)")


def add_truth_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a job that also judges a published day by a later one."""
    parser.add_argument("--candidates-ds", metavar="YYYY-MM-DD", help="the same as --ds: the day whose candidates are scored")
    parser.add_argument("--truth-ds", metavar="YYYY-MM-DD", help="score against the clicks after ds, up to and including this day")


def add_since_argument(parser: argparse.ArgumentParser) -> None:
    """The option of a job that reads tables of an earlier day."""
    parser.add_argument("--since", metavar="YYYY-MM-DD", help="the earlier day whose candidates are read (default: the last before ds)")


def request(arguments: argparse.Namespace) -> Request:
    """The parsed arguments, with settings loaded and names checked. Raises SettingsError, UsageError."""
    settings = load(arguments.config, arguments.set)
    ds = _day(arguments, settings)
    # An empty value is not a missing one: with `--ds "$DAY"` and DAY unset, the default day would be run by mistake.
    run_id = check_name("--run-id", new_run_id() if arguments.run_id is None else arguments.run_id)
    return Request(
        config=arguments.config,
        settings=settings,
        overrides=tuple(arguments.set),
        ds=ds,
        variant=check_name("--variant", arguments.variant),
        run_id=run_id,
        force=arguments.force,
        break_lock=arguments.break_lock,
        dry_run=arguments.dry_run,
        log=Log(arguments.log_format, run_id=run_id),
        truth_ds=_truth_day(arguments, settings, ds),
        since=_earlier_day(arguments, ds),
    )


def _day(arguments: argparse.Namespace, settings: Settings) -> str:
    """The day of --ds or --candidates-ds, or the default one; raises UsageError where the two differ."""
    given = [day for day in (arguments.ds, getattr(arguments, "candidates_ds", None)) if day is not None]
    if len(set(given)) > 1:
        raise UsageError("--candidates-ds", [Fault(f"is {given[1]}, and --ds is {given[0]}", fix="they are the same thing: give one")])
    return check_ds(given[0] if given else settings.source.default_ds)


def _truth_day(arguments: argparse.Namespace, settings: Settings, ds: str) -> str | None:
    """The day of --truth-ds, or None; raises UsageError unless its clicks hold every day after ds."""
    truth_ds = getattr(arguments, "truth_ds", None)
    if truth_ds is None:
        return None
    days = (date.fromisoformat(check_ds(truth_ds, "--truth-ds")) - date.fromisoformat(ds)).days
    if days < 1:
        raise UsageError("--truth-ds", [Fault(f"{truth_ds} is not after ds {ds}", fix="give a day after it")])
    source = settings.source
    if source.train_days is not None and days > source.train_days + source.lookback_days:
        found = f"its clicks go back {source.train_days + source.lookback_days} days (source.train_days, source.lookback_days)"
        raise UsageError("--truth-ds", [Fault(f"{truth_ds} is {days} days after ds {ds}", found, "give a day that is nearer")])
    return str(truth_ds)


def _earlier_day(arguments: argparse.Namespace, ds: str) -> str | None:
    """The day of --since, or None; raises UsageError unless it lies before ds."""
    since = getattr(arguments, "since", None)
    if since is not None and check_ds(since, "--since") >= ds:
        raise UsageError("--since", [Fault(f"{since} is not before ds {ds}", fix="give a day before it")])
    return since


class RunStatus:
    """ROOT/_runs/<run_id>.json, written at the start, after each stage, and at the end whatever happens.

    Cluster managers lose exit codes; this file keeps them.
    """

    def __init__(self, asked: Request, command: str) -> None:
        self._store, self._run_id = asked.store, asked.run_id
        self._data: dict[str, Any] = {
            "run_id": asked.run_id,
            "command": command,
            "config": asked.config,
            "ds": asked.ds,
            "variant": asked.variant,
            "status": "running",
            "exit_code": None,
            "host": socket.gethostname(),  # with status "running" and no such process, the run was killed
            "pid": os.getpid(),
            "started_at": now(),
            "ended_at": None,
            "stages": [],
            "errors": [],
        }

    def __enter__(self) -> "RunStatus":
        with suppress(errors.BadDataError):  # a damaged file is simply replaced
            # a day whose stages are commands of their own, all under one run id, keeps them all
            self._data["stages"] = (self._store.read_status(self._run_id) or {}).get("stages", [])
        self._write()
        return self

    def stage(self, name: str, status: str, seconds: float, **values: Any) -> None:
        """Add a finished stage, in place of an earlier attempt at it: status ok, skipped or failed."""
        entry = {"stage": name, "status": status, "seconds": round(seconds, 3), "ended_at": now(), **values}
        self._data["stages"] = [stage for stage in self._data["stages"] if stage["stage"] != name] + [entry]
        try:
            self._write()
        except errors.TrichannelError:
            if status != "failed":
                raise
            # as in __exit__: what made the stage fail is what to report

    def annotate(self, **values: Any) -> None:
        """Add values to the last stage."""
        if self._data["stages"]:
            self._data["stages"][-1].update(values)
            self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        code = 0 if error is None else exit_code(error)
        self._data.update(status="ok" if code == 0 else "failed", exit_code=code, ended_at=now())
        if error is not None:
            self._data["errors"] = [str(error) or type(error).__name__]
        try:
            self._write()
        except errors.TrichannelError:
            if error is None:
                raise
            # the first error is the one to report; a full disk that stopped the run stops this file too

    def _write(self) -> None:
        self._store.write_status(self._run_id, self._data)


def exit_code(error: BaseException) -> int:
    """The documented exit code of an exception."""
    if isinstance(error, errors.TrichannelError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else errors.UNEXPECTED


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def guarded(body: Callable[[], int]) -> int:
    """Run a command's body; print a known error as it is, an unknown one with its trace; return the exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return body()
    except errors.TrichannelError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was being written was not published", file=sys.stderr, flush=True)
        return 130
    except SystemExit as error:
        return exit_code(error)
    except Exception:
        traceback.print_exc()
        print(f"unexpected error; exit {errors.UNEXPECTED}", file=sys.stderr, flush=True)
        return errors.UNEXPECTED


def parse(prog: str, description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the common options, and those of a job that reads a later day; wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_arguments(parser)
    if prog in JOBS and JOBS[prog].later:
        add_truth_arguments(parser)
    if prog in JOBS and JOBS[prog].before:
        add_since_argument(parser)
    return parser.parse_args(argv)


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Elapsed time."""
        return time.monotonic() - self._start
