"""What a job reads for a day, and whether its current run was made from just that."""

from collections.abc import Mapping

from conf import jobs
from conf.command import Request
from conf.errors import BadDataError, NotReadyError
from conf.settings import Settings
from conf.storage import Manifest, Record, Store


def input_manifests(job: str, store: Store, ds: str, settings: Settings, *, truth_ds: str | None = None) -> dict[str, Manifest]:
    """Manifests of every input, those of one job of one and the same run; raises NotReadyError naming all that are not there.

    truth_ds: the later day of the tables that the job reads of one.
    """
    try:
        later = store.manifests(jobs.JOBS[job].later, truth_ds, settings) if truth_ds else {}
        return store.manifests(jobs.inputs(job, settings), ds, settings) | later
    except NotReadyError as error:
        raise NotReadyError(f"job {job}, ds={ds}", error.faults) from None


def seen_inputs(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """table -> "variant/ds/run content_hash", as records and manifests keep it."""
    return {name: manifest.identity for name, manifest in manifests.items()}


def is_current(record: Record, job: str, settings: Settings, seen: Mapping[str, str]) -> bool:
    """Whether the committed record was made by equal settings from inputs of equal content."""

    def contents(inputs: Mapping[str, str]) -> dict[str, str]:
        return {table: value.rsplit(" ", 1)[-1] for table, value in inputs.items()}

    return record.config_hash == jobs.config_hash(job, settings) and contents(record.inputs) == contents(seen)


def unchanged(job: str, asked: Request, seen: Mapping[str, str]) -> Record | None:
    """The record that the run asked for would only repeat: settings and inputs equal, files in place. None = run it, always if forced."""
    record = asked.store.find(job, asked.ds, asked.settings)
    if record is None or asked.force or not is_current(record, job, asked.settings, seen):
        return None
    try:
        for table in record.tables:
            asked.store.load_manifest(table, record)
    except BadDataError as error:
        asked.log("damaged", stage=job, damaged_run=record.run_id, error=str(error))
        return None
    return record
