"""The day as a list of stages: order, what will run and why, the training command, memory."""

import sys
from pathlib import Path

import numpy as np
import pytest

from conf import jobs
from conf.errors import TrainingError, UsageError
from conf.settings import Settings
from spark_jobs import pipeline


def test_every_stage_reads_only_tables_of_stages_before_it():
    made: set[str] = set()
    for spec in jobs.JOBS.values():
        assert set(spec.inputs) <= made
        made |= set(spec.outputs)


def test_until_cuts_the_day():
    assert pipeline.stages_until("sessions") == ("ingest", "vocabulary", "events", "sessions")
    assert pipeline.stages_until(None) == tuple(jobs.JOBS)
    with pytest.raises(UsageError, match="known: ingest"):
        pipeline.stages_until("smaples")


@pytest.mark.parametrize("job", [name for name in jobs.JOBS if name != "train"])
def test_each_stage_is_a_job_of_that_name(job):
    assert pipeline.load_job(job).name == job


def test_training_command_is_horovodrun_or_plain_python(make_request):
    horovod = pipeline.train_command(make_request())
    assert Path(horovod[0]).name == "horovodrun"
    assert horovod[1:7] == ["-np", "2", "--gloo", sys.executable, "-m", "trainer.train"]
    settings = Settings.model_validate({"trainer": {"launcher": "single"}})
    single = pipeline.train_command(make_request(settings), resume=True)
    assert single[:3] == [sys.executable, "-m", "trainer.train"]
    assert single[-1] == "--resume"


def test_a_failing_trainer_is_a_training_error(make_request, monkeypatch):
    monkeypatch.setattr(pipeline, "inputs_seen", lambda job, asked: {})
    monkeypatch.setattr(pipeline, "train_command", lambda asked: [sys.executable, "-c", "raise SystemExit(9)"])
    with pytest.raises(TrainingError, match="exit code 9") as caught:
        pipeline.train(make_request())
    assert caught.value.exit_code == 7


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


def test_peak_memory_sees_what_was_allocated():
    before = pipeline.tree_megabytes()
    with pipeline.peak_memory(every_s=0.01) as peak:
        block = np.ones(50 * 2**20 // 8)
        assert block.sum() > 0
        pipeline.tree_megabytes()
        import time

        time.sleep(0.1)
    assert peak.megabytes >= before + 40
