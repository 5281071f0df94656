"""Fields: the order that numbers mask bits, and what comes from the source."""

from conf.fields import EMPTY, FIRST_ID, MASK, OOV, PAD, RESERVED
from conf.settings import Settings, load, packaged_names


def test_reserved_ids_come_before_the_first_value():
    assert (PAD, MASK, OOV, EMPTY, FIRST_ID) == (0, 1, 2, 3, 4)
    assert sorted(RESERVED.values()) == list(range(FIRST_ID))


def test_id_fields_come_first_and_text_is_not_embedded():
    registry = Settings().registry()
    assert [f.name for f in registry.embedded] == ["user_id", "gender", "age_band", "city", "item_id", "category", "tags"]
    assert [f.name for f in registry.item_text] == ["title"]
    assert {f.name: f.role for f in registry.item} == {"item_id": "single", "category": "single", "tags": "multi"}


def test_source_fields_hold_text_but_no_id():
    registry = Settings().registry()
    assert [f.name for f in registry.source_fields("item")] == ["category", "tags", "title"]
    assert [f.name for f in registry.source_fields("user")] == ["gender", "age_band", "city"]


def test_chosen_fields_keep_the_order_given():
    settings = Settings.model_validate({"model": {"fields": {"user": ["city", "user_id"], "item": ["item_id"]}}})
    assert [f.name for f in settings.registry().user] == ["city", "user_id"]
    assert [f.name for f in settings.registry().item] == ["item_id"]


def test_held_out_users_have_no_id_field():
    registry = Settings.model_validate({"split": {"kind": "user"}}).registry()
    assert "user_id" not in [f.name for f in registry.user]
    assert registry.item[0].name == "item_id"


def test_packaged_configurations_have_embedded_fields():
    for name in packaged_names():
        settings = load(name)
        assert settings.registry().item
        # by its history alone is known a user that is held out whole, where the data say nothing else, and each user of sasrec
        assert settings.registry().user or settings.split.kind == "user" or settings.model.encoder == "sasrec"
