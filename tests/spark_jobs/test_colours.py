"""Text can be read: colours of the style sheet against what they stand on, by WCAG 2.1's contrast of 4.5 for text."""

import re

import pytest

from spark_jobs.report_page import page_file

SHEET = page_file("report.css")
SCHEMES = dict(
    zip(("light", "dark", "print"), (dict(re.findall(r"--([\w-]+): ([^;]+);", part)) for part in SHEET.split(":root {")[1:]), strict=True)
)


def luminance(colour: list[float]) -> float:
    """Relative luminance of red, green and blue in 0..255. Source: WCAG 2.1, relative luminance."""
    red, green, blue = (c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> list[float]:
    return [int(colour[n : n + 2], 16) for n in (1, 3, 5)] if colour.startswith("#") else [float(part) for part in colour.split(",")]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("text", ["ink", "soft", "faint", "accent"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_text_stands_out(scheme: str, text: str, ground: str) -> None:
    assert contrast(rgb(SCHEMES[scheme][text]), rgb(SCHEMES[scheme][ground])) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_stand_out_in_the_fullest_cell_of_the_channels(scheme: str) -> None:
    (most,) = re.findall(r"format\(share \* ([\d.]+)\)", page_file("report.html.j2"))
    mark, page = rgb(SCHEMES[scheme]["mark"]), rgb(SCHEMES[scheme]["page"])
    full = [float(most) * a + (1 - float(most)) * b for a, b in zip(mark, page, strict=True)]
    assert contrast(rgb(SCHEMES[scheme]["ink"]), full) >= 4.5


def test_every_colour_of_text_is_looked_at() -> None:
    used = set(re.findall(r"(?<![-\w])(?:color|fill): var\(--([\w-]+)\)", SHEET + page_file("ab_test.html.j2")))
    shapes = {"accent-soft", "neutral", "page"}  # bars, marks and dots
    assert used - shapes == {"ink", "soft", "faint", "accent"}
