"""Messages name every fault; every exit code that an error can end with is documented."""

import pytest

from conf import errors
from conf.errors import EXIT_CODES, Fault, SchemaError, StorageError, TrichannelError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrichannelError)]


def test_message_names_place_each_fault_and_exit_code():
    error = SchemaError(
        "table clicks, ds=2026-01-07", [Fault("column 'ts' is string", "first value: 'x'", "set source.ts_format"), "no rows"]
    )
    assert str(error) == (
        "error[T103] table clicks, ds=2026-01-07: 2 faults\n"
        "  column 'ts' is string   first value: 'x'   set source.ts_format\n"
        "  no rows\n"
        "nothing was published; exit 2"
    )


def test_one_fault_is_singular_and_empty_parts_leave_no_gap():
    assert str(SchemaError("x", [Fault("a", fix="c")])).splitlines()[:2] == ["error[T103] x: 1 fault", "  a   c"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_exit_codes_are_documented_and_codes_distinct(kind):
    assert kind.exit_code in EXIT_CODES
    assert [other for other in KINDS if other.code == kind.code] == [kind]


def test_storage_error_has_the_exit_code_of_its_cause():
    assert StorageError("x", ["full"]).exit_code == 1
    assert str(StorageError("x", ["read-only"], exit_code=2)).endswith("exit 2")


def test_contract_exit_codes():
    assert sorted(EXIT_CODES) == [0, 1, 2, 3, 4, 5, 6, 7, 130, 143]
