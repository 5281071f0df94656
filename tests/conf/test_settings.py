"""Settings: frozen, checked; each fault named with its key, its line and the nearest key that exists."""

import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from conf.errors import SettingsError
from conf.names import RESERVED_COLUMNS
from conf.schemas.columns import mask_columns
from conf.settings import Settings, load, to_yaml
from conf.tables import resolve


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "my.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)

    return write


def refused(*arguments) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_an_empty_file_gives_the_defaults(write):
    assert load(write("")) == Settings()


def test_unknown_key_names_the_nearest_and_the_line(write):
    text = refused(write("config_version: 1\ntrainer:\n  batch: 512\n  epoch: 3\n"))
    assert "unknown key trainer.epoch (line 4)" in text
    assert "did you mean: epochs ?" in text


def test_unknown_section_is_refused(write):
    text = refused(write("traner:\n  batch: 512\n"))
    assert "unknown key traner (line 1)" in text
    assert "did you mean: trainer ?" in text


def test_unknown_key_in_an_optional_section_and_in_a_field(write):
    text = refused(write("objectives:\n  mic:\n    temprature: 0.1\nsource:\n  fields:\n    user:\n      age:\n        rol: single\n"))
    assert "unknown key objectives.mic.temprature (line 3)" in text
    assert "did you mean: temperature ?" in text
    assert "unknown key source.fields.user.age.rol (line 8)" in text
    assert "did you mean: role ?" in text


def test_hostile_keys_are_shown_and_refused(write):
    text = refused(
        write("""
        "x'; DROP TABLE clicks; --": 1
        'a"b': {c: 1}
        "../../etc": 2
        """)
    )
    for key in ("x'; DROP TABLE clicks; --", 'a"b', "../../etc"):
        assert f"unknown key {key}" in text


def test_every_fault_comes_at_once(write):
    text = refused(write("trainer:\n  batch: none\n  epochs: 0\nindex:\n  min_recall: 2\n"))
    assert "3 faults" in text
    for line in ("trainer.batch (line 2)", "trainer.epochs (line 3)", "index.min_recall (line 5)"):
        assert line in text


def test_settings_that_disagree_are_all_named_with_their_lines(write):
    text = refused(
        write("""\
        source:
          ts_format: order
        split:
          kind: temporal
        session:
          kind: gap
        cooc:
          category_field: colour
        """)
    )
    assert "3 faults" in text
    assert "session.kind (line 6): gap needs clock times" in text
    assert "split.kind (line 4): temporal needs clock times" in text
    assert "cooc.category_field (line 8): 'colour' is no item field; known: category, tags, title" in text


def test_a_key_given_twice_is_refused_not_silently_dropped(write):
    text = refused(write("trainer:\n  batch: 512\nmodel:\n  dim: 8\n  dim: 16\ntrainer:\n  epochs: 2\n"))
    assert "key trainer stands twice   lines 1 and 6" in text
    assert "key model.dim stands twice   lines 4 and 5" in text


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "just words", "a: 1\n---\nb: 2\n", "a: !!python/object/apply:os.system ['true']\n"])
def test_what_is_no_mapping_is_refused(write, text):
    assert "exit 2" in refused(write(text))


def test_missing_file_and_unknown_name():
    assert "cannot read the settings file" in refused("no/such/file.yaml")
    text = refused("demos")
    assert "no such configuration" in text
    assert "packaged:" in text


@pytest.mark.parametrize("name", ["../conf/demo", "/etc/passwd", "demo.yaml\x00", "~/x.yaml"])
def test_hostile_configuration_names_end_in_a_settings_error(name):
    assert "exit 2" in refused(name)


# ---- overrides ---------------------------------------------------------------------------------------------------


def test_overrides_are_read_as_yaml_and_reach_into_sections(write):
    settings = load(
        write("trainer:\n  batch: 512\n"),
        ["trainer.epochs=3", "channels.names=[u2i, i2i]", "objectives.mic.weight=0.5", "source.train_days=null"],
    )
    assert (settings.trainer.batch, settings.trainer.epochs) == (512, 3)
    assert settings.channels.names == ["u2i", "i2i"]
    assert settings.objectives.mic is not None
    assert settings.objectives.mic.weight == 0.5
    assert settings.source.train_days is None


def test_override_of_an_unknown_key_says_where_it_came_from(write):
    text = refused(write(""), ["trainer.epoch=3"])
    assert "unknown key trainer.epoch (--set)" in text
    assert "did you mean: epochs ?" in text


@pytest.mark.parametrize(
    "override", ["trainer.epochs", "=3", "  =3", "trainer.epochs=[", "trainer.epochs=x; rm -rf ~", "trainer..epochs=3"]
)
def test_bad_overrides_are_refused(write, override):
    assert "exit 2" in refused(write(""), [override])


# ---- values ------------------------------------------------------------------------------------------------------


def test_unquoted_days_and_numbered_event_types_are_what_they_look_like(write):
    settings = load(write("source:\n  default_ds: 2026-01-31\n  event_types: {1: 1.0, buy: 3}\n"))
    assert settings.source.default_ds == "2026-01-31"
    assert settings.source.event_types == {"1": 1.0, "buy": 3.0}
    assert load(write(""), ["source.default_ds=2026-02-28"]).source.default_ds == "2026-02-28"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {default_ds: 2026-02-30}", "must be a day"),
        ("source: {default_ds: '2026-1-31'}", "must be a day"),
        ("source: {day_timezone: Europe/Berlinn}", "no known time zone"),
        ("source: {timezone: ../../etc/passwd}", "no known time zone"),
        ("source: {kind: generic}", "source.path is needed"),
        ("source: {event_types: {click: 0}}", "greater than 0"),
        ("storage: {root: ''}", "at least 1 character"),
        ("storage: {root: 'data/{x}'}", "Spark would read it as a pattern"),
        ("storage: {lock_expiry_s: 30}", "at least twice"),
        ("trainer: {optimizer: {lr: .inf}}", "finite number"),
        ("trainer: {optimizer: {lr: .nan}}", "finite number"),
        ("trainer: {workers: 3}", "multiple of trainer.workers"),
        ("trainer: {batch: 1023}", "multiple of trainer.streams"),
        ("channels: {names: []}", "at least 1 item"),
        ("channels: {names: [u2i, u2i]}", "named twice"),
        ("{channels: {u2i: {space: joint}}, objectives: {mic: null}}", "learned by objectives.mic's uv"),
        ("{channels: {u2i: {space: joint}}, objectives: {mic: {uv: 0}}}", "learned by objectives.mic's uv"),
        ("{channels: {u2i: {space: joint}}, objectives: {mic: {}}, embeddings: {path: v}}", "vectors of another"),
        ("evaluation: {at: []}", "at least 1 item"),
        ("merge: {weights: {u2l: 2}}", "unknown channel 'u2l'"),
        ("model: {fields: {user: [age, age]}}", "unknown field 'age'"),
        ("model: {fields: {user: [city, city]}}", "named twice"),
        ("model: {fields: {item: [tags]}}", "item_id is needed"),
        ("model: {history_mask: token, embedding: {mask: zero}}", "token shows a learned row; set model.embedding.mask: learned"),
        ("trainer: {sharded_tables: [sku]}", "'sku' is no field of the towers; known: user_id, "),
        ("model: {history: 64}", "less than or equal to 63"),
        ("base: {negatives: mixed}", "uniform or in_batch ones only"),
        ("base: {known_clicks: train, negatives: in_batch}", "train is of uniform negatives"),
        (
            "source: {ts_format: order}\nsession: {kind: user}\nsplit: {refit: true}",
            "with production the last day is valid",
        ),
        ("base: {known_clicks: train}\nsplit: {refit: true}", "train would know the valid clicks"),
        ("split: {kind: user}\nmodel: {fields: {user: [user_id]}}", "cannot be used with split.kind user"),
        ("report: {title_field: name}", "is no item field"),
        ("samples: {layout: sequences}", "set trainer.batches: arrow, or samples.layout: windows"),
        ("trainer: {clicks_per_row: 5}", "only model.encoder sasrec has a loss at every position"),
        ("trainer: {clicks_per_row: 5}", "are cut from samples.layout sequences"),
        ("trainer: {clicks_per_row: 5}\nmodel: {history: 4}", "at most model.history (4)"),
        ("samples: {item_users: true}", "needs samples.engine: sql"),
        ("samples: {item_users: true, engine: sql, layout: sequences}\ntrainer: {batches: arrow}", "and samples.layout: windows"),
    ],
)
def test_values_that_cannot_work_are_refused(write, text, message):
    assert message in refused(write(text))


def test_fields_that_petastorm_cannot_name_are_refused(write):
    # it makes a namedtuple of a batch's columns
    assert "'class' is a reserved word" in refused(write("source: {fields: {user: {class: single}}}"))


def test_fields_that_would_collide_with_table_columns_are_refused(write):
    for name in sorted(RESERVED_COLUMNS | {"um_b0", "vm_b12", "uh_a1"}):
        assert "is a column of our tables" in refused(write(f"source: {{fields: {{user: {{{name}: single}}}}}}"))
    for name in ("Age", "2x", "a-b", "x'; --", "../x", "a" * 41):
        assert "cannot be a field name" in refused(write(f'source: {{fields: {{item: {{"{name}": single}}}}}}'))
    assert "both a user and an item field" in refused(write("source: {fields: {user: {age: single}, item: {age: single}}}"))


@pytest.mark.parametrize("table", ["users", "items", "user_feat", "item_feat", "samples"])
def test_no_allowed_field_doubles_a_column(table, write):
    """The reserved names are complete: with any allowed field, columns stay distinct."""
    settings = load(write("source: {fields: {user: {age: single, likes: multi}, item: {brand: single, about: text}}}"))
    names = resolve(table, settings.registry(), settings.shape()).names
    assert len(set(names)) == len(names)
    fixed = set(names) - {"age", "likes", "brand", "about"} - {c.name for c in mask_columns(settings.registry(), settings.shape())}
    assert fixed <= RESERVED_COLUMNS


def test_more_fields_than_mask_bits_are_refused(write):
    fields = ", ".join(f"f{i}: single" for i in range(63))
    assert "at most 63" in refused(write(f"source: {{fields: {{user: {{{fields}}}}}}}"))


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().trainer.epochs = 3


def test_yaml_round_trip(write):
    settings = load(
        write("source: {fields: {user: {age: {role: single, column: Age, min_count: 2}}, item: {}}}\nmerge: {weights: {u2i: 2}}\n")
    )
    path = write(to_yaml(settings))
    assert load(path) == settings
    assert "# clicks of history, L; MicRec 5.3" in Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "objectives", ["{mic: null}", "{mic: {weight: 0}}", "{mic: {uv: 0, uu: 0, vv: 0}}", "{micrec: {fea: 0, sem: 0, sess: 0}}"]
)
def test_nothing_to_train_on_is_refused_beside_other_faults(write, objectives):
    text = refused(write(f"base: {{weight: 0, negatives: mixed}}\nobjectives: {objectives}\n"))
    assert "2 faults" in text
    assert "base.weight (line 1): is 0, and no objective has a part with a weight: nothing to train on; set it" in text
    load(write(f"base: {{weight: 0.5}}\nobjectives: {objectives}\n"))


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ("", "base.loss: logistic by cosine"),
        ("base: {loss: sampled_softmax}\nobjectives: {mic: {}, masked_views: {}}", "but objectives.mic, objectives.masked_views by cosine"),
    ],
)
def test_exact_fm_takes_no_loss_by_cosine(write, losses, found):
    text = refused(write(f"model:\n  encoder: fm\n{losses}\n"))
    assert "model.fm.sum_only (line 1): exact FM compares by inner product alone" in text
    assert found in text
    load(write(f"model: {{encoder: fm, fm: {{sum_only: true}}}}\n{losses}\n"))


def test_exact_fm_takes_losses_by_inner_product(write):
    given = load(write("model: {encoder: fm}\nbase: {loss: sampled_softmax}\nobjectives: {micrec: {sem: 0}, mic: {weight: 0}}\n"))
    assert not given.model.fm.sum_only


# ---- hashes ------------------------------------------------------------------------------------------------------


def test_section_hash_sees_its_sections_only():
    one = Settings()
    other = Settings.model_validate({"trainer": {"epochs": 9}, "model": {"history": 7}})
    assert one.section_hash(("session",)) == other.section_hash(("session",))
    assert one.section_hash(("model.fields",)) == other.section_hash(("model.fields",))
    assert one.section_hash(("model.history",)) != other.section_hash(("model.history",))
    assert one.section_hash(("trainer", "session")) != other.section_hash(("session", "trainer"))
    assert one.section_hash(("trainer", "session")) == one.section_hash(("session", "trainer"))


def test_counts_that_go_on_need_the_pairs_and_numbers_that_stay(write):
    assert "cooc.keep_pairs: true" in refused(write("cooc:\n  increment: true\nvocabulary:\n  previous_ds: latest\n"))
    assert "set vocabulary.previous_ds: latest" in refused(write("cooc:\n  increment: true\n  keep_pairs: true\n"))
    load(write("cooc:\n  increment: true\n  keep_pairs: true\nvocabulary:\n  previous_ds: latest\n"))


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ("merge: {weights: {u2x: 1}}", "merge.weights: unknown channel 'u2x'"),
        ("merge: {kind: quota, top: 9, quotas: {u2i: 9, u2x: 0}}", "merge.quotas: 'u2x' is no channel that runs"),
        ("merge: {kind: quota, top: 9, quotas: {u2i: 5}}", "merge.quotas: together 5 places, but merge.top is 9"),
        ("merge: {kind: quota, quotas: learned}\nsplit: {kind: production}", "split.kind production holds no valid clicks out"),
        ("merge: {kind: quota, quotas: learned}\nsplit: {refit: true}", "split.refit trains on valid"),
        ("merge: {kind: diverse}", "merge.category_field: kind diverse needs it"),
        ("merge: {max_per_category: 3}", "merge.category_field: max_per_category needs it"),
        ("merge: {category_field: colour}", "merge.category_field: 'colour' is no item field of the model"),
        ("merge: {category_field: title}", "merge.category_field: 'title' is no item field of the model"),
    ],
)
def test_merges_that_cannot_be_are_refused(write, sections, fault):
    fields = "source: {fields: {item: {category: {role: single}, title: {role: text}}}}\n"
    text = refused(write(fields + sections + "\n"))
    assert all(part in text for part in fault.split(": ", maxsplit=1)), text


def test_merges_ask_for_the_tables_that_they_need(write):
    fields = "source: {fields: {item: {category: {role: single}}}}\n"
    assert load(write("")).merge.tables == frozenset()
    capped = load(write(fields + "merge: {max_per_category: 3, category_field: category}\n"))
    learned = load(write(fields + "split: {kind: last_k}\nmerge: {kind: quota, quotas: learned}\n"))
    assert (capped.merge.tables, learned.merge.tables) == ({"item_feat"}, {"events"})
