"""Settings of an A/B test: a plan that can be carried out, by a job that is part of no day."""

import pytest
from pydantic import ValidationError

from conf import jobs
from conf.settings import Settings


def test_a_day_never_has_it_as_a_stage():
    assert "ab_test" not in jobs.stages(Settings.model_validate({"ab": {"path": "log.csv"}}))


def test_only_its_own_settings_make_it_run_anew():
    plain, other = Settings(), Settings.model_validate({"ab": {"pre_days": 7}})
    assert jobs.config_hash("ab_test", plain) != jobs.config_hash("ab_test", other)
    assert jobs.config_hash("report", plain) == jobs.config_hash("report", other)


@pytest.mark.parametrize(
    ("ab", "words"),
    [
        ({"start": "03/02/2026"}, "ab.start must be a day"),
        ({"arms": {"control": 1}}, "at least 2"),
        ({"arms": {"control": 1, "treatment": 0}}, "greater than 0"),
        ({"winsorise": 1.5}, "less than or equal to 1"),
        ({"columns": {"user": None}}, "valid string"),
    ],
)
def test_plans_that_cannot_be_are_refused(ab, words):
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate({"ab": ab})
