"""What a job reads for a day, of that day and of the one it goes on from, and whether its current run was made from just that."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import date

from conf import jobs
from conf.command import Request
from conf.errors import BadDataError, Fault, NotReadyError, SettingsError
from conf.settings import Settings
from conf.storage import MAIN, Manifest, Record, Store


def input_manifests(job: str, store: Store, ds: str, settings: Settings, *, truth_ds: str | None = None) -> dict[str, Manifest]:
    """Manifests of every input, those of one job of one and the same run; raises NotReadyError naming all that are not there.

    truth_ds: the later day of the tables that the job reads of one.
    """
    try:
        later = store.manifests(jobs.JOBS[job].later, truth_ds, settings) if truth_ds else {}
        return store.manifests(jobs.inputs(job, settings), ds, settings) | later
    except NotReadyError as error:
        raise NotReadyError(f"job {job}, ds={ds}", error.faults) from None


def previous_manifests(job: str, store: Store, ds: str, settings: Settings) -> dict[str, Manifest]:
    """Manifests of the job's own tables of the earlier day that it goes on from, or may spare work by, as far as that day has them.

    {} = it starts anew: the job goes on from nothing, `latest` finds no earlier day, or a rebuild is due.

    Raises:
        NotReadyError: the day that the settings name is not committed, and the job cannot do without.
        SettingsError: it does not lie before ds.
    """
    names, chosen = jobs.continued(job, settings), settings.vocabulary
    own = (*names, *jobs.reused(job, settings))
    record = _previous(job, store, ds, settings, needed=bool(names)) if own and chosen.previous_ds else None
    found = {name: store.load_manifest(name, record) for name in own if name in record.tables} if record else {}
    if not found:
        return {}
    began = epoch_day(next(iter(found.values())))
    due = chosen.rebuild_every_days is not None and (date.fromisoformat(ds) - began).days >= chosen.rebuild_every_days
    return {} if due else found


def before_manifests(job: str, store: Store, ds: str, settings: Settings, *, since: str | None = None) -> dict[str, Manifest]:
    """Manifests of the tables that the job reads of the last day before ds that has them all, whatever its settings; {} = no such day.

    In a variant a day may stand in main, where equal settings shaped it. since: that day and no other; NotReadyError if it lacks one.
    """
    tables = jobs.JOBS[job].before
    if tables and since:
        return store.manifests(tables, since, settings)
    if not tables:
        return {}
    first = jobs.producer(tables[0])
    for day in sorted({*store.days(first), *store.days(first, MAIN)}, reverse=True):
        if day < ds:
            with suppress(NotReadyError, BadDataError):  # an old day that lacks something, or is damaged, must not stop a new one
                return store.manifests(tables, day, settings)
    return {}


def epoch_day(manifest: Manifest) -> date:
    """The day on which the numbers that a vocabulary run goes on with were begun."""
    return date.fromisoformat(str(manifest.facts.get("vocabulary_epoch", manifest.ds)).split("/")[0])


def _previous(job: str, store: Store, ds: str, settings: Settings, *, needed: bool) -> Record | None:
    """The current record of the earlier day, of this variant, else of main where equal settings shaped it. needed: it must be there."""
    named = settings.vocabulary.previous_ds
    if named == "latest":
        days = sorted({*store.days(job), *store.days(job, MAIN)}, reverse=True)
        return next((record for day in days if day < ds and (record := store.find(job, day, settings))), None)
    assert named is not None
    if named >= ds:
        fault = Fault(f"{named} does not lie before the day that is run", f"ds={ds}", "name an earlier day, or latest")
        raise SettingsError("vocabulary.previous_ds", [fault])
    record = store.find(job, named, settings)
    if record is None and needed:
        days = store.days(job)
        had = f"committed days: {', '.join(days[-5:])}" if days else "no day is committed"
        fault = Fault(f"vocabulary.previous_ds: nothing is committed for {named}", had, f"run: trichannel {job} --ds {named}")
        raise NotReadyError(f"job {job}, ds={ds}", [fault])
    return record


def seen_inputs(manifests: Mapping[str, Manifest], before: Mapping[str, Manifest] | None = None) -> dict[str, str]:
    """table -> "variant/ds/run content_hash", as records and manifests keep it; those of the day before as `before_<table>`."""
    earlier = {f"before_{name}": manifest.identity for name, manifest in (before or {}).items()}
    return {name: manifest.identity for name, manifest in manifests.items()} | earlier


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
