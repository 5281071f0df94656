"""Small pictures as inline SVG. They carry classes only: colours, fonts and dark mode come from the page's style sheet.

Bars have widths in percent, so that they fit any page; charts of lines and of dots scale as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 308
LEFT, TOP, BOTTOM = 60, 34, 52  # room for the large letters of narrow pages
LINE_HEIGHT = 20  # between labels at the ends of lines
LETTER, NAMES = 10, 0.4  # width of a label's letter, and the share of the picture that labels take, at most


@dataclass(frozen=True)
class Line:
    """One line of a chart. kind: CSS class. points: finite, x ascending. best: the x of a point to mark, None = none."""

    label: str
    kind: str
    points: Sequence[Point]
    best: float | None = None


# ---- scales --------------------------------------------------------------------------------------------------------


def step_of(span: float, most: int = 5) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten of which at most `most` fit into the span (> 0)."""
    power = 10.0 ** floor(log10(span / most))
    return float(next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= most * (1 + 1e-9)))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`; two at least."""
    if not high > low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    step = step_of(high - low, most)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(step * n, 12) for n in range(first, last + 1)]


def number(value: float) -> str:
    """A tick label: as many digits as it needs, thousands as k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


# ---- bars ----------------------------------------------------------------------------------------------------------


def bar(
    value: float, limit: float, *, kind: str, label: str, low: float | None = None, high: float | None = None, grid: bool = True
) -> str:
    """One horizontal bar on a scale from 0 to `limit` (> 0), with the interval low..high as a whisker if both are given.

    kind: CSS class. label: what a screen reader says. grid: lines at the round numbers that `scale` names.
    """
    marks = [_percent(mark, limit) for mark in ticks(0, limit)[1:-1]] if grid else []
    parts = [f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="28"/>' for x in marks]
    parts.append(f'<rect class="bar {kind}" x="0" y="6" width="{_percent(value, limit)}" height="16" rx="2"/>')
    if low is not None and high is not None and isfinite(low) and isfinite(high):
        a, b = _percent(low, limit), _percent(high, limit)
        parts.append(f'<line class="whisker" x1="{a}" x2="{b}" y1="14" y2="14"/>')
        parts += [f'<line class="whisker" x1="{x}" x2="{x}" y1="10" y2="18"/>' for x in (a, b)]
    return f'<svg class="row" width="100%" height="28" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def scale(limit: float, *, as_percent: bool) -> str:
    """The axis below a column of bars: the round numbers of 0..limit."""
    marks = ticks(0, limit)
    parts = []
    for n, mark in enumerate(marks):
        minor = " minor" if n % 2 else ""  # left out on narrow pages
        anchor = "start" if mark == marks[0] else "end" if mark == marks[-1] else "middle"
        text = f"{mark * 100:g} %" if as_percent else number(mark)
        parts.append(f'<text class="tick{minor}" x="{_percent(mark, limit)}" y="14" text-anchor="{anchor}">{text}</text>')
    return f'<svg class="row" width="100%" height="20" aria-hidden="true">{"".join(parts)}</svg>'


def _percent(value: float, limit: float) -> str:
    return f"{100 * min(max(value / limit, 0), 1):.2f}%"


# ---- lines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """Where a value stands in the picture. x, y: the values at both ends of the axes. right: the x where the plot ends."""

    x: tuple[float, float]
    y: tuple[float, float]
    right: float

    def across(self, value: float) -> float:
        low, high = self.x
        share = (value - low) / (high - low) if high > low else 0.5  # a single step or epoch stands in the middle
        return LEFT + share * (self.right - LEFT)

    def up(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y[0]) / ((self.y[1] - self.y[0]) or 1) * (HEIGHT - TOP - BOTTOM)


def lines(series: Sequence[Line], *, x_label: str, y_label: str, label: str, as_percent: bool = False) -> str:
    """A line chart over whole numbers (steps, epochs), every line named at its end; "" if no line has a point."""
    series = [line for line in series if line.points]
    if not series:
        return ""
    xs, ys = ([point[axis] for line in series for point in line.points] for axis in (0, 1))
    up = ticks(min(ys), max(ys))
    names = max(len(line.label) for line in series) if len(series) > 1 else 0
    frame = _Frame((min(xs), max(xs)), (up[0], up[-1]), right=WIDTH - 16 - min(LETTER * names, WIDTH * NAMES))
    # whole numbers inside the data only: steps and epochs come whole, and the lines use the full width
    across = [mark for mark in ticks(*frame.x, most=6) if frame.x[0] <= mark <= frame.x[1] and mark == int(mark)]
    parts = [_tick_up(mark, frame, as_percent) for mark in up] + [_tick_across(mark, frame) for mark in across]
    parts.append(f'<text class="axis" x="0" y="14">{escape(y_label)}</text>')
    parts.append(f'<text class="axis" x="{frame.right:.1f}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    parts += [_line(line, frame) for line in series] + _end_labels(series, frame)
    return _chart(parts, label)


def _tick_up(mark: float, frame: _Frame, as_percent: bool) -> str:
    y, text = frame.up(mark), f"{mark * 100:g} %" if as_percent else number(mark)
    line = f'<line class="grid" x1="{LEFT}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _tick_across(mark: float, frame: _Frame, as_percent: bool = False) -> str:
    x, text = frame.across(mark), f"{mark * 100:g} %" if as_percent else number(mark)
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 26}" text-anchor="middle">{text}</text>'


def _line(line: Line, frame: _Frame) -> str:
    places = [(frame.across(x), frame.up(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="line {line.kind}" points="{path}"/>']
    if len(places) == 1 or line.best is not None:
        marked = [place for place, (x, _) in zip(places, line.points, strict=True) if line.best in (x, None)]
        parts += [f'<circle class="dot {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>' for x, y in marked]
    return "".join(parts)


def _end_labels(series: Sequence[Line], frame: _Frame) -> list[str]:
    """The names at the right ends, moved apart where they would overlap, and kept inside the picture."""
    wanted = sorted(((frame.up(line.points[-1][1]), line) for line in series), key=lambda pair: pair[0]) if len(series) > 1 else []
    heights = _apart([at for at, _ in wanted])
    return [
        f'<text class="name {line.kind}" x="{frame.right + 8:.1f}" y="{y + 4:.1f}">{escape(line.label)}</text>'
        for y, (_, line) in zip(heights, wanted, strict=True)
    ]


# ---- dots ----------------------------------------------------------------------------------------------------------


def dots(points: Sequence[tuple[float, float, float | None]], *, x_label: str, y_label: str, shade_label: str, label: str) -> str:
    """Points (x, y, shade) as dots, the fuller the higher their shade, with the lowest and highest shade named; "" if there is none.

    A shade of None is drawn as an empty ring. Shades are shares and are written in percent.
    """
    if not points:
        return ""
    across, up = (ticks(min(values), max(values)) for values in ([p[0] for p in points], [p[1] for p in points]))
    frame = _Frame((across[0], across[-1]), (up[0], up[-1]), right=WIDTH - 16)
    shades = [shade for *_, shade in points if shade is not None]
    parts = [_tick_up(mark, frame, False) for mark in up] + [_tick_across(mark, frame) for mark in across]
    parts.append(f'<text class="axis" x="0" y="14">{escape(y_label)}</text>')
    parts.append(f'<text class="axis" x="{frame.right:.1f}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for x, y, shade in points:
        fill = "none" if shade is None else f"{_fullness(shade, shades):.2f}"
        parts.append(_dot(frame.across(x), frame.up(y), fill))
    if shades:
        named = sorted({min(shades), max(shades)})
        text = f"{escape(shade_label)} {' to '.join(f'{100 * shade:.1f} %' for shade in named)}"
        parts.append(f'<text class="axis" x="{frame.right:.1f}" y="14" text-anchor="end">{text}</text>')
    return _chart(parts, label)


def _fullness(shade: float, shades: Sequence[float]) -> float:
    low, high = min(shades), max(shades)
    return 1.0 if high == low else 0.15 + 0.85 * (shade - low) / (high - low)


def _dot(x: float, y: float, fill: str) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="4.5"'
    return f'<circle class="ring" {place}/>' if fill == "none" else f'<circle class="shade" {place} fill-opacity="{fill}"/>'


@dataclass(frozen=True)
class NamedDot:
    """A point with its name beside it. kind: CSS class."""

    name: str
    kind: str
    x: float
    y: float


def named_dots(points: Sequence[NamedDot], *, x_label: str, y_label: str, label: str, x_shares: bool = True, y_low: float = 0.0) -> str:
    """Named points, each led to its name at the right; "" if there is none. y: shares, in percent from y_low; x: from 0, x_shares: too."""
    if not points:
        return ""
    across, up = ticks(0, max(p.x for p in points)), ticks(y_low, max(p.y for p in points))
    names = max(len(p.name) for p in points)
    frame = _Frame((0, across[-1]), (up[0], up[-1]), right=WIDTH - 24 - min(LETTER * names, WIDTH * NAMES))
    parts = [_tick_up(mark, frame, True) for mark in up] + [_tick_across(mark, frame, x_shares) for mark in across]
    parts.append(f'<text class="axis" x="0" y="14">{escape(y_label)}</text>')
    parts.append(f'<text class="axis" x="{frame.right:.1f}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    ordered = sorted(points, key=lambda p: (-p.y, p.x))
    heights = _apart([frame.up(p.y) for p in ordered])
    start = frame.right + 16
    for p, y in zip(ordered, heights, strict=True):
        parts.append(
            f'<path class="lead" d="M{frame.across(p.x):.1f},{frame.up(p.y):.1f} L{frame.right:.1f},{y:.1f} L{start - 4:.1f},{y:.1f}"/>'
        )
        parts.append(f'<text class="name {p.kind}" x="{start:.1f}" y="{y + 4:.1f}">{escape(p.name)}</text>')
    parts += [f'<circle class="mark {p.kind}" cx="{frame.across(p.x):.1f}" cy="{frame.up(p.y):.1f}" r="5"/>' for p in ordered]
    return _chart(parts, label)


def _apart(wanted: Sequence[float]) -> list[float]:
    """Ascending heights, moved apart by a line's height where they are nearer, and kept inside the picture."""
    heights: list[float] = []
    floor_y = HEIGHT - BOTTOM - LINE_HEIGHT * (len(wanted) - 1)
    y = float(TOP) - LINE_HEIGHT
    for n, at in enumerate(wanted):
        y = max(y + LINE_HEIGHT, min(at, floor_y + LINE_HEIGHT * n))
        heights.append(y)
    return heights


def _chart(parts: Sequence[str], label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
