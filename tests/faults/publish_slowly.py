"""A script: publish, but wait before the commit until a file appears.

    python -m tests.faults.publish_slowly ROOT RUN CONTENT GO [HEARTBEAT_S EXPIRY_S]

Prints "writing" once everything but the commit is done. Ends with the exit code of the run.
"""

import sys
import time
from pathlib import Path

from conf.command import guarded
from conf.storage import Store
from tests.faults.publishing import publish, settings_at


def main(root: str, run_id: str, content: str, go: str, heartbeat_s: str = "20", expiry_s: str = "300") -> int:
    """Publish when `go` exists."""
    settings = settings_at(root, storage={"heartbeat_s": float(heartbeat_s), "lock_expiry_s": float(expiry_s)})

    def wait() -> None:
        print("writing", flush=True)
        while not Path(go).exists():
            time.sleep(0.01)

    publish(Store.of(settings), settings, run_id, content, before_commit=wait)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(*sys.argv[1:])))
