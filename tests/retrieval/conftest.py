"""The retrieval jobs run once on a small day; tests look at what they published."""

import shutil
from dataclasses import replace

import pytest

from conf.command import Log, Request
from conf.storage import MAIN, Store
from retrieval import candidates, embed, index, neighbours
from spark_jobs.job import run_job
from tests.retrieval.day import day_settings, publish_day
from tests.trainer.planted import DS

JOBS = {"embed": embed.JOB, "index": index.JOB, "neighbours": neighbours.JOB, "candidates": candidates.JOB}


def ask(day, run_id="r1"):
    return Request("test", day.settings, (), DS, day.store.variant, run_id, force=True, break_lock=False, dry_run=False, log=Log("text"))


@pytest.fixture
def run(spark):
    """run(day, "embed", ..., run_id=...) runs these jobs of retrieval, or all of them."""

    def run_jobs(day, *names, run_id="r1"):
        return [run_job(JOBS[name], spark, ask(day, run_id)) for name in names or JOBS]

    return run_jobs


@pytest.fixture(scope="package")
def day(spark, tmp_path_factory):
    """A day with everything published; read only, but for other variants."""
    made = publish_day(tmp_path_factory.mktemp("day"), facts={"item_key_type": "int64"})
    for job in JOBS.values():
        run_job(job, spark, ask(made))
    return made


@pytest.fixture(scope="package")
def variant(day):
    """variant(name, section={...}) -> the day under other settings: reads of main what those settings leave as it is."""

    def make(name, **sections):
        settings = day_settings(day.settings.storage.root, **sections)
        return replace(day, settings=settings, store=Store.of(settings, name))

    return make


@pytest.fixture
def copied(day, tmp_path):
    """A copy of the day that a test may damage."""
    shutil.copytree(day.settings.storage.root, tmp_path / "copy")
    settings = day_settings(tmp_path / "copy")
    return replace(day, settings=settings, store=Store.of(settings, MAIN))
