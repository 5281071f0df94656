"""What a table is declared with: its columns, and what of the settings decides them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from conf.fields import Registry, Side

View = Literal["a", "b"]
Strategy = Literal["random_p", "rfm", "cfm"]  # of the masks; see conf.masks

SOURCES_TYPE: Final = "array<struct<channel:string,rank:int32,score:float32>>"
TYPES: Final = (
    *("bool", "int8", "int16", "int32", "int64", "float32", "float64", "string", "date"),
    *("array<int32>", "array<int64>", "array<float32>", "array<string>"),
    SOURCES_TYPE,
    f"array<{SOURCES_TYPE}>",
)


@dataclass(frozen=True)
class Column:
    """One column: its type as named in `TYPES`, what it means."""

    name: str
    type: str
    doc: str
    nullable: bool = False

    def __post_init__(self) -> None:
        assert self.type in TYPES, f"column {self.name}: unknown type {self.type}"


@dataclass(frozen=True)
class Table:
    """row: what one row is. key: columns unique together. derived: values of a trained model, whose content hashes round floats.

    business_keys: column -> user or item, of a published table: keys that have the type they came with. Everywhere else keys are strings.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    derived: bool = False
    may_be_empty: bool = False
    extra: Callable[[Registry, "Shape"], tuple[Column, ...]] | None = None
    extra_doc: str = ""
    business_keys: Mapping[str, Side] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class Shape:
    """What of the settings, besides the fields, decides columns.

    history: length L of `samples.hist`. mask_draws: stored mask draws E. layout: of `candidates`, rows or lists.
    vectors: whether `items` holds content vectors. strategy: of the masks. samples_layout: of `samples`, windows or sequences.
    item_users: length of `samples.item_users`; 0 = without it. joint: whether vectors come in a joint space, too.
    """

    history: int = 20
    mask_draws: int = 1
    layout: str = "rows"
    vectors: bool = False
    strategy: Strategy = "random_p"
    samples_layout: str = "windows"
    item_users: int = 0
    joint: bool = False


def masked_views(strategy: Strategy) -> tuple[View, ...]:
    """The views whose masks are stored; one that is clean has none."""
    return ("b",) if strategy == "random_p" else ("a", "b")
