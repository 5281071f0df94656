"""What Spark's event log says of the tasks of an application."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One attempt that ended. stage: (id, attempt of the stage). reason: "Success", or why not. Rows: read and written by any way."""

    stage: tuple[int, int]
    index: int
    attempt: int
    speculative: bool
    executor: str
    reason: str
    rows_in: int
    rows_out: int
    launched_ms: int
    run_ms: int


def settings_of_log(folder: Path) -> list[str]:
    """Spark settings that make it write its log there, in one file that is whole after each stage."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        "spark.eventLog.enabled=true",
        f"spark.eventLog.dir={folder.as_uri()}",
        "spark.eventLog.rolling.enabled=false",
        "spark.eventLog.compress=false",
    ]


def tasks(folder: Path) -> list[Task]:
    """Every attempt of every task that the only log in the folder names."""
    (log,) = folder.iterdir()
    events = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return [_task(event) for event in events if event["Event"] == "SparkListenerTaskEnd"]


def _task(event: dict[str, Any]) -> Task:
    info, metrics = event["Task Info"], event.get("Task Metrics") or {}

    def of(*path: str) -> int:
        value: Any = metrics
        for name in path:
            value = value.get(name) or {}
        return int(value or 0)

    return Task(
        stage=(event["Stage ID"], event["Stage Attempt ID"]),
        index=info["Index"],
        attempt=info["Attempt"],
        speculative=info["Speculative"],
        executor=info["Executor ID"],
        reason=event["Task End Reason"]["Reason"],
        rows_in=of("Input Metrics", "Records Read") + of("Shuffle Read Metrics", "Total Records Read"),
        rows_out=of("Output Metrics", "Records Written") + of("Shuffle Write Metrics", "Shuffle Records Written"),
        launched_ms=info["Launch Time"],
        run_ms=of("Executor Run Time"),
    )


def made_good(ended: Iterable[Task], lost: Task) -> bool:
    """Whether another attempt of the same task succeeded, in the same attempt of its stage or in a later one."""
    return any(
        other.reason == "Success" and other.index == lost.index and other.stage[0] == lost.stage[0] and other != lost for other in ended
    )
