"""One published day, shared by the tests of what comes after the candidates."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from conf.command import Request, RunStatus
from spark_jobs.job import run_job
from tests.spark_jobs.published_day import day_settings, publish_day, request_for


@pytest.fixture(scope="session")
def scored_day(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """A day with everything up to its metrics published. Not to be written to: take `copy_of_day` for that."""
    from spark_jobs import offline_metrics, yesterday

    asked = request_for(tmp_path_factory.mktemp("day"), day_settings())
    publish_day(spark, asked)
    for job in (offline_metrics.JOB, yesterday.JOB):
        run_job(job, spark, asked)
    return asked


@pytest.fixture(scope="session")
def reported(spark: SparkSession, scored_day: Request) -> Request:
    """The scored day with its report, made inside a run that has a status file."""
    from spark_jobs import report

    with RunStatus(scored_day, "run") as status:
        status.stage("ingest", "ok", 12.5, rows={"clicks": 5})
        status.annotate(peak_rss_mb=2048)
        status.stage("train", "skipped", 0.2)
        run_job(report.JOB, spark, scored_day, status)
    return scored_day


@pytest.fixture
def copy_of_day(scored_day: Request, tmp_path: Path) -> Callable[..., Request]:
    """copy_of_day(run_id="r2", report={...}) -> a request on a copy of the day, with other settings."""

    def copy(run_id: str = "r2", **changed: dict[str, object]) -> Request:
        root = tmp_path / run_id
        shutil.copytree(scored_day.settings.storage.root, root)
        return request_for(root, day_settings(**changed), run_id=run_id, ds=scored_day.ds)

    return copy
