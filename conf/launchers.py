"""How the processes of a training are started: the word for it in the settings (trainer.launcher), the command, what they talk through."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Launcher:
    """command: what a user types before the trainer's own arguments; {workers} is how many processes. backend: of trainer.backends."""

    command: str
    backend: str

    def words(self, workers: int) -> list[str]:
        """The command for so many processes."""
        return self.command.format(workers=workers).split()

    @property
    def on_spark(self) -> bool:
        """Whether the processes are tasks of a Spark application."""
        return self.command.startswith("spark-submit")


_SUBMIT: Final = "spark-submit --py-files dist/trichannel.zip trainer/spark_launcher.py"

LAUNCHERS: Final[Mapping[str, Launcher]] = {
    "single": Launcher("python -m trainer.train", "single"),
    "horovod": Launcher("horovodrun -np {workers} --gloo python -m trainer.train", "horovod"),
    "ddp": Launcher("torchrun --standalone --nproc-per-node {workers} -m trainer.train", "ddp"),
    "horovod-spark": Launcher(_SUBMIT, "horovod"),
    "spark-torch": Launcher(_SUBMIT, "ddp"),
}
