"""What the tables of the papers are asked: from hand-made numbers, one gate at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from spark_jobs.grid_gates import GATES, gates_of
from spark_jobs.grid_table import lines_of
from spark_jobs.grids import GRIDS, Column, Grid


@dataclass
class Made:
    """The same number in each column, or by (channel, column label)."""

    number: float
    named: Mapping[tuple[str, str], float] = field(default_factory=dict)
    values: Mapping[tuple[str, str, int, str], float] = field(default_factory=dict)
    num_users: int = 10

    def of(self, channel: str, column: Column) -> float:
        return self.named.get((channel, column.label), self.number)

    def by_user(self, channel: str, column: Column) -> None:
        return None


def gates(grid: Grid, **reached: Made) -> list[str]:
    """The words of a table of two seeds, cells by name."""
    found = {(name.replace("_", "-"), seed): made for name, made in reached.items() for seed in (1, 2)}
    return gates_of(grid, lines_of(grid, found, [1, 2], {}, None), found)


def test_every_gate_that_a_grid_names_is_there():
    assert {name for grid in GRIDS.values() for name in grid.gates} | {"popularity"} == set(GATES)


def test_mics_gains_are_counted_of_all_that_the_table_has():
    cells = {f"{name}{own}": Made(0.1 + 0.01 * bool(own)) for name in ("dnn", "comirec", "dssm") for own in ("", "_mic")}
    grid = GRIDS["mic_table2"]
    words = gates(grid, **cells)
    assert words[0] == "Gate, at least 80 % of 54 gains above 0: held; 54 are (100 %)."
    assert words[1] == "Gate, DSSM + MIC above DSSM in U2I by 5 % or more: held; Recall@20 +10.0 %."
    assert words[2] == "Gate, ComiRec above DNN in U2I at all: missed; Recall@20 +0.0 %."
    assert words[-1] == "Gates are meant for 3 seeds or more; here is 2."
    few = {name: made for name, made in cells.items() if "dssm" in name}
    assert gates(grid, **few)[0] == "Gate, at least 80 % of 54 gains above 0: open; 18 of 18 that are known are (100 %)."
    few["dssm_mic"] = Made(0.1, {("u2i", "Recall@20"): 0.104})
    assert gates(grid, **few)[:2] == [
        "Gate, at least 80 % of 54 gains above 0: missed; 1 of 18 that are known are (6 %).",
        "Gate, DSSM + MIC above DSSM in U2I by 5 % or more: missed; Recall@20 +4.0 %.",
    ]


def test_mics_contrasts_are_put_in_order():
    own = {"ui": ("u2i", "ui_align"), "uu": ("u2u2i", "uu_uniform"), "ii": ("i2i", "ii_uniform")}
    measures = {("vectors", metric, 0, "all"): -2.0 for _, metric in own.values()}
    cells = {
        f"dssm_{name}": Made(0.1, {(channel, "Recall@20"): 0.2}, measures | {("vectors", metric, 0, "all"): -2.5})
        for name, (channel, metric) in own.items()
    }
    words = gates(GRIDS["mic_table3"], dssm=Made(0.1, values=measures), **cells)
    assert words[0].startswith("Single contrasts by Recall@20, the best first: U2I UI 20.000, UU 10.000, II 10.000; U2U UU 20.000, UI")
    assert words[1] == "Gate, a channel's own contrast (UI, UU, II) is its best in 2 of 3: held; it is in 3 of 3."
    assert words[2].startswith("Gate, each contrast lowers its own measure of the vectors: held; ui_align -2.500 with UI, -2.000 without;")
    cells["dssm_uu"] = Made(0.3, values=measures)
    words = gates(GRIDS["mic_table3"], dssm=Made(0.1, values=measures), **cells)
    assert words[1].endswith("missed; it is in 1 of 3.")
    assert "vectors: missed;" in words[2]


@pytest.mark.parametrize(("final", "state"), [(0.104, "held"), (0.1025, "missed")])
def test_micrecs_tasks_each_add_to_the_last(final, state):
    words = gates(GRIDS["micrec_table2"], fm=Made(0.11), ican=Made(0.1), ican_fea=Made(0.1025), ican_all=Made(final))
    assert words[0] == "Gate, RFM* = MicRec (fea) above ICAN in U2I by 2 % or more: held; HIT@50 +2.5 %, HIT@500 +2.5 %."
    assert words[1].startswith(f"Gate, MicRec (final) above RFM* = MicRec (fea) in U2I by 1 % or more: {state};")
    assert words[2].startswith("Towers by HIT@50, the least first: ICAN 0.1000, FM 0.1100; in the paper FM, YoutubeDNN, DeepFM,")
    words = gates(GRIDS["micrec_table4"], ican_all=Made(0.1), ican_fea_sem=Made(0.08))
    assert words[0].startswith("Gate, MicRec above – session-level item CL in U2I at all: held; coverage@50 +25.0 %")


def test_models_are_above_popularity():
    popular = {("most_pop", "recall", 20, "all"): 0.05, ("most_pop", "coverage", 20, "all"): 0.9}
    grid = GRIDS["mic_table2"]
    assert gates(grid, dnn=Made(0.06, values=popular))[0] == "Gate, every model above the most popular items: held."
    worse = gates(grid, dnn=Made(0.06, {("i2i", "Recall@20"): 0.04}, popular))[0]
    assert worse == "Gate, every model above the most popular items: missed; not above I2I, DNN (1 of 1 columns)."
    assert gates(grid) == []
