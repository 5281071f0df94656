"""A training as a run of MLflow: its settings, its measures epoch by epoch, the model it published."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conf.errors import Fault, UsageError
from conf.sections.training import Mlflow
from conf.settings import Settings

Log = Callable[..., None]

PUBLISHED = "published"  # tags of the run; not for the log
MEASURED = ("epoch", "refit_epoch", "search", "refit_search")  # events of the log whose numbers are kept


@contextmanager
def tracked(given: Mlflow | None, settings: Settings, name: str, log: Log) -> Iterator[Log]:
    """The log to use meanwhile: the same one, whose numbers MLflow gets, too. given: null = it gets none.

    A training that fails ends its run as failed.

    Raises:
        UsageError: MLflow is not installed.
    """
    if given is None:
        yield log
        return
    try:
        import mlflow
    except ImportError as error:
        raise UsageError("trainer.mlflow", [Fault("MLflow is not installed", str(error), "pip install 'trichannel[mlflow]'")]) from error
    mlflow.set_tracking_uri(given.uri)
    mlflow.set_experiment(given.experiment)
    with mlflow.start_run(run_name=name):
        mlflow.log_params(dict(flat(settings.model_dump(mode="json", include={"model", "base", "objectives", "mining", "trainer"}))))

        def both(event: str, **values: Any) -> None:
            if event == PUBLISHED:
                mlflow.set_tags({name: str(value) for name, value in values.items()})
                return
            log(event, **values)
            if event in MEASURED:
                mlflow.log_metrics(numbers(values), step=int(values["step"]))

        yield both


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """("trainer.optimizer.lr", "0.001"), ... of nested settings."""
    if isinstance(values, dict):
        for key, inner in values.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(values)


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those that are measures, by names that MLflow takes: no @ ("recall at 50")."""
    kept = {name: value for name, value in values.items() if isinstance(value, (int, float)) and name not in ("step", "epoch")}
    return {name.replace("@", " at "): float(value) for name, value in kept.items()}
