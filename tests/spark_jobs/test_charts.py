"""Scales with round numbers, and pictures that parse."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from spark_jobs import charts
from spark_jobs.charts import Line, NamedDot


@pytest.mark.parametrize(
    ("low", "high", "want"),
    [
        (0, 0.341, [0, 0.1, 0.2, 0.3, 0.4]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.205, 0.264, [0.2, 0.22, 0.24, 0.26, 0.28]),
        (0, 12_345, [0, 2_500, 5_000, 7_500, 10_000, 12_500]),
        (-0.3, 1.2, [-0.5, 0, 0.5, 1, 1.5]),
    ],
)
def test_ticks_are_round_and_hold_the_data(low: float, high: float, want: list[float]) -> None:
    assert charts.ticks(low, high) == pytest.approx(want)


@pytest.mark.parametrize("value", [0.0, 3.5, -2.0])
def test_ticks_of_a_single_value_still_span_something(value: float) -> None:
    found = charts.ticks(value, value)
    assert found[0] < value < found[-1]


def test_a_bar_is_as_long_as_its_share_of_the_scale() -> None:
    drawn = charts.bar(0.3, 0.4, kind="merged", label="Merged <30 %>", low=0.25, high=0.5)
    picture = ElementTree.fromstring(drawn)
    bar = next(part for part in picture if part.get("class") == "bar merged")
    assert bar.get("width") == "75.00%"
    whisker = next(part for part in picture if part.get("class") == "whisker")
    assert (whisker.get("x1"), whisker.get("x2")) == ("62.50%", "100.00%")  # cut at the end of the scale
    assert picture.get("aria-label") == "Merged <30 %>"
    assert "whisker" not in charts.bar(0.3, 0.4, kind="merged", label="", low=None, high=None)
    assert charts.bar(-1, 0.4, kind="a", label="").count('width="0.00%"') == 1


def test_lines_stay_inside_the_picture_and_labels_apart() -> None:
    lines = [Line(f"part {n}", "first", [(0, 5), (10, 0.01 * n)]) for n in range(6)]
    picture = ElementTree.fromstring(charts.lines(lines, x_label="step", y_label="loss", label="losses"))
    for line in picture.findall("polyline"):
        for x, y in (map(float, pair.split(",")) for pair in (line.get("points") or "").split()):
            assert charts.LEFT <= x <= charts.WIDTH
            assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM
    labels = [float(text.get("y") or 0) for text in picture.findall("text") if (text.get("class") or "").startswith("name")]
    assert len(labels) == 6
    assert min(b - a for a, b in pairwise(labels)) >= charts.LINE_HEIGHT - 0.2
    assert max(labels) <= charts.HEIGHT - charts.BOTTOM + 5


def test_a_line_marks_its_best_point_and_an_empty_chart_is_nothing() -> None:
    drawn = charts.lines(
        [Line("recall@50", "first", [(1, 0.2), (2, 0.3), (3, 0.25)], best=2)], x_label="", y_label="", label="", as_percent=True
    )
    assert len(re.findall("<circle", drawn)) == 1
    assert "24 %" in drawn
    assert "recall@50" not in drawn  # a single line needs no name beside it
    assert charts.lines([Line("a", "first", [])], x_label="", y_label="", label="") == ""
    assert "<circle" in charts.lines([Line("a", "first", [(1, 0.5)])], x_label="", y_label="", label="")  # one epoch: a dot


def test_dots_stand_where_their_values_are_and_are_the_fuller_the_higher_their_shade() -> None:
    drawn = charts.dots([(0, -2, 0.1), (1, -1, 0.3), (2, -2, None)], x_label="a <b", y_label="", shade_label="recall", label="")
    circles = ElementTree.fromstring(drawn).findall("circle")
    assert [(c.get("class"), c.get("fill-opacity")) for c in circles] == [("shade", "0.15"), ("shade", "1.00"), ("ring", None)]
    x, y = ([float(c.get(name) or 0) for c in circles] for name in ("cx", "cy"))
    assert x == pytest.approx([charts.LEFT, (charts.LEFT + charts.WIDTH - 16) / 2, charts.WIDTH - 16])
    assert y == pytest.approx([charts.HEIGHT - charts.BOTTOM, charts.TOP, charts.HEIGHT - charts.BOTTOM])
    assert "recall 10.0 % to 30.0 %" in drawn
    assert "a &lt;b" in drawn
    assert charts.dots([], x_label="", y_label="", shade_label="", label="") == ""
    assert 'fill-opacity="1.00"' in charts.dots([(0, 0, 0.5)], x_label="", y_label="", shade_label="", label="")


def test_named_dots_stand_where_their_values_are_and_names_never_cover_each_other() -> None:
    points = [NamedDot(f"channel <{n}>", "channel", 0.5 + 0.004 * n, 0.3 + 0.001 * n) for n in range(5)]
    drawn = charts.named_dots([*points, NamedDot("all", "merged", 0.0, 0.4)], x_label="coverage", y_label="recall", label="")
    picture = ElementTree.fromstring(drawn)
    circles = [(float(c.get("cx") or 0), float(c.get("cy") or 0)) for c in picture.findall("circle")]
    assert len(circles) == 6
    assert circles[0] == pytest.approx((charts.LEFT, charts.TOP))  # no coverage, and the highest recall of all
    labels = [text for text in picture.findall("text") if (text.get("class") or "").startswith("name")]
    assert {text.text for text in labels} == {*(f"channel <{n}>" for n in range(5)), "all"}
    heights = sorted(float(text.get("y") or 0) for text in labels)
    assert len(picture.findall("path")) == 6  # each point is led to its name
    assert min(b - a for a, b in pairwise(heights)) >= charts.LINE_HEIGHT - 0.2
    assert charts.named_dots([], x_label="", y_label="", label="") == ""


def test_named_dots_of_numbers_and_shares() -> None:
    drawn = charts.named_dots(
        [NamedDot("Flat", "channel", 500, 1.0), NamedDot("IVF", "merged", 4000, 0.93)],
        x_label="",
        y_label="",
        label="",
        x_shares=False,
        y_low=0.9,
    )
    texts = [part.text for part in ElementTree.fromstring(drawn).findall("text")]
    assert {"4k", "90 %", "100 %", "Flat", "IVF"} <= set(texts)
    assert "0 %" not in texts
