"""Many days, one after the other in one Spark session, or some ahead at a time: each a run of its own; one that fails stops no other."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta

from pyspark.sql import SparkSession

from conf import errors
from conf.command import Log, Request, RunStatus, Timer, exit_code
from conf.errors import Fault, SchemaError, TrichannelError, UsageError
from conf.names import check_ds, check_name
from spark_jobs.days_ahead import run_ahead, stages_apart
from spark_jobs.hive_views import is_asked
from spark_jobs.pipeline import closing_line, describe, plan, run_stages, stages_until
from spark_jobs.session import session

# What a retry may mend weighs less than what needs a person.
BY_WEIGHT = (
    errors.OK, errors.NOT_READY, errors.LOCKED, errors.UNEXPECTED, errors.TRAINING, errors.GATE, errors.BAD_DATA, errors.USAGE,
)  # fmt: skip


class BackfillError(TrichannelError):
    """Days that failed, one fault each."""

    code, closing = "T801", "all other days are done"

    def __init__(self, where: str, faults: Sequence[Fault | str], *, exit_code: int, closing: str = closing) -> None:
        self.exit_code, self.closing = exit_code, closing
        super().__init__(where, faults)


def backfill(asked: Request, start: str, end: str, *, only_missing: bool = False, until: str | None = None, max_parallel: int = 1) -> int:
    """Run every day from start to end, both included, the oldest first; one line a day.

    max_parallel: that many days at a time run ahead, as far as their stages read nothing of another day; what is left, and days that
    failed there, come in their turn.

    Raises:
        UsageError: a bad day, or start after end. BackfillError: days failed; its exit code is that of the worst.
    """
    days, stages = [day_of(asked, ds) for ds in days_between(start, end)], stages_until(until, asked.settings)
    present = {day.ds for day in days if only_missing and is_present(day, stages)}
    if asked.dry_run:
        for day in days:
            planned = [stage for stage in plan(day) if stage.name in stages]
            print(f"ds={day.ds} present" if day.ds in present else describe(planned, day))
        return 0
    with RunStatus(asked, "backfill") as status, OneSession(hive=is_asked(asked)) as spark:
        done = ahead([day for day in days if day.ds not in present], stages, max_parallel) if max_parallel > 1 else frozenset()

        def run(day: Request) -> str:
            """The day's line; raises what made it fail."""
            if day.ds in present:
                return f"present ds={day.ds}"
            day = replace(day, force=day.force and day.ds not in done)
            with RunStatus(day, "run") as own:
                run_stages(stages, spark.get(), day, own)
            return closing_line(day, stages)

        run_days(days, run, status, spark.restart)
    return 0


def ahead(days: Sequence[Request], stages: Sequence[str], num: int) -> frozenset[str]:
    """Run the stages that need no other day, of the days that are not up to date, `num` days at a time; the days that did well."""
    apart = stages_apart(stages, days[0].settings) if days else ()
    late = [day for day in days if any(stage.reason for stage in plan(day) if stage.name in apart)]
    if len(late) < 2:
        return frozenset()
    return frozenset(ds for ds, code in run_ahead(late, apart[-1], num=num).items() if code == 0)


def days_between(start: str, end: str) -> list[str]:
    """Every day from start to end, both included. Raises SettingsError for what is no day, UsageError if start lies after end."""
    first, last = date.fromisoformat(check_ds(start, "--start")), date.fromisoformat(check_ds(end, "--end"))
    if first > last:
        raise UsageError("backfill", [Fault(f"--start {start} lies after --end {end}", fix="give the oldest day first")])
    return [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]


def day_of(asked: Request, ds: str) -> Request:
    """The request for one of the days, whose run has a name and a status file of its own."""
    run_id = check_name("--run-id", f"{asked.run_id}.{ds}")
    return replace(asked, ds=ds, run_id=run_id, log=Log(asked.log.format, run_id=run_id))


def is_present(day: Request, stages: Sequence[str]) -> bool:
    """Whether every stage has a committed run that this day's readers would take, made by whatever settings."""
    return all(day.store.find(stage, day.ds, day.settings) for stage in stages)


def run_days(days: Sequence[Request], run: Callable[[Request], str], status: RunStatus, restart: Callable[[], None]) -> None:
    """Run day by day and print each one's line; after a failure of unknown cause `restart` first, as Spark itself may be what died.

    Raises:
        BackfillError: at the end, naming the days that failed; at once where the settings or the command are wrong.
    """
    failed: list[tuple[int, Fault]] = []
    for number, day in enumerate(days, start=1):
        timer = Timer()
        try:
            print(run(day), flush=True)
        except Exception as error:
            code = exit_code(error)
            failed.append((code, Fault(f"ds={day.ds} exit {code}", _cause(error), f"status file: _runs/{day.run_id}.json")))
            status.stage(day.ds, "failed", timer.seconds, run_id=day.run_id, exit_code=code)
            print(f"failed ds={day.ds} exit={code} run={day.run_id}", flush=True)
            if code == errors.USAGE and not isinstance(error, SchemaError):  # it would be as wrong tomorrow
                left = len(days) - number
                raise _all(failed, f"{left} later days were not tried" if left else BackfillError.closing) from error
            if not isinstance(error, TrichannelError):
                traceback.print_exc()
                restart()
        else:
            status.stage(day.ds, "ok", timer.seconds, run_id=day.run_id)
    if failed:
        raise _all(failed, BackfillError.closing)


def _all(failed: Sequence[tuple[int, Fault]], closing: str) -> BackfillError:
    worst = max((code for code, _ in failed), key=lambda code: BY_WEIGHT.index(code) if code in BY_WEIGHT else len(BY_WEIGHT))
    return BackfillError("backfill", [fault for _, fault in failed], exit_code=worst, closing=closing)


def _cause(error: Exception) -> str:
    if isinstance(error, TrichannelError):
        return f"{error.where}: " + "; ".join(fault.what for fault in error.faults)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


class OneSession:
    """A Spark session that starts when the first day needs it and is stopped at the end."""

    def __init__(self, *, hive: bool = False) -> None:
        self._hive = hive
        self._spark: SparkSession | None = None

    def get(self) -> SparkSession:
        """The session, started now if there is none."""
        self._spark = self._spark or session("pipeline", hive=self._hive)
        return self._spark

    def restart(self) -> None:
        """Stop the session, so that the next day gets a new one."""
        spark, self._spark = self._spark, None
        if spark is not None:
            with suppress(Exception):  # it may be dead, which is why
                spark.stop()

    def __enter__(self) -> "OneSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.restart()
