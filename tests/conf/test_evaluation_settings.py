"""Slices and fields of the evaluation that cannot be are refused, by what they lack."""

import pytest

from conf.settings import Settings

FIELDS = {"user": {"city": "single", "bio": "text"}, "item": {"category": "single", "title": "text"}}


@pytest.mark.parametrize(
    ("evaluation", "fault"),
    [
        ({"category_field": "title"}, "evaluation.category_field: 'title' is no item field of the model; known: category"),
        ({"slices": {"user_fields": ["bio"]}}, "evaluation.slices.user_fields: 'bio' is no user field of the model; known: city"),
        ({"slices": {"head": 0.5, "tail": 0.6}}, "evaluation.slices.tail: 0.6 is beyond the head, which begins at 0.5"),
        ({"slices": {"activity": [5, 5]}}, "evaluation.slices.activity: give the numbers of clicks in ascending order"),
    ],
)
def test_slices_that_cannot_be_are_refused(evaluation, fault):
    with pytest.raises(ValueError, match=fault):
        Settings.model_validate({"source": {"kind": "generic", "path": "x", "fields": FIELDS}, "evaluation": evaluation})


def test_slices_by_known_fields_are_taken():
    evaluation = {"category_field": "category", "slices": {"user_fields": ["city"], "head": 0.9, "tail": 0.9, "activity": [5, 50]}}
    made = Settings.model_validate({"source": {"kind": "generic", "path": "x", "fields": FIELDS}, "evaluation": evaluation})
    assert made.evaluation.slices.user_fields == ["city"]
