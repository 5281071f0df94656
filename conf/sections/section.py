"""What every section of the settings is made of."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CrossFaultsError(ValueError):
    """Settings that are fine each and wrong together; one text a fault, which begins with "section.key: "."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(faults))


def section_at(root: type[Section], path: Sequence[str]) -> type[Section]:
    """The section that the keys lead to from the root one; a key that leads to no section is passed over."""
    section = root
    for part in path:
        field = section.model_fields.get(part)
        for candidate in _classes(field.annotation if field else None):
            section = candidate
    return section


def _classes(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)
