"""The whole day on tiny generated data, as a user runs it: one command, two Horovod workers, Petastorm."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from conf.settings import Settings, load
from conf.storage import Store

DS = "2026-01-31"
TINY = (
    "source.synthetic.users=400",
    "source.synthetic.items=300",
    "source.synthetic.clicks=14000",
    "source.synthetic.topics=6",
    "model.dim=16",
    "model.hidden=[32]",
    "trainer.epochs=2",
    "trainer.batch=256",
    "evaluation.baselines=[most_pop, itemcf]",
)


@dataclass(frozen=True)
class TinyDay:
    """root: where it lies. stdout, stderr: of the command that made it, as run `first`; "" for a copy."""

    root: Path
    stdout: str = ""
    stderr: str = ""

    @property
    def settings(self) -> Settings:
        return load("demo", [f"storage.root={self.root}", *TINY])

    @property
    def store(self) -> Store:
        return Store.of(self.settings)

    @property
    def arguments(self) -> list[str]:
        """--config, --ds, --set, as any command takes them."""
        sets = [word for override in (f"storage.root={self.root}", *TINY) for word in ("--set", override)]
        return ["--config", "demo", "--ds", DS, *sets]


def trichannel(day: TinyDay, *words: str) -> subprocess.CompletedProcess[str]:
    """`trichannel WORDS` on the day."""
    command = [sys.executable, "-m", "spark_jobs.cli", words[0], *day.arguments, *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def make_tiny_day(root: Path) -> TinyDay:
    """Run the day, some seventy seconds on two cores; of several processes that ask for the same root one runs it."""
    said = root.with_suffix(".json")
    with FileLock(root.with_suffix(".lock")):
        if not said.exists():
            done = trichannel(TinyDay(root), "run", "--run-id", "first")
            assert done.returncode == 0, done.stderr[-6000:]
            said.write_text(json.dumps([done.stdout, done.stderr]))
    return TinyDay(root, *json.loads(said.read_text()))
