"""Every job of the day: what it reads, what it publishes, and which settings shape its outputs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from conf.settings import Settings

VOCABULARIES: Final = "vocab_*"  # stands for one table per embedded field


@dataclass(frozen=True)
class JobSpec:
    """inputs, outputs: table names. settings: sections (or section.key) that enter the hash; a job reads no others.

    module: where its command lives; "" = spark_jobs.<name>.
    later: tables it also reads of a later day, where the command names one (--truth-ds).
    before: tables it also reads of the last day before ds that has them, if there is one (conf.inputs.before_manifests).
    code: raised by hand when the same settings would now give other rows, so that old outputs are not taken for new ones.
    continues: those of its own tables that it reads of an earlier day, where section `vocabulary` names one.
    reuses: those of its own tables of such a day that only save it work: it does without where they are not there.
    optional: inputs that are read only where a section asks for them (property `tables` of objectives, embeddings, index and merge).
    files: settings that name files of the user's, whose change makes the job run anew.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[str, ...]
    module: str = ""
    later: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    code: int = 1
    continues: tuple[str, ...] = ()
    reuses: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


JOBS: Final[Mapping[str, JobSpec]] = {
    "ingest": JobSpec(
        (),
        ("clicks", "users", "items", "rejects"),
        ("source", "model.fields"),  # the fields are columns of its tables
        files=("source.path", "source.attributes", "source.users.path", "source.items.path", "source.erasure"),
    ),
    "vocabulary": JobSpec(
        ("clicks", "users", "items"),
        ("user_index", "item_index", "user_feat", "item_feat", VOCABULARIES),
        ("split", "vocabulary", "model.fields"),
        code=2,
        continues=("user_index", "item_index", VOCABULARIES),
    ),
    "events": JobSpec(("clicks", "user_index", "item_index"), ("events", "user_state"), ("split", "session.max_user_clicks")),
    "sessions": JobSpec(("events",), ("sessions",), ("session",)),
    "cooccurrence": JobSpec(("events", "sessions", "item_feat"), ("cooc", "cooc_pairs"), ("session", "cooc"), reuses=("cooc_pairs",)),
    "semantics": JobSpec(("items", "item_index"), ("sem_nn",), ("semantics",)),
    "samples": JobSpec(("events", "user_feat", "item_feat"), ("samples",), ("samples", "model.history", "model.fields", "trainer.streams")),
    "train": JobSpec(
        ("samples", "user_feat", "item_feat", "user_state", VOCABULARIES, "cooc", "cooc_pairs", "sem_nn"),
        ("model",),
        # refit, seen: of the validation that picks the best epoch, and of what follows it
        ("model", "base", "objectives", "mining", "trainer", "split.refit", "channels.seen"),
        "trainer.train",
        continues=("model",),
        optional=("cooc", "cooc_pairs", "sem_nn"),
    ),
    "embed": JobSpec(
        ("model", "user_state", "user_feat", "item_feat", "user_index", "item_index"),
        ("embeddings_user", "embeddings_item"),
        ("embeddings", "model.history"),  # history: of users whose vectors are the mean of what they clicked
        "retrieval.embed",
        optional=("user_index", "item_index"),
        files=("embeddings.path",),
    ),
    "index": JobSpec(
        ("embeddings_user", "embeddings_item", "user_state", "item_feat", "item_index"),
        ("index",),
        ("index", "channels.top", "channels.u2i.space"),  # top: as deep as lists go, recall is measured
        "retrieval.index",
        optional=("item_index",),
        files=("index.blocklist",),
    ),
    "neighbours": JobSpec(
        ("index", "embeddings_user", "embeddings_item", "user_state"),
        ("neighbours_user", "neighbours_item"),
        ("channels.u2u2i", "channels.i2i", "channels.top"),
        "retrieval.neighbours",
    ),
    "candidates": JobSpec(
        (
            *("embeddings_user", "index", "neighbours_user", "neighbours_item", "cooc", "user_state", "user_index", "item_index"),
            *("item_feat", "events"),
        ),
        ("channel_candidates", "candidates"),
        ("channels", "merge", "model.history"),
        "retrieval.candidates",
        optional=("item_feat", "events"),
    ),
    "similar": JobSpec(
        ("index", "embeddings_user", "embeddings_item", "user_index", "item_index"),
        ("similar_users", "similar_items"),
        ("similar",),
        "retrieval.similar",
    ),
    "delta": JobSpec(("candidates",), ("candidates_delta",), (), before=("candidates",)),
    "click_ranks": JobSpec(
        ("events", "user_feat", "item_feat", "model", "index"),
        ("click_ranks",),
        (
            *("evaluation.at", "evaluation.max_users", "evaluation.max_clicks", "split.seed"),
            *("channels.top", "channels.seen", "channels.u2i.space", "model.history"),
        ),
        "retrieval.click_ranks",
    ),
    "offline_metrics": JobSpec(
        (
            *("channel_candidates", "candidates", "events", "user_state", "item_feat", "user_index", "item_index"),
            *("users", "embeddings_user", "embeddings_item", "click_ranks"),
        ),
        ("metrics_user", "metrics"),
        ("evaluation", "source", "split", "channels", "model.history", "cooc.category_field"),
        later=("clicks",),
        code=3,
    ),
    "yesterday": JobSpec(
        ("clicks",),
        ("metrics_yesterday",),
        ("evaluation.at", "evaluation.max_users", "split.seed"),
        before=("candidates", "channel_candidates", "user_index", "item_index"),
    ),
    "report": JobSpec(
        (
            *("clicks", "users", "items", "events", "user_state", "sessions", "cooc", "sem_nn", "samples", "model", "index"),
            *("channel_candidates", "candidates", "metrics", "metrics_user", "metrics_yesterday", "user_index", "item_index"),
        ),
        ("report",),
        ("report", "evaluation"),
        code=2,
    ),
    "ab_test": JobSpec((), ("ab_report",), ("ab",), files=("ab.path",)),
}


def stages(settings: Settings) -> tuple[str, ...]:
    """The jobs of a day by these settings, in its order: all but those that it does not ask for."""
    trained = settings.embeddings.path is None
    asked = {
        "semantics": settings.semantics.kind is not None,
        **{"samples": trained, "train": trained},
        "neighbours": bool({"u2u2i", "i2i"} & set(settings.channels.names)),
        "similar": bool(settings.similar.tables),
        "delta": settings.publish.delta,
        "click_ranks": trained and _asks_as_of_click(settings),
        "ab_test": False,  # of a test, not of a day: it has a start, and what it says must reach who asked
    }
    return tuple(name for name in JOBS if asked.get(name, True))


def _asks_as_of_click(settings: Settings) -> bool:
    held_out = settings.split.kind != "production"
    return held_out and "u2i" in settings.channels.names and settings.evaluation.max_clicks > 0


def outputs(job: str, settings: Settings) -> tuple[str, ...]:
    """The tables the job publishes by these settings, vocabularies by name."""
    return _by_name(JOBS[job].outputs, settings)


def inputs(job: str, settings: Settings) -> tuple[str, ...]:
    """The tables the job reads, vocabularies by name; those that the day does not make or nothing asks for are left out."""
    made = stages(settings)
    unused = (
        set(JOBS[job].optional) - settings.objectives.tables - settings.merge.tables - settings.index.tables - settings.embeddings.tables
    )
    return tuple(table for table in _by_name(JOBS[job].inputs, settings) if table not in unused and producer(table) in made)


def continued(job: str, settings: Settings) -> tuple[str, ...]:
    """The job's own tables that it may read of an earlier day, vocabularies by name."""
    return () if job == "train" and not settings.trainer.warm_start else _by_name(JOBS[job].continues, settings)


def reused(job: str, settings: Settings) -> tuple[str, ...]:
    """The job's own tables of an earlier day that spare it work by these settings."""
    return _by_name(JOBS[job].reuses, settings) if settings.cooc.increment else ()


def module_of(job: str) -> str:
    """The Python module whose `main` runs the job."""
    return JOBS[job].module or f"spark_jobs.{job}"


def producer(table: str) -> str:
    """The job that publishes the table; raises KeyError if none does."""
    for job, spec in JOBS.items():
        if table in spec.outputs or (table.startswith("vocab_") and VOCABULARIES in spec.outputs):
            return job
    raise KeyError(table)


def upstream(job: str, settings: Settings | None = None) -> tuple[str, ...]:
    """The jobs whose tables it reads by these settings (None: by any), in order of the day."""
    wanted = {producer(table) for table in (inputs(job, settings) if settings else JOBS[job].inputs)}
    return tuple(name for name in JOBS if name in wanted)


def config_hash(job: str, settings: Settings) -> str:
    """16 hex digits over every setting that shapes the job's outputs, its own and those of all jobs before it."""
    spec = JOBS[job]
    before = [config_hash(name, settings) for name in upstream(job, settings)]
    parts = [job, str(spec.code), settings.section_hash(spec.settings), *before]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _by_name(names: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    fields = [f"vocab_{field.name}" for field in settings.registry().embedded]
    asked = {
        "cooc_pairs": settings.cooc.keep_pairs,
        **{table: table in settings.similar.tables for table in JOBS["similar"].outputs},
    }
    wanted = [entry for entry in names if asked.get(entry, True)]
    return tuple(name for entry in wanted for name in (fields if entry == VOCABULARIES else [entry]))
