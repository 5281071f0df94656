"""A training as a Spark application, whose tasks are the workers: launchers `horovod-spark` and `spark-torch`.

    spark-submit --py-files dist/trichannel.zip trainer/spark_launcher.py --config production --ds 2026-01-31

The only file of the trainer that knows Spark, which it needs on the driver; the workers train as under horovodrun or torchrun.
"""

import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from conf.command import Request, guarded, request
from conf.errors import TRAINING, Fault, TrainingError, UsageError
from conf.launchers import LAUNCHERS
from trainer.train import JOB, parse
from trainer.train import main as train

Training = Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code of the worker that failed first, where it is known."""
    arguments = parse(argv)
    if arguments.dry_run:
        return train(argv)
    return guarded(lambda: run(request(arguments), resume=arguments.resume))


def run(asked: Request, *, resume: bool = False) -> int:
    """Start the Spark application, train on its executors, stop it; raises TrainingError where a worker failed."""
    name, workers = asked.settings.trainer.launcher, asked.settings.trainer.workers
    if name not in STARTS:
        fix = f"set trainer.launcher: {' or '.join(STARTS)}"
        raise UsageError("trainer.launcher", [Fault(f"trainer.launcher is {name}", "started as a Spark application", fix)])
    with tempfile.TemporaryDirectory(prefix="trichannel-") as folder:
        failure = Path(os.environ.setdefault("TRICHANNEL_FAILURE", f"{folder}/failure.json"))
        with application(workers) as spark:
            training = packed([*asked.arguments(), *["--resume"] * resume], files_of(spark))
            try:
                with ended_by_signal(spark):
                    STARTS[name](training, workers, spark)
            except Exception as error:  # whatever Spark, Horovod and torchrun make of it: why it ended, the worker has told
                raise _failed(asked, error, failure) from error
    return 0


def _failed(asked: Request, error: Exception, failure: Path) -> TrainingError:
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # a worker on another machine could not write it
        told = json.loads(failure.read_text(encoding="utf-8"))
    code = int(told.get("exit_code", TRAINING))
    fix = "trichannel train --resume goes on" if code == TRAINING else ""
    fault = Fault("a worker ended", str(told.get("error") or " ".join(str(error).split())[:300]), fix)
    return TrainingError(f"job {JOB}, ds={asked.ds}", [fault], exit_code=code)


# ---- what a worker runs ---------------------------------------------------------------------------------------------


def packed(argv: Sequence[str], files: Sequence[str]) -> Training:
    """The training as a function that travels whole, to Pythons that have no more of ours than the files of --py-files.

    argv: of trainer.train; the settings file that it names travels along. files: where our packages may lie.
    """
    words, known_as = list(argv), dict(_told())
    place = words.index("--config") + 1
    settings = Path(words[place]).read_text(encoding="utf-8") if Path(words[place]).is_file() else None

    def training() -> None:  # a function inside a function is sent by value, one of a module by the module's name
        import os
        import sys
        import tempfile

        os.environ.update(known_as)
        sys.path[:0] = [file for file in files if os.path.exists(file)]
        from trainer.process import leave
        from trainer.train import main as train

        with tempfile.TemporaryDirectory(prefix="trichannel-") as folder:
            if settings is not None:
                words[place] = os.path.join(folder, os.path.basename(words[place]))
                with open(words[place], "w", encoding="utf-8") as file:
                    file.write(settings)
            exit_code = train(words)
        if exit_code != 0:
            leave(exit_code)

    return training


def _told() -> Iterator[tuple[str, str]]:
    """Variables that the one who started this left for the workers."""
    return ((name, value) for name, value in os.environ.items() if name.startswith("TRICHANNEL_"))


def files_of(spark: Any) -> list[str]:
    """Where a worker may find our packages: --py-files in the folder of a task, in the application's own on one machine, or this one's."""
    from pyspark import SparkFiles

    names = [Path(path).name for path in spark.conf.get("spark.submit.pyFiles", "").split(",") if path]
    sent = [os.path.join(folder, name) for name in names for folder in (".", SparkFiles.getRootDirectory())]
    return [*sent, str(Path(__file__).resolve().parents[1])]


# ---- the application ------------------------------------------------------------------------------------------------

# A training that failed is started again by hand, with --resume; and no worker may run twice.
_ONCE = {"spark.task.maxFailures": "1", "spark.stage.maxConsecutiveAttempts": "1", "spark.speculation": "false"}
# What shapes the workers' memory and threads, as the command that started this process set it.
_KEPT = ("OMP_NUM_THREADS", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


@contextmanager
def application(workers: int) -> Iterator[Any]:
    """The Spark session for the block; started by plain Python, on this machine with room for the workers, by the packaged local.conf."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(f"trichannel-{JOB}")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    sizes = resources.files("conf").joinpath("spark/local.conf")
    with resources.as_file(sizes) as path:
        if "PYSPARK_GATEWAY_PORT" not in os.environ:
            given = os.environ.setdefault("PYSPARK_SUBMIT_ARGS", f"--properties-file {shlex.quote(str(path))} pyspark-shell")
            builder = builder if "--master" in given else builder.master(f"local[{workers}]")
        for name, value in _settings().items():
            builder = builder.config(name, value)
        spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


@contextmanager
def ended_by_signal(spark: Any) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C cancel the jobs that the block waits for; then it ends with SystemExit.

    An exception thrown into the wait instead would hang: what leaves the wait asks the JVM for more, which still waits for the jobs.
    """
    told: list[int] = []

    def cancel(number: int, frame: object) -> None:
        told.append(number)
        threading.Thread(target=spark.sparkContext.cancelAllJobs, daemon=True).start()

    before = {number: signal.signal(number, cancel) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Exception:
        if told:
            raise SystemExit(128 + told[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings() -> Mapping[str, str]:
    return _ONCE | {f"spark.executorEnv.{name}": os.environ[name] for name in _KEPT if name in os.environ}


# ---- the two ways ---------------------------------------------------------------------------------------------------


def by_horovod(training: Training, workers: int, spark: Any) -> None:
    """One Horovod process a Spark task."""
    import horovod.spark

    horovod.spark.run(training, num_proc=workers, use_gloo=True, stdout=sys.stdout, stderr=sys.stderr, verbose=0)


def by_torch(training: Training, workers: int, spark: Any) -> None:
    """One torchrun process a Spark task, all at once or none; on GPUs where the application gives one to a task."""
    from pyspark.ml.torch.distributor import TorchDistributor

    use_gpu = spark.conf.get("spark.task.resource.gpu.amount", "0") != "0"
    TorchDistributor(num_processes=workers, local_mode=False, use_gpu=use_gpu).run(training)


STARTS: Mapping[str, Callable[[Training, int, Any], None]] = {"horovod-spark": by_horovod, "spark-torch": by_torch}
assert set(STARTS) == {name for name, launcher in LAUNCHERS.items() if launcher.on_spark}


if __name__ == "__main__":
    sys.exit(main())
