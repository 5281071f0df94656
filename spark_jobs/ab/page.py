"""The page of an A/B test: the verdict, the split, every metric with its interval, the curves day by day."""

from collections.abc import Mapping, Sequence
from typing import Any

from spark_jobs import charts
from spark_jobs.report_names import count, p_value
from spark_jobs.report_page import filled


def render(content: Mapping[str, Any]) -> str:
    """The document as one HTML page that needs no network and runs no script."""
    own = {"signed": signed, "value": value, "p": p_value, "cumulative": cumulative, "daily": daily}
    return filled("ab_test.html.j2", {**content, **own})


# ---- numbers as text -------------------------------------------------------------------------------------------------


def signed(share: float | None) -> str:
    """A lift: +3.21 %."""
    return "–" if share is None else f"{100 * share:+.2f} %"


def value(number: float | None) -> str:
    """A metric, to four digits."""
    return "–" if number is None else f"{number:.4g}" if abs(number) < 1e4 else count(number)


# ---- curves ----------------------------------------------------------------------------------------------------------


def cumulative(curves: Sequence[Mapping[str, Any]], arm: str, metric: str) -> list[charts.Line]:
    """The lift of all days until each day, its interval, and the line of no change; days count from 1."""
    days = [line for line in curves if (line["arm"], line["metric"]) == (arm, metric) and line["lo"] is not None]
    named = (("lift", "first", "lift"), ("95 %", "fourth", "hi"), ("95 %", "fourth", "lo"))
    lines = [charts.Line(label, kind, [(line["day"] + 1, line[part]) for line in days]) for label, kind, part in named]
    return [*lines, charts.Line("no change", "third", [(line["day"] + 1, 0.0) for line in days])] if days else []


def daily(curves: Sequence[Mapping[str, Any]], control: str, arm: str, metric: str) -> list[charts.Line]:
    """The metric of each day under both arms."""
    days = [line for line in curves if (line["arm"], line["metric"]) == (arm, metric)]
    return [
        charts.Line(label, kind, [(line["day"] + 1, line[part]) for line in days if line[part] is not None])
        for label, kind, part in ((arm, "first", "value"), (control, "third", "control"))
    ]
