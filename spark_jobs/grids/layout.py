"""What a grid is: cells that differ in encoder and objective, and the table of a paper that they fill."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# data set -> (channel, cell) -> one number a column
Published = Mapping[str, Mapping[tuple[str, str], tuple[float, ...]]]


@dataclass(frozen=True)
class Cell:
    """One model of a table.

    name: its part of the variant's name. label: what the paper calls it. base: the cell that it adds an objective to, None where it is one.
    defaults: settings by dotted name that the configuration loses to and --set may change. fixed: those that make the cell what it is.
    """

    name: str
    label: str
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    base: str | None = None


@dataclass(frozen=True)
class Column:
    """One number of a model in a channel: a metric of the tables metrics or metrics_user, at cut-off n, of a slice of users or items."""

    label: str
    metric: str
    n: int
    slice: str = "all"

    @property
    def key(self) -> tuple[str, int, str]:
        """Its place among the numbers of a channel."""
        return self.metric, self.n, self.slice


@dataclass(frozen=True)
class Grid:
    """A table of a paper.

    source: where it stands. family: cells of one name are the same runs in all grids of a family. channels: channel -> the paper's word.
    scale: what a share is multiplied with (100 = percent). defaults: as a cell's, for all cells. notes: what a reader must know.
    gates: what the paper found, names in GATES of spark_jobs/grid_gates.py.
    """

    title: str
    source: str
    family: str
    cells: tuple[Cell, ...]
    channels: Mapping[str, str]
    columns: tuple[Column, ...]
    defaults: Mapping[str, Any]
    scale: float = 1.0
    digits: int = 4
    published: Published = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    def cell(self, name: str) -> Cell:
        """The cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    def in_order(self) -> tuple[Cell, ...]:
        """The cells as they are run: each after its base, so that a gain is known as early as can be."""
        ordered: list[Cell] = []
        for cell in self.cells:
            ordered += [one for one in ([self.cell(cell.base)] if cell.base else []) + [cell] if one not in ordered]
        return tuple(ordered)
