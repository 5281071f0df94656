"""The document as a page: template, style sheet, and the pictures they call for."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from spark_jobs import charts
from spark_jobs.metrics.groups import COLD_ITEMS, COLD_USERS
from spark_jobs.report_names import FOUND, MADE_OF, NAMES, VECTORS, count, duration, kind_of, megabytes, p_value, percent, points, shown

Cells = Mapping[tuple[str, str, int], Mapping[str, Any]]


def render(content: Mapping[str, Any]) -> str:
    """The document as one HTML page that needs no network and runs no script."""
    by_slice = {(row["channel"], row["metric"], row["n"], row["slice"]): row for row in content["metrics"]}
    slices = sorted({name for *_, name in by_slice}, key=slice_order)
    cells = {"cells": index_cells(content["metrics"]), "slice_cells": by_slice, "slices": slices if len(slices) > 1 else []}
    return filled("report.html.j2", {**content, **cells})


def filled(template: str, content: Mapping[str, Any]) -> str:
    """A template of spark_jobs/templates, with what all of them may call."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(page_file)
    )
    environment.filters.update(percent=percent, count=count, duration=duration, shown=shown)
    environment.filters.update(points=points, p_value=p_value, megabytes=megabytes)
    environment.globals.update(kind_of=kind_of, NAMES=NAMES, FOUND=FOUND, MADE_OF=MADE_OF, VECTORS=VECTORS)
    environment.globals.update(
        lines_of=lines_of, dots_of=dots_of, tried_of=tried_of, round_up=round_up, style=Markup(page_file("report.css"))
    )
    environment.globals.update({name: _drawn(getattr(charts, name)) for name in ("bar", "scale", "lines", "dots", "named_dots")})
    return environment.from_string(page_file(template)).render(**content)


def page_file(name: str) -> str:
    """A file of spark_jobs/templates."""
    return resources.files("spark_jobs").joinpath("templates", name).read_text(encoding="utf-8")


def dots_of(channels: Sequence[str], cells: Cells, n: int) -> list[charts.NamedDot]:
    """Coverage and recall of every channel that has both."""
    both = [(c, cells.get((c, "coverage", n)), cells.get((c, "recall", n))) for c in channels]
    named = ((NAMES.get(c, (c,))[0], kind_of(c), x, y) for c, x, y in both)
    return [charts.NamedDot(name, kind, x["value"], y["value"]) for name, kind, x, y in named if x and y]


def tried_of(part: Mapping[str, Any]) -> list[charts.NamedDot]:
    """Queries a second and recall of every kind of index that was measured, by its name and size; the one taken stands out."""
    measured = [one for one in part["tried"] if one["recall"] is not None and one["queries_per_s"] is not None]
    return [
        charts.NamedDot(
            f"{one['factory']}, {megabytes(one['bytes'])}",
            "merged" if one["factory"] == part["factory"] else "channel",
            one["queries_per_s"],
            one["recall"],
        )
        for one in measured
    ]


def round_up(value: float) -> float:
    """The end of an axis from 0 that holds the value."""
    return charts.ticks(0, value)[-1]


def lines_of(curves: Sequence[Mapping[str, Any]]) -> list[charts.Line]:
    """Curves of the document as lines, told apart by their place."""
    kinds = ("first", "second", "third", "fourth", "fifth")
    return [charts.Line(c["label"], kinds[min(n, 4)], [(x, y) for x, y in c["points"]], c["best"]) for n, c in enumerate(curves)]


def _drawn(chart: Callable[..., str]) -> Callable[..., Markup]:
    """The chart as markup; charts escape every text themselves."""
    return lambda *args, **kwargs: Markup(chart(*args, **kwargs))


def index_cells(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Rows of table metrics by (channel, metric, n); slices other than 'all' are left out."""
    return {(row["channel"], row["metric"], row["n"]): row for row in rows if row["slice"] == "all"}


def slice_order(name: str) -> tuple[int, int, str]:
    """Where a slice stands on the page: all, users by activity, cold ones, by field, items by popularity, cold ones."""
    kinds = ("all", "user activity", COLD_USERS, "", "item popularity", COLD_ITEMS)
    kind, _, value = name.partition("=")
    digits = re.match(r"\d+", value) if kind == "user activity" else None
    return (kinds.index(kind) if kind in kinds else 3, int(digits[0]) if digits else 0, name)
