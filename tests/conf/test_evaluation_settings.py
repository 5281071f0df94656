"""Slices and fields of the evaluation that cannot be are refused, by what they lack."""

import pytest

from conf.settings import Settings

FIELDS = {"user": {"city": "single", "bio": "text"}, "item": {"category": "single", "title": "text"}}


@pytest.mark.parametrize(
    ("evaluation", "fault"),
    [
        ({"category_field": "title"}, "evaluation.category_field: 'title' is no item field of the model; known: category"),
        ({"slices": {"user_fields": ["bio"]}}, "evaluation.slices.user_fields: 'bio' is no user field with values; known: city"),
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


@pytest.mark.parametrize(
    ("channels", "merge", "fault"),
    [
        (200, 200, "evaluation.at: 500 is beyond channels.top 200 and merge.top 200; raise channels.top and merge.top"),
        (500, 200, "evaluation.at: 500 is beyond merge.top 200; raise merge.top"),
        (499, 500, "evaluation.at: 500 is beyond channels.top 499; raise channels.top"),
    ],
)
def test_lists_that_end_before_n_are_not_compared_with_longer_ones(channels, merge, fault):
    sections = {"channels": {"top": channels}, "merge": {"top": merge}, "evaluation": {"at": [20, 500]}}
    with pytest.raises(ValueError, match=fault):
        Settings.model_validate({"config_version": 1, **sections})
    Settings.model_validate({"config_version": 1, "channels": {"top": 500}, "merge": {"top": 500}, "evaluation": {"at": [20, 500]}})


def test_users_can_be_sliced_by_a_field_that_the_model_does_not_see():
    source = {"kind": "generic", "path": "x", "fields": FIELDS}
    sliced = {"slices": {"user_fields": ["city"]}}
    made = Settings.model_validate({"source": source, "evaluation": sliced, "model": {"fields": {"user": ["user_id"]}}})
    registry = made.registry()
    assert [field.name for field in registry.user] == ["user_id"]
    assert [(field.name, field.role) for field in registry.source_fields("user")] == [("city", "single"), ("bio", "text")]
    # what is evaluated changes nothing that is ingested or trained
    assert registry == made.model_copy(update={"evaluation": Settings().evaluation}).registry()
