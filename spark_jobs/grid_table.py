"""The table of a grid: its lines in the paper's layout, what is to be said of it in words, and both as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spark_jobs.grid_scores import Gain, Number, Scores, corrected, gain_of_one, gain_over_seeds, gain_over_users, number
from spark_jobs.grids import Cell, Grid
from spark_jobs.significance import ALPHA

MOST_POP = "most_pop"


@dataclass(frozen=True)
class Line:
    """One cell in one channel. numbers, gains: one a column, None where there is none yet. published: the paper's, () elsewhere.

    seeds: those that are finished. state: finished | "1 of 3 seeds" | unfinished | failed, and why.
    """

    channel: str
    cell: str
    label: str
    seeds: tuple[int, ...]
    state: str
    numbers: tuple[Number | None, ...]
    gains: tuple[Gain | None, ...]
    published: tuple[float, ...]


Found = Mapping[tuple[str, int], Scores]  # (cell, seed) -> what it reached; those that are not finished are not in it


def lines_of(grid: Grid, found: Found, seeds: Sequence[int], failed: Mapping[tuple[str, int], str], data: str | None) -> list[Line]:
    """Every line of the table, in the paper's order. failed: why runs ended. data: the data set as the paper calls it."""
    published = grid.published.get(data or "", {})
    lines = []
    for channel in grid.channels:
        for cell in grid.cells:
            done = tuple(seed for seed in seeds if (cell.name, seed) in found)
            numbers = tuple(number([found[cell.name, seed].of(channel, column) for seed in done]) for column in grid.columns)
            gains = gains_of(grid, cell, channel, found, done) if cell.base else ()
            state = _state(cell, done, seeds, failed)
            lines.append(Line(channel, cell.name, cell.label, done, state, numbers, gains, published.get((channel, cell.name), ())))
    told = iter(corrected([gain for line in lines for gain in line.gains]))
    return [replace(line, gains=tuple(next(told) for _ in line.gains)) for line in lines]


def gains_of(grid: Grid, cell: Cell, channel: str, found: Found, done: Sequence[int]) -> tuple[Gain | None, ...]:
    """One a column, over its base, from the seeds that both have finished; None where there is none yet."""
    assert cell.base is not None
    both = [seed for seed in done if (cell.base, seed) in found]
    if not both:
        return tuple(None for _ in grid.columns)
    base, own = ([found[name, seed] for seed in both] for name in (cell.base, cell.name))
    gains: list[Gain | None] = []
    for column in grid.columns:
        values = [[value for scores in side if (value := scores.of(channel, column)) is not None] for side in (base, own)]
        if min(map(len, values)) < len(both):
            gains.append(None)
            continue
        if len(both) > 1:
            gains.append(gain_over_seeds(*values))
            continue
        users = [side[0].by_user(channel, column) for side in (base, own)]
        if users[0] is None or users[1] is None:
            gains.append(gain_of_one(values[0][0], values[1][0]))
        else:
            gains.append(gain_over_users(users[0], users[1]))
    return tuple(gains)


def _state(cell: Cell, done: Sequence[int], seeds: Sequence[int], failed: Mapping[tuple[str, int], str]) -> str:
    if len(done) == len(seeds):
        return "finished"
    why = [reason for (name, _), reason in failed.items() if name == cell.name]
    if done:
        return f"{len(done)} of {len(seeds)} seeds"
    return f"failed: {why[0]}" if why else "unfinished"


# ---- in words --------------------------------------------------------------------------------------------------------


def words_of(grid: Grid, lines: Sequence[Line], found: Found, seeds: Sequence[int], data: str | None) -> list[str]:
    """What a reader must know of the table, one sentence or two each; every cell that does not gain or is not there by name."""
    gains = [gain for line in lines for gain in line.gains if gain is not None]
    above, below = (sum(map(side, gains)) for side in (is_above, is_below))
    untold = sum(gain.low is None for gain in gains)
    words = []
    if gains:
        rest = len(gains) - above - below - untold
        words.append(
            f"Of {len(gains)} gains {above} are told from 0 and above it, {below} below (Holm); {rest} cannot be told from 0"
            + (f", and {untold} have no interval." if untold else ".")
        )
        words += [f"{grid.channels[line.channel]}, {line.label}: {sentence}" for line in lines if (sentence := _judged(grid, line))]
        words += _how(gains)
    words += _missing(grid, lines, found, seeds)
    words += _popular(grid, found)
    if data in grid.published:
        words.append(f"Lines in italics are the paper's own ({grid.source}), on {data}, with its own split, sizes and tuning.")
    elif grid.published:
        words.append(f"{grid.source} was measured on {' and '.join(grid.published)}, not on this data, so its numbers do not stand here.")
    return words + list(grid.notes)


def is_told(gain: Gain) -> bool:
    """Whether it is told from 0, all gains of the table together in mind."""
    return gain.p_holm is not None and gain.p_holm < ALPHA


def is_above(gain: Gain) -> bool:
    """Whether it is told from 0, and above it."""
    return is_told(gain) and gain.percent > 0


def is_below(gain: Gain) -> bool:
    """Whether it is told from 0, and below it."""
    return is_told(gain) and gain.percent < 0


def _judged(grid: Grid, line: Line) -> str:
    """Of a cell with a base: where it does not gain; "" where it has no gains yet."""
    told = [(column.label, gain) for column, gain in zip(grid.columns, line.gains, strict=False) if gain is not None]
    if not told:
        return ""
    lost = [f"{label} ({gain.percent:+.1f} %{', told from 0' if is_below(gain) else ''})" for label, gain in told if gain.percent <= 0]
    if not lost:
        return f"gains in all {len(told)} columns, {sum(is_above(gain) for _, gain in told)} of them told from 0."
    verb = "gains nowhere" if len(lost) == len(told) else f"gains in {len(told) - len(lost)} of {len(told)} columns"
    return f"{verb}; not in {', '.join(lost)}."


def _how(gains: Sequence[Gain]) -> list[str]:
    words = []
    if any(gain.over == "seeds" for gain in gains):
        words.append("Intervals of gains over seeds are Welch's t on the logarithms of their means; ± their standard deviation.")
    users = [gain.count for gain in gains if gain.over == "users" and gain.low is not None]
    if users:
        words.append(f"Intervals from one seed are over {max(users):,} users, paired; what another seed would change is not in them.")
    words.append("Each interval holds by itself; told from 0 is what stays so after Holm's correction for all gains of the table.")
    return words


def _missing(grid: Grid, lines: Sequence[Line], found: Found, seeds: Sequence[int]) -> list[str]:
    failed = sorted({f"{line.label} ({line.state})" for line in lines if line.state.startswith("failed")})
    open_ = [
        f"{cell.label} (seeds {', '.join(map(str, left))})"
        for cell in grid.cells
        if (left := [seed for seed in seeds if (cell.name, seed) not in found])
        and not any(line.cell == cell.name and line.state.startswith("failed") for line in lines)
    ]
    words = [f"Failed: {'; '.join(failed)}."] if failed else []
    return words + ([f"Unfinished: {'; '.join(open_)}. The same command goes on with them."] if open_ else [])


def _popular(grid: Grid, found: Found) -> list[str]:
    """What popularity alone reaches on the same users, as the paper's tables do not say."""
    for scores in found.values():
        told = [(c, scores.values[MOST_POP, *c.key]) for c in grid.columns if (MOST_POP, *c.key) in scores.values]
        if told:
            shown = ", ".join(f"{c.label} {value_text(grid, value)}" for c, value in told)
            return [f"The most popular items, the same for all, reach {shown} on these {scores.num_users:,} users."]
    return []


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(grid: Grid, lines: Sequence[Line], words: Sequence[str], *, heading: str, facts: str) -> str:
    """The whole of it: a heading, a line of facts, the table, the words as a list."""
    unit = " in percent" if grid.scale == 100 else " as shares"
    rows = [["channel", "model", "seeds", *(column.label for column in grid.columns)]]
    for line in lines:
        channel, label = grid.channels[line.channel], line.label.replace("*", "\\*")
        if line.seeds:
            note = f"{len(line.seeds)}" if line.state == "finished" else line.state.removesuffix(" seeds")
            rows.append([channel, label, note, *(_number(grid, one) for one in line.numbers)])
        else:
            rows.append([channel, label, line.state.partition(":")[0], *("–" for _ in grid.columns)])
        if line.published:
            rows.append(["", f"*{label}, paper*", "", *(f"*{value:.{grid.digits}f}*" for value in line.published)])
        if any(line.gains):
            rows.append(["", "gain", "", *(gain_text(one) for one in line.gains)])
    table = _aligned(rows)
    return "\n".join(
        [f"### {heading}", "", f"{facts} Shares of held-out clicks{unit}.", "", *table, "", *(f"- {one}" for one in words), ""]
    )


def value_text(grid: Grid, share: float) -> str:
    """A share as the table shows it."""
    return f"{grid.scale * share:.{grid.digits}f}"


def _number(grid: Grid, one: Number | None) -> str:
    if one is None:
        return "–"
    return value_text(grid, one.mean) + (f" ± {value_text(grid, one.spread)}" if one.spread is not None else "")


def gain_text(one: Gain | None) -> str:
    """A gain as the table shows it: percent, and its interval in brackets where it has one."""
    if one is None:
        return "–"
    shown = f"{one.percent:+.1f} %"
    return shown if one.low is None or one.high is None else f"{shown} [{one.low:+.1f}, {one.high:+.1f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up as text, too: words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def shown(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 2) if i < 2 else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    return [shown(rows[0]), f"|{rule}|", *map(shown, rows[1:])]
