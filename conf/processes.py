"""When a process began, which tells it from a later one of the same number; by /proc where there is one: psutil is not on every machine."""

import os
from pathlib import Path

_PROC = Path("/proc")


def start_time(pid: int) -> float | None:
    """Epoch seconds at which the process began; None where it has ended, reaped or not. PermissionError where it may not be seen."""
    if not (_PROC / "self" / "stat").exists():
        return _by_psutil(pid)
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        booted = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime "))  # seconds
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): after the name, which may hold anything, stand state (field 3) and so on; 22 is the start in ticks since the boot
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":  # killed, and its parent has not looked yet: it writes nothing any more
        return None
    return float(booted.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _by_psutil(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error
