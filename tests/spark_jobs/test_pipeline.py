"""The day as a list of stages: order, what will run and why."""

import pytest

from conf import jobs
from conf.errors import UsageError
from conf.settings import Settings
from spark_jobs import pipeline


def test_every_stage_reads_only_tables_of_stages_before_it():
    made: set[str] = set()
    for spec in jobs.JOBS.values():
        assert set(spec.inputs) <= made
        made |= set(spec.outputs)


def test_until_cuts_the_day():
    assert pipeline.stages_until("sessions", Settings()) == ("ingest", "vocabulary", "events", "sessions")
    assert pipeline.stages_until(None, Settings()) == tuple(
        job for job in jobs.JOBS if job not in ("semantics", "similar", "delta", "click_ranks", "ab_test")
    )
    with pytest.raises(UsageError, match="known: ingest"):
        pipeline.stages_until("smaples", Settings())


@pytest.mark.parametrize("job", [name for name in jobs.JOBS if name != "train"])
def test_each_stage_is_a_job_of_that_name(job):
    assert pipeline.load_job(job).name == job


def test_plan_gives_the_reason_for_each_stage(make_request):
    asked = make_request()
    with asked.store.publication("ingest", asked.ds, "r0", asked.settings, inputs={"source": "as it was"}) as publication:
        publication.commit()
    reasons = {stage.name: stage.reason for stage in pipeline.plan(asked)}
    assert reasons["ingest"] == "inputs changed"
    assert reasons["vocabulary"] == "nothing is committed for the day"
    changed = make_request(Settings.model_validate({"source": {"train_days": 3}}))
    assert {s.name: s.reason for s in pipeline.plan(changed)}["ingest"] == "settings changed"
    assert {s.reason for s in pipeline.plan(make_request(force=True))} == {"forced"}
