"""How the trainer is started, and what is known of its end."""

import json
import sys
from pathlib import Path

import pytest

from conf.command import parse, request
from conf.errors import TrainingError, UsageError
from conf.settings import Settings
from spark_jobs import launcher


def test_training_command_is_horovodrun_or_plain_python(make_request):
    horovod = launcher.train_command(make_request())
    assert Path(horovod[0]).name == "horovodrun"
    assert horovod[1:7] == ["-np", "2", "--gloo", sys.executable, "-m", "trainer.train"]
    settings = Settings.model_validate({"trainer": {"launcher": "single"}})
    single = launcher.train_command(make_request(settings), resume=True)
    assert single[:3] == [sys.executable, "-m", "trainer.train"]
    assert single[-1] == "--resume"


def test_training_command_is_torchrun_or_a_spark_application(make_request):
    def command(name):
        return launcher.train_command(make_request(Settings.model_validate({"trainer": {"launcher": name, "workers": 4}})))

    torchrun = command("ddp")
    assert Path(torchrun[0]).name == "torchrun"
    assert torchrun[1:6] == ["--standalone", "--nproc-per-node", "4", "-m", "trainer.train"]
    for name in ("horovod-spark", "spark-torch"):
        assert command(name)[:4] == [sys.executable, "-m", "trainer.spark_launcher", "--config"]


def test_a_spark_application_of_its_own_is_refused_to_one_that_was_submitted(make_request, monkeypatch):
    starts(monkeypatch, "raise SystemExit(0)")
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")
    settings = Settings.model_validate({"trainer": {"launcher": "spark-torch"}})
    with pytest.raises(UsageError, match=r"spark-submit trainer/spark_launcher\.py by itself"):
        launcher.train(make_request(settings))
    assert launcher.train_alone(make_request()) == 0


def starts(monkeypatch, program: str) -> None:
    """A trainer that is `program` instead."""
    monkeypatch.setattr(launcher, "inputs_seen", lambda job, asked: {})
    monkeypatch.setattr(launcher, "train_command", lambda asked, resume=False: [sys.executable, "-c", program])


def test_a_trainer_that_fails_without_a_word_is_a_failed_training(make_request, monkeypatch):
    starts(monkeypatch, "raise SystemExit(9)")
    with pytest.raises(TrainingError, match="exit code 9") as caught:
        launcher.train(make_request())
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("written", ['{"exit_code": 5, "error": "held by another"}', '{"exit_co'], ids=["whole", "cut"])
def test_the_word_a_trainer_leaves_is_how_the_run_ends(make_request, monkeypatch, written):
    starts(monkeypatch, f"import os; open(os.environ['TRICHANNEL_FAILURE'], 'w').write({written!r}); raise SystemExit(1)")
    with pytest.raises(TrainingError) as caught:
        launcher.train(make_request())
    whole = written.endswith("}")
    assert caught.value.exit_code == (5 if whole else 7)
    assert ("held by another" in str(caught.value)) is whole
    assert launcher.train_alone(make_request()) == (5 if whole else 1)


@pytest.mark.slow
def test_a_run_whose_trainer_lacks_its_input_says_that_a_retry_helps(tmp_path, monkeypatch):
    """Two real workers, asked for a day that has no samples: 3, not 7, though horovodrun itself ends with 1."""
    asked = request(parse("train", "", ["--set", f"storage.root={tmp_path}"]))
    monkeypatch.setattr(launcher, "inputs_seen", lambda job, asked: {})  # as if they vanished after this check
    with pytest.raises(TrainingError, match="samples is not there yet") as caught:
        launcher.train(asked)
    assert caught.value.exit_code == 3


def test_the_first_worker_to_fail_leaves_the_word(tmp_path, monkeypatch):
    from conf.errors import BadDataError
    from trainer.process import leaving_word

    def fails(error):
        def body():
            raise error

        return body

    monkeypatch.setenv("TRICHANNEL_FAILURE", str(tmp_path / "failure.json"))
    with pytest.raises(BadDataError):
        leaving_word(fails(BadDataError("samples", ["a file is damaged"])))
    with pytest.raises(TrainingError):
        leaving_word(fails(TrainingError("worker 0", ["another worker ended"])))
    assert json.loads((tmp_path / "failure.json").read_text()) == {"exit_code": 6, "error": "a file is damaged"}
