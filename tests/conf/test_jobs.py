"""The jobs of the day: every input has one producer, earlier in the list; hashes see what shapes a table and nothing else."""

import importlib.util

import pytest

from conf import jobs
from conf.jobs import JOBS, config_hash, module_of, producer, upstream
from conf.settings import Settings
from conf.tables import ARTEFACTS, TABLES

OF_CLICKS = tuple(job for job in JOBS if job != "ab_test")  # which reads a log of its own


def settings(**sections) -> Settings:
    return Settings.model_validate(sections)


def test_inputs_are_published_by_earlier_jobs_only():
    published: set[str] = set()
    for name, spec in JOBS.items():
        assert set(spec.inputs) <= published, f"{name} reads what no earlier job publishes"
        assert not set(spec.outputs) & published, f"{name} publishes what another job does"
        published |= set(spec.outputs)


def test_every_table_has_a_producer():
    known = {table for table in TABLES if table not in ("vocab", "candidates_lists", "samples_sequences")} | set(ARTEFACTS)
    assert {producer(table) for table in known} <= set(JOBS)
    assert producer("vocab_city") == "vocabulary"
    with pytest.raises(KeyError):
        producer("clickz")


def test_vocabularies_are_named_by_field():
    assert "vocab_city" in jobs.outputs("vocabulary", Settings())
    assert "vocab_*" not in jobs.outputs("vocabulary", Settings())
    narrow = settings(model={"fields": {"user": ["user_id"], "item": ["item_id"]}})
    assert [t for t in jobs.inputs("train", narrow) if t.startswith("vocab_")] == ["vocab_user_id", "vocab_item_id"]


def test_all_pairs_are_published_and_read_of_an_earlier_day_where_the_settings_say_so():
    kept = settings(cooc={"keep_pairs": True})
    going_on = settings(cooc={"keep_pairs": True, "increment": True}, vocabulary={"previous_ds": "latest"})
    assert [jobs.outputs("cooccurrence", chosen) for chosen in (Settings(), kept, going_on)] == [("cooc",), *[("cooc", "cooc_pairs")] * 2]
    assert [jobs.reused("cooccurrence", chosen) for chosen in (Settings(), kept, going_on)] == [(), (), ("cooc_pairs",)]
    assert {job for job in JOBS if jobs.reused(job, going_on)} == {"cooccurrence"}


def test_upstream_is_in_order_of_the_day():
    assert upstream("ingest") == ()
    assert upstream("cooccurrence") == ("vocabulary", "events", "sessions")
    for name in JOBS:
        assert list(upstream(name)) == [job for job in JOBS if job in upstream(name)]


def test_declared_settings_exist():
    for spec in JOBS.values():
        assert len(Settings().section_hash(spec.settings)) == 16


@pytest.mark.parametrize(
    ("changed", "unchanged", "sections"),
    [
        (("train", "embed", "candidates", "report"), ("ingest", "events", "sessions", "samples"), {"trainer": {"epochs": 9}}),
        (
            ("sessions", "cooccurrence", "candidates"),
            ("ingest", "vocabulary", "events", "samples", "train", "embed"),
            {"session": {"gap_s": 60}},
        ),
        (("cooccurrence", "candidates"), ("sessions", "train", "index"), {"cooc": {"beta": 2.0}}),
        (("index", "neighbours", "candidates"), ("train", "embed"), {"channels": {"top": 77}}),
        (OF_CLICKS, (), {"source": {"min_user_events": 2}}),
        (OF_CLICKS, (), {"model": {"fields": {"item": ["item_id"]}}}),
        ((), tuple(JOBS), {"storage": {"root": "elsewhere"}, "gates": {"min_rows": 7}}),
    ],
)
def test_hash_changes_for_the_jobs_that_a_setting_shapes_and_no_other(changed, unchanged, sections):
    before, after = Settings(), settings(**sections)
    assert {job for job in changed if config_hash(job, before) == config_hash(job, after)} == set()
    assert {job for job in unchanged if config_hash(job, before) != config_hash(job, after)} == set()


def test_hashes_of_jobs_differ_and_never_change_by_chance():
    hashes = [config_hash(job, Settings()) for job in JOBS]
    assert len(set(hashes)) == len(JOBS)
    assert hashes == [config_hash(job, Settings()) for job in JOBS]


@pytest.mark.parametrize("job", JOBS)
def test_module_of_each_job_exists(job):
    assert importlib.util.find_spec(module_of(job)) is not None
