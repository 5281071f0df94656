"""What a grid is asked beyond its numbers: whether it shows what the paper found, said with the interval where it does not.

A gate is fixed beforehand, and nothing is tuned for it: one that is missed is a result as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spark_jobs.grid_scores import Gain
from spark_jobs.grid_table import MOST_POP, Found, Line, gain_text, gains_of, value_text
from spark_jobs.grids import Grid
from spark_jobs.metrics.scoring import ALL

SEEDS: Final = 3
SHARE: Final = 0.8  # of MIC's gains that are to be above 0
OWN: Final = {"u2i": "dssm-ui", "u2u2i": "dssm-uu", "i2i": "dssm-ii"}  # the single contrast that fits a channel
# what each contrast is to lower, by figure 4 of MIC: cell -> metric of the vectors
LOWERED: Final = {"dssm-ui": "ui_align", "dssm-uu": "uu_uniform", "dssm-ii": "ii_uniform"}

Gate = Callable[[Grid, Sequence[Line], Found], Iterator[str]]


def gates_of(grid: Grid, lines: Sequence[Line], found: Found) -> list[str]:
    """A sentence or two for each gate of the grid that its finished cells can answer, in full or in part."""
    words = [word for name in ("popularity", *grid.gates) for word in GATES[name](grid, lines, found)]
    seeds = max((len(line.seeds) for line in lines), default=0)
    return [*words, f"Gates are meant for {SEEDS} seeds or more; here is {seeds}."] if words and seeds < SEEDS else words


def above_popularity(grid: Grid, lines: Sequence[Line], found: Found) -> Iterator[str]:
    """Whether every model in every channel finds more than what is popular."""
    popular = next((scores.values for scores in found.values()), {})
    known = [(n, popular[MOST_POP, *c.key]) for n, c in enumerate(grid.columns) if (MOST_POP, *c.key) in popular]
    known = [(n, value) for n, value in known if grid.columns[n].metric != "coverage"]
    done = [line for line in lines if line.seeds]
    below = {
        f"{grid.channels[line.channel]}, {line.label}": lost
        for line in done
        if (lost := sum((one := line.numbers[n]) is not None and one.mean <= value for n, value in known))
    }
    if known and done:
        shown = "; ".join(f"{name} ({lost} of {len(known)} columns)" for name, lost in below.items())
        yield f"Gate, every model above the most popular items: {_state(not below)}{f'; not above {shown}' if shown else ''}."


def share_of_gains(grid: Grid, lines: Sequence[Line], found: Found) -> Iterator[str]:
    """MIC's table 2: how many of its gains are above 0, DSSM's in U2I, ComiRec over YoutubeDNN."""
    total = sum(len(grid.columns) for line in lines if grid.cell(line.cell).base)
    gains = [gain for line in lines for gain in line.gains if gain is not None]
    above = sum(gain.percent > 0 for gain in gains)
    if gains:
        held = True if above >= SHARE * total else False if above + total - len(gains) < SHARE * total else None
        part = "" if len(gains) == total else f" of {len(gains)} that are known"
        share = f"{100 * above / len(gains):.0f} %"
        yield f"Gate, at least {100 * SHARE:.0f} % of {total} gains above 0: {_state(held)}; {above}{part} are ({share})."
    yield from _least(grid, "u2i", "dssm-mic", "dssm", 5, ("Recall@20",), found)
    yield from _least(grid, "u2i", "comirec", "dnn", 0, ("Recall@20",), found)


def single_contrasts(grid: Grid, lines: Sequence[Line], found: Found) -> Iterator[str]:
    """MIC's table 3: the order of its three contrasts in each channel, and what each does to the vectors."""
    label, shown, best = grid.columns[0].label, list[str](), 0
    for channel, own in OWN.items():
        numbers = {line.cell: (one.mean, line.label) for line in lines if line.channel == channel and (one := line.numbers[0]) is not None}
        order = sorted((cell for cell in OWN.values() if cell in numbers), key=lambda cell: -numbers[cell][0])
        if len(order) == len(OWN):
            best += order[0] == own
            ordered = ", ".join(f"{numbers[cell][1]} {value_text(grid, numbers[cell][0])}" for cell in order)
            shown.append(f"{grid.channels[channel]} {ordered}")
    if shown:
        held = True if best >= 2 else False if best + len(OWN) - len(shown) < 2 else None
        yield f"Single contrasts by {label}, the best first: {'; '.join(shown)}."
        yield f"Gate, a channel's own contrast (UI, UU, II) is its best in 2 of 3: {_state(held)}; it is in {best} of {len(shown)}."
    yield from _lowered(found)


def _lowered(found: Found) -> Iterator[str]:
    told = []
    for cell, metric in LOWERED.items():
        key = ("vectors", metric, 0, ALL)
        both = [seed for name, seed in found if name == cell and ("dssm", seed) in found]
        if both and all(key in found[name, seed].values for name in (cell, "dssm") for seed in both):
            own, base = (float(np.mean([found[name, seed].values[key] for seed in both])) for name in (cell, "dssm"))
            told.append((own < base, f"{metric} {own:.3f} with {cell.removeprefix('dssm-').upper()}, {base:.3f} without"))
    if told:
        held = False if not all(lower for lower, _ in told) else True if len(told) == len(LOWERED) else None
        yield f"Gate, each contrast lowers its own measure of the vectors: {_state(held)}; {'; '.join(text for _, text in told)}."


def tasks(grid: Grid, lines: Sequence[Line], found: Found) -> Iterator[str]:
    """MicRec's table 2: the features over the tower, all tasks over the features, the order of the towers."""
    yield from _least(grid, "u2i", "ican-fea", "ican", 2, ("HIT@50", "HIT@500"), found)
    yield from _least(grid, "u2i", "ican-all", "ican-fea", 1, ("HIT@50", "HIT@500"), found)
    towers = [(line.numbers[0], line.label) for line in lines if grid.cell(line.cell).base is None]
    known = [(one.mean, label) for one, label in towers if one is not None]
    if len(known) > 1:
        ordered = ", ".join(f"{label} {value_text(grid, value)}" for value, label in sorted(known))
        paper = ", ".join(label for _, label in towers)
        yield f"Towers by {grid.columns[0].label}, the least first: {ordered}; in the paper {paper}, within 8 %."


def coverage(grid: Grid, lines: Sequence[Line], found: Found) -> Iterator[str]:
    """MicRec's table 4: the task of sessions widens what is recommended."""
    yield from _least(grid, "u2i", "ican-all", "ican-fea-sem", 0, ("coverage@50", "coverage@500"), found)


GATES: Final[Mapping[str, Gate]] = {
    "popularity": above_popularity,
    "share_of_gains": share_of_gains,
    "single_contrasts": single_contrasts,
    "tasks": tasks,
    "coverage": coverage,
}


def _least(grid: Grid, channel: str, name: str, base: str, percent: float, labels: Sequence[str], found: Found) -> Iterator[str]:
    """Whether one cell is above another by so many percent, in those columns; nothing where one of them is not finished."""
    cell = replace(grid.cell(name), base=base)
    gains = gains_of(grid, cell, channel, found, sorted(seed for own, seed in found if own == name))
    told = [(column.label, gain) for column, gain in zip(grid.columns, gains, strict=True) if gain is not None and column.label in labels]
    if len(told) == len(labels):
        held, asked = all(_reaches(gain, percent) for _, gain in told), f"by {percent:g} % or more" if percent else "at all"
        shown = ", ".join(f"{label} {gain_text(gain)}" for label, gain in told)
        yield f"Gate, {cell.label} above {grid.cell(base).label} in {grid.channels[channel]} {asked}: {_state(held)}; {shown}."


def _reaches(gain: Gain, percent: float) -> bool:
    return gain.percent >= percent if percent else gain.percent > 0


def _state(held: bool | None) -> str:
    return {True: "held", False: "missed", None: "open"}[held]
