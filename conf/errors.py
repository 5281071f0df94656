"""The errors a user can meet, each with its exit code; a message names every fault at once, and what to type to mend it."""

from collections.abc import Sequence
from dataclasses import dataclass

OK, UNEXPECTED, USAGE, NOT_READY, GATE, LOCKED, BAD_DATA, TRAINING = 0, 1, 2, 3, 4, 5, 6, 7

EXIT_CODES: dict[int, str] = {
    OK: "ok",
    UNEXPECTED: "unexpected error",
    USAGE: "settings, usage or input schema is wrong; a retry will not help",
    NOT_READY: "an input is not ready; retry later",
    GATE: "a quality gate refused the result",
    LOCKED: "another run holds the lock; retry later",
    BAD_DATA: "bad data",
    TRAINING: "training failed",
    130: "interrupted",
    143: "terminated",
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    what: the fault in a phrase. found: what was there instead ("" = nothing to show). fix: what to do or type ("" = nothing known).
    """

    what: str
    found: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "   ".join(part for part in (self.what, self.found, self.fix) if part)


class TrichannelError(Exception):
    """A failure with a known cause. `code` is printed for searching in the docs, `exit_code` ends the process."""

    code = "T000"
    exit_code = UNEXPECTED
    closing = "nothing was published"

    def __init__(self, where: str, faults: Sequence[Fault | str]) -> None:
        self.where = where
        self.faults = [fault if isinstance(fault, Fault) else Fault(fault) for fault in faults]
        super().__init__(self.render())

    def render(self) -> str:
        """The whole message: one header, one line a fault, one closing line with the exit code."""
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = [f"error[{self.code}] {self.where}: {count}"]
        lines += [f"  {fault}" for fault in self.faults]
        lines.append(f"{self.closing}; exit {self.exit_code}")
        return "\n".join(lines)


class SettingsError(TrichannelError):
    """The settings are wrong."""

    code, exit_code, closing = "T101", USAGE, "nothing was run"


class UsageError(TrichannelError):
    """The command is wrong."""

    code, exit_code, closing = "T102", USAGE, "nothing was run"


class SchemaError(TrichannelError):
    """A table or file has other columns than agreed."""

    code, exit_code = "T103", USAGE


class StorageError(TrichannelError):
    """The storage refuses: full (exit 1), not writable or unknown (exit 2, a setting to mend), or it does not answer (exit 3)."""

    code = "T201"

    def __init__(self, where: str, faults: Sequence[Fault | str], *, exit_code: int = UNEXPECTED) -> None:
        self.exit_code = exit_code
        super().__init__(where, faults)


class NotReadyError(TrichannelError):
    """An input is not there yet."""

    code, exit_code = "T301", NOT_READY


class GateError(TrichannelError):
    """A quality gate refuses to publish."""

    code, exit_code = "T401", GATE


class LockedError(TrichannelError):
    """Another run holds the lock."""

    code, exit_code = "T501", LOCKED


class BadDataError(TrichannelError):
    """Data is damaged or breaks a promise of its table."""

    code, exit_code = "T601", BAD_DATA


class TrainingError(TrichannelError):
    """Training failed; the last good checkpoint is kept. exit_code: another one where a trainer in processes of its own failed of it."""

    code = "T701"

    def __init__(self, where: str, faults: Sequence[Fault | str], *, exit_code: int = TRAINING) -> None:
        self.exit_code = exit_code
        super().__init__(where, faults)
