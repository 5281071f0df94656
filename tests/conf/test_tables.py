"""Tables: declared once, checked with every fault at once, documented in docs/tables.md."""

from pathlib import Path

import pytest

from conf import jobs
from conf.schemas.columns import mask_columns, mask_type
from conf.schemas.table import Column, Shape
from conf.settings import Settings
from conf.tables import (
    ARTEFACTS,
    TABLES,
    Table,
    check_columns,
    resolve,
    to_markdown,
    with_key_types,
)

DOC = Path(__file__).resolve().parents[2] / "docs" / "tables.md"
REGISTRY = Settings().registry()


def _found(table):
    return {column.name: column.type for column in table.columns}


def test_document_is_current():
    assert DOC.read_text(encoding="utf-8") == to_markdown(tuple(TABLES.values())), "run: python -m conf.tables > docs/tables.md"


def test_every_table_of_the_jobs_is_declared():
    settings = Settings()
    for job in jobs.JOBS:
        for name in (*jobs.inputs(job, settings), *jobs.outputs(job, settings)):
            assert name in ARTEFACTS or resolve(name, REGISTRY).name == name


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_keys_are_columns_that_are_never_null(table):
    resolved = resolve(table.name, REGISTRY) if table.name not in ("candidates_lists", "samples_sequences") else table
    columns = {column.name: column for column in resolved.columns}
    assert len(columns) == len(resolved.columns), "a column is declared twice"
    assert all(not columns[name].nullable for name in table.key)


def test_resolved_tables_have_the_fields_of_the_settings():
    assert _found(resolve("items", REGISTRY))["tags"] == "array<string>"
    assert _found(resolve("item_feat", REGISTRY))["tags"] == "array<int32>"
    assert "title" in resolve("items", REGISTRY).names
    assert "title" not in resolve("item_feat", REGISTRY).names
    assert {"user_id", "city"} <= set(resolve("samples", REGISTRY).names)
    assert resolve("vocab_city", REGISTRY).names == TABLES["vocab"].names


def test_layout_of_candidates_follows_the_settings():
    assert "rank" in resolve("candidates", REGISTRY, Shape(layout="rows")).names
    lists = resolve("candidates", REGISTRY, Shape(layout="lists"))
    assert (lists.name, "item_keys" in lists.names) == ("candidates", True)


def test_samples_follow_their_layout_and_item_users():
    windows, sequences = (resolve("samples", REGISTRY, Shape(samples_layout=layout)) for layout in ("windows", "sequences"))
    assert ("hist" in windows.names, "um_b0" in windows.names, "num_targets" in windows.names) == (True, True, False)
    assert ("hist" in sequences.names, "um_b0" in sequences.names, "num_targets" in sequences.names) == (False, False, True)
    assert (sequences.name, sequences.key, "user_id" in sequences.names) == ("samples", windows.key, True)
    assert "item_users" not in windows.names
    assert _found(resolve("samples", REGISTRY, Shape(item_users=20)))["item_users"] == "array<int32>"


@pytest.mark.parametrize(
    ("bits", "name"), [(0, "int8"), (7, "int8"), (8, "int16"), (15, "int16"), (16, "int32"), (32, "int64"), (63, "int64")]
)
def test_masks_have_the_narrowest_type_that_keeps_the_sign_free(bits, name):
    assert mask_type(bits) == name


def test_a_mask_of_64_bits_is_refused():
    with pytest.raises(ValueError, match="at most 63"):
        mask_type(64)


def test_mask_columns_of_two_draws():
    columns = mask_columns(REGISTRY, Shape(history=20, mask_draws=2))
    assert [c.name for c in columns] == ["um_b0", "uh_b0", "vm_b0", "um_b1", "uh_b1", "vm_b1"]
    assert [c.type for c in columns[:3]] == ["int8", "int32", "int8"]  # 4 user fields, 20 positions, 3 item fields


def test_masks_of_view_a_are_stored_where_it_is_masked():
    columns = mask_columns(REGISTRY, Shape(mask_draws=2, strategy="cfm"))
    assert [c.name for c in columns[:6]] == ["um_a0", "uh_a0", "vm_a0", "um_b0", "uh_b0", "vm_b0"]
    assert len(columns) == 12


def test_published_keys_take_the_types_they_came_with():
    table = with_key_types(resolve("candidates", REGISTRY), "int64", "string")
    assert (_found(table)["user_key"], _found(table)["item_key"]) == ("int64", "string")
    lists = with_key_types(resolve("candidates", REGISTRY, Shape(layout="lists")), "string", "int64")
    assert _found(lists)["item_keys"] == "array<int64>"


def test_check_names_every_fault_at_once_with_the_nearest_column():
    found = _found(TABLES["clicks"])
    found["item_keys"] = found.pop("item_key")
    found["ts"] = "string"
    faults = [str(fault) for fault in check_columns(TABLES["clicks"], found, samples={"ts": "2026-01-07T10:00:00Z"})]
    assert len(faults) == 3
    assert "'item_key' is missing" in faults[0]
    assert "did you mean: item_keys ?" in faults[0]
    assert "'ts' is string, want int64" in faults[1]
    assert "2026-01-07T10:00:00Z" in faults[1]
    assert "'item_keys' is not part of the table" in faults[2]


def test_check_of_an_empty_table_says_so():
    faults = check_columns(TABLES["cooc"], {})
    assert len(faults) == len(TABLES["cooc"].columns)
    assert "no columns" in str(faults[0])


def test_equal_columns_in_another_order_are_no_fault():
    assert check_columns(TABLES["cooc"], dict(reversed(_found(TABLES["cooc"]).items()))) == []


def test_unknown_types_cannot_be_declared():
    with pytest.raises(AssertionError, match="unknown type"):
        Column("x", "uint8", "")
    assert Table("t", "one t", (Column("x", "int8", ""),)).names == ("x",)
