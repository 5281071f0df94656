"""Days, and names that become folders: whatever could lead elsewhere is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import SettingsError
from conf.names import check_ds, check_name, is_day


@pytest.mark.parametrize("ds", ["2026-01-31", "2024-02-29", "0001-01-01"])
def test_real_days_pass(ds):
    assert check_ds(ds) == ds


HOSTILE = [
    "",
    ".",
    "..",
    "../../x",
    "a/b",
    "a\\b",
    "/abs",
    "x; rm -rf ~",
    "'",
    '"',
    "a b",
    "a\n",
    "-x",
    ".hidden",
    "_runs",
    "$(id)",
    "ä",
    "a" * 65,
    "a\x00b",
]


@pytest.mark.parametrize(
    "ds",
    [
        "2026-02-30",
        "2023-02-29",
        "2026-13-01",
        "2026-1-1",
        "20260131",
        "2026-01-31\n",
        " 2026-01-31",
        "２０２６-01-31",
        "2026-01-31/..",
        *HOSTILE,
    ],
)
def test_what_is_no_day_is_refused(ds):
    with pytest.raises(SettingsError, match="is not a day"):
        check_ds(ds)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name):
    with pytest.raises(SettingsError, match="cannot be a name"):
        check_name("--variant", name)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=12))
def test_whatever_passes_is_one_harmless_folder_name(text):
    try:
        check_name("--run-id", text)
    except SettingsError:
        pass
    else:
        assert text
        assert text[0] not in "._-"
        assert not set(text) & set("/\\ '\";$\n\0")
    assert not is_day(text) or len(text) == 10
