"""The table of a grid from hand-made numbers: means, spreads, gains with intervals as scipy gives them, and words that hide nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy import stats

from spark_jobs.grid_files import between
from spark_jobs.grid_scores import Gain, Scores, gain_of_one, gain_over_seeds, gain_over_users, number, per_user
from spark_jobs.grid_table import is_told, lines_of, markdown, words_of
from spark_jobs.grids import GRIDS
from spark_jobs.grids.layout import Cell, Column, Grid

RECALL, COVERAGE = Column("Recall@20", "recall", 20), Column("coverage@20", "coverage", 20)
X, Y = Cell("x", "X", {}, {}), Cell("x-mic", "X + MIC", {}, {}, base="x")
SMALL = Grid(
    title="A table",
    source="Somebody 2022, table 1",
    family="t",
    cells=(X, Y),
    channels={"u2i": "U2I"},
    columns=(RECALL, COVERAGE),
    defaults={},
    scale=100,
    digits=2,
    published={"Known": {("u2i", "x"): (5.0, 20.0), ("u2i", "x-mic"): (6.0, 25.0)}},
    notes=("A note.",),
)


@dataclass
class Made:
    """Scores by hand: a recall a user, and a coverage."""

    users: tuple[float, ...]
    coverage: float
    num_users: int = 3
    values: Mapping[tuple[str, str, int, str], float] = field(default_factory=dict)

    def of(self, channel: str, column: Column) -> float:
        if channel == "most_pop":
            return self.values[channel, *column.key]
        return self.coverage if column is COVERAGE else float(np.mean(self.users))

    def by_user(self, channel: str, column: Column) -> npt.NDArray[np.float64] | None:
        return None if column is COVERAGE else np.array(self.users)


@dataclass
class Drawn:
    """A value a user for each N below 50."""

    users: npt.NDArray[np.float64]

    def of(self, channel: str, column: Column) -> float:
        return float(self.users[column.n].mean())

    def by_user(self, channel: str, column: Column) -> npt.NDArray[np.float64]:
        return self.users[column.n]


def made(seeds, data=None, failed=None, **found):
    """(lines, words, Markdown) of SMALL: found x_1=Made(...) is cell x, seed 1."""
    cells = {(key.rsplit("_", 1)[0].replace("_", "-"), int(key.rsplit("_", 1)[1])): value for key, value in found.items()}
    lines = lines_of(SMALL, cells, seeds, failed or {}, data)
    words = words_of(SMALL, lines, cells, seeds, data)
    return lines, words, markdown(SMALL, lines, words, heading="H", facts="F.")


def test_one_seed_is_compared_user_by_user():
    base, own = (0.0, 0.5, 0.25), (0.5, 0.5, 0.5)
    lines, words, text = made([1], x_1=Made(base, 0.2), x_mic_1=Made(own, 0.3))
    # means 0.25 and 0.5; own - 2 base: 0.5, -0.5, 0, of variance 0.25, by the own mean: the logarithm's error
    half = 1.959964 * np.sqrt(0.25 / 3) / 0.5
    gain = lines[1].gains[0]
    assert (gain.percent, gain.over, gain.count) == (pytest.approx(100), "users", 3)
    assert (gain.low, gain.high) == pytest.approx((200 * np.exp(-half) - 100, 200 * np.exp(half) - 100))
    # differences 0.5, 0, 0.25: mean 0.25, sd 0.25; the only test of the table
    assert gain.p == gain.p_holm == pytest.approx(2 * stats.t.sf(np.sqrt(3), 2))
    assert lines[1].gains[1] == gain_of_one(0.2, 0.3)
    assert lines[1].gains[1].percent == pytest.approx(50)
    assert lines[1].gains[1].low is None
    assert lines[0].gains == ()
    assert "| U2I     | X + MIC |     1 |" in text
    assert "50.00" in text
    assert "+100.0 % [-35.5, +520.1]" in text
    assert "±" not in text
    assert "Of 2 gains 0 are told from 0 and above it, 0 below (Holm); 1 cannot be told from 0, and 1 have no interval." in words
    assert any("over 3 users, paired" in word for word in words)


def test_seeds_are_compared_by_welch_and_spread_is_their_standard_deviation():
    base, own = (0.10, 0.12, 0.11), (0.15, 0.16, 0.14)
    found = {f"x_{n}": Made((b,), 0.2) for n, b in enumerate(base, 1)} | {f"x_mic_{n}": Made((o,), 0.2) for n, o in enumerate(own, 1)}
    lines, words, text = made([1, 2, 3], **found)
    assert lines[0].numbers[0].spread == pytest.approx(0.01)
    assert "11.00 ± 1.00" in text
    gain = lines[1].gains[0]
    assert gain.percent == pytest.approx(100 * (0.15 / 0.11 - 1))
    test = stats.ttest_ind(np.log(own), np.log(base), equal_var=False)
    interval = test.confidence_interval()
    assert (gain.low, gain.high) == pytest.approx((100 * np.expm1(interval.low), 100 * np.expm1(interval.high)))
    assert gain.p == pytest.approx(test.pvalue)
    assert (gain.over, gain.count) == ("seeds", 3)
    assert any("Welch" in word for word in words)
    assert "Of 2 gains 1 are told from 0 and above it, 0 below (Holm); 0 cannot be told from 0, and 1 have no interval." in words


def test_a_slice_that_nobody_is_in_has_no_number_and_no_gain():
    tail = Column("Recall@20, tail", "recall", 20, "item popularity=tail")
    grid = replace(SMALL, columns=(RECALL, tail), published={})

    def scores(recall: float, **tails: float) -> Scores:
        return Scores(None, {("u2i", "recall", 20, "all"): recall} | {("u2i", *tail.key): value for value in tails.values()}, 3)

    found = {
        ("x", 1): scores(0.1, tail=0.02),
        ("x", 2): scores(0.2, tail=0.04),
        ("x-mic", 1): scores(0.2, tail=0.06),
        ("x-mic", 2): scores(0.3),
    }
    lines = lines_of(grid, found, [1, 2], {}, None)
    assert [one and one.mean for one in lines[0].numbers] == pytest.approx([0.15, 0.03])
    assert lines[1].numbers[1] is lines[1].gains[1] is None
    assert lines[1].gains[0].percent == pytest.approx(100 * (0.25 / 0.15 - 1))
    assert "–" in markdown(grid, lines, words_of(grid, lines, found, [1, 2], None), heading="H", facts="F.")


def test_the_papers_own_gains_stand_below_the_parts():
    """By hand from their tables: 10.819 over 9.659 and 6.459 over 5.742; 0.1967 over 0.1872 and 0.2911 over 0.2748."""
    mic, micrec = GRIDS["parts"].notes[-2:]
    assert "Recall@50 U2I +12.0 and +12.5; " in mic
    assert "HIT@50 features +5.1 and +5.9; " in micrec


def test_only_seeds_that_both_have_finished_are_compared():
    """Two seeds of the base and one of the cell: the pair of seed 2, not a mean against another."""
    lines, words, text = made([1, 2], x_1=Made((0.9, 0.9), 0.1), x_2=Made((0.1, 0.3), 0.1), x_mic_2=Made((0.2, 0.4), 0.1))
    assert lines[1].gains[0].percent == pytest.approx(50)
    assert lines[1].gains[0].over == "users"
    assert (lines[0].state, lines[1].state) == ("finished", "1 of 2 seeds")
    assert "Unfinished: X + MIC (seeds 1). The same command goes on with them." in words
    assert "1 of 2" in text


def test_a_cell_that_does_not_gain_is_named():
    same = tuple(np.linspace(0.1, 0.9, 50))
    worse = tuple(value - 0.05 - 0.001 * (n % 2) for n, value in enumerate(same))
    _, words, _ = made([1], x_1=Made(same, 0.2), x_mic_1=Made(worse, 0.2))
    assert "U2I, X + MIC: gains nowhere; not in Recall@20 (-10.1 %, told from 0), coverage@20 (+0.0 %)." in words
    _, words, _ = made([1], x_1=Made(same, 0.2), x_mic_1=Made(worse, 0.3))
    assert "U2I, X + MIC: gains in 1 of 2 columns; not in Recall@20 (-10.1 %, told from 0)." in words
    _, words, _ = made([1], x_1=Made(worse, 0.2), x_mic_1=Made(same, 0.3))
    assert "U2I, X + MIC: gains in all 2 columns, 1 of them told from 0." in words


def test_what_is_not_there_is_said():
    lines, words, text = made([1], failed={("x", 1): "the loss is not finite"})
    assert [line.state for line in lines] == ["failed: the loss is not finite", "unfinished"]
    assert "Failed: X (failed: the loss is not finite)." in words
    assert "Unfinished: X + MIC (seeds 1). The same command goes on with them." in words
    assert "| unfinished |" in text
    assert "gains" not in " ".join(words)


def test_the_papers_numbers_stand_only_beside_their_own_data():
    found = {"x_1": Made((0.1, 0.2), 0.1), "x_mic_1": Made((0.2, 0.2), 0.1)}
    _, words, text = made([1], data="Known", **found)
    assert "*X + MIC, paper*" in text
    assert "*6.00*" in text
    assert any("paper's own (Somebody 2022, table 1), on Known" in word for word in words)
    for data in (None, "Taobao"):
        _, words, text = made([1], data=data, **found)
        assert "paper*" not in text
        assert "Somebody 2022, table 1 was measured on Known, not on this data, so its numbers do not stand here." in words


def test_popularity_stands_beside_the_table():
    scores = Made((0.1,), 0.1, num_users=1234, values={("most_pop", "recall", 20, "all"): 0.0137})
    _, words, _ = made([1], x_1=scores)
    assert "The most popular items, the same for all, reach Recall@20 1.37 on these 1,234 users." in words


# ---- the statistics --------------------------------------------------------------------------------------------------


def over_users(rng: np.random.Generator, gain: float) -> tuple[Gain | None, float]:
    """A gain over 200 users whose hits depend on the user under both systems, and what it is of them in truth."""
    skill = rng.beta(2, 5, 200) / 2
    base, own = rng.binomial(20, skill) / 20, rng.binomial(20, skill * (1 + gain)) / 20
    return gain_over_users(base, own), gain


def over_seeds(rng: np.random.Generator, gain: float) -> tuple[Gain | None, float]:
    """A gain over five trainings a side, whose numbers spread by a tenth."""
    base, own = (mean * (1 + 0.1 * rng.standard_normal(5)) for mean in (0.1, 0.1 * (1 + gain)))
    return gain_over_seeds(list(base), list(own)), gain


@pytest.mark.parametrize("gain", [0.8, 0.0, -0.6])
@pytest.mark.parametrize("draw", [over_users, over_seeds])
def test_intervals_of_gains_hold_the_truth(draw, gain):
    """An interval of the difference by the base's mean taken as known holds 85 % at +80 % and 99.8 % at -60 %."""
    rng = np.random.default_rng(11)
    held = [found.low <= 100 * truth <= found.high for found, truth in (draw(rng, gain) for _ in range(600))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)  # its standard error is 0.9 %


def test_many_gains_that_are_none_are_told_from_0_no_oftener_than_one():
    """Fifty columns without a gain, 60 tables: a false one in 5 % of the tables, not in most."""
    columns = tuple(Column(f"Recall@{n}", "recall", n) for n in range(50))
    grid, rng = replace(SMALL, columns=columns), np.random.default_rng(5)
    tables = []
    for _ in range(60):
        found = {(cell.name, 1): Drawn(rng.random((50, 40))) for cell in (X, Y)}
        tables.append(lines_of(grid, found, [1], {}, None)[1].gains)
    assert np.mean([any(gain.p < 0.05 for gain in gains) for gains in tables]) > 0.6
    assert np.mean([any(is_told(gain) for gain in gains) for gains in tables]) <= 0.15
    assert all((gain.low > 0 or gain.high < 0) or not is_told(gain) for gains in tables for gain in gains)


@pytest.mark.filterwarnings("error")
def test_what_has_no_interval_has_none():
    same = np.array([0.1, 0.2])
    assert gain_over_users(same, same).low is None  # nothing differs
    assert gain_over_users(same, same + 0.5).low is None  # all differ by the same
    assert gain_over_seeds([0.1, 0.1], [0.2, 0.2]).low is None
    assert gain_over_users(np.array([0.1]), np.array([0.2])).low is None
    assert gain_over_users(np.zeros(3), np.ones(3)) is None  # a base that finds nothing
    assert gain_of_one(0.0, 1.0) is None
    assert number([0.5]).spread is None
    with pytest.raises(ValueError, match="2 users of the base and 3"):
        gain_over_users(np.zeros(2), np.zeros(3))


def test_hits_of_users_average_to_the_share_of_all_held_out_clicks():
    rows = pa.table(
        {
            "user_idx": pa.array([3, 1, 2, 1], pa.int32()),
            "n": pa.array([20, 20, 20, 50], pa.int32()),
            "recall": [1.0, 0.5, 0.0, 0.7],
            "n_click_hit": pa.array([1, 3, 0, 5], pa.int32()),
            "n_click": pa.array([1, 6, 1, 6], pa.int32()),
        }
    )
    hits = per_user(rows, Column("HIT@20", "hit_cut", 20))
    assert hits.mean() == pytest.approx(4 / 8)
    # users 1, 2, 3: (hits - clicks / 2) by the mean of clicks, and half on top: who clicks more weighs more in the denominator, too
    assert hits == pytest.approx(0.5 + np.array([0.0, -0.5, 0.5]) / (8 / 3))
    assert per_user(rows, RECALL).tolist() == [0.5, 0.0, 1.0]  # users 1, 2, 3


def test_hits_as_of_the_click_are_of_the_users_that_were_asked():
    counts = {"n_asof_hit": pa.array([1, None, 3], pa.int32()), "n_asof": pa.array([2, None, 4], pa.int32())}
    rows = pa.table({"user_idx": pa.array([1, 2, 3], pa.int32()), "n": pa.array([50] * 3, pa.int32())} | counts)
    hits = per_user(rows, Column("HIT@50", "hit_click", 50))
    assert hits == pytest.approx(4 / 6 + np.array([1 - 2 * 4 / 6, 3 - 4 * 4 / 6]) / 3)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_markdown_file_keeps_what_stands_around_the_marks():
    first = between("# Results\n\nWords.\n", "table 1\n", mark="grid g demo", where="r.md")
    assert first == "# Results\n\nWords.\n\n<!-- grid g demo -->\ntable 1\n<!-- end of grid g demo -->\n"
    longer = first + "\nMore words.\n"
    assert between(longer, "table 2\n", mark="grid g demo", where="r.md") == longer.replace("table 1", "table 2")
    both = between(longer, "other\n", mark="grid g beauty", where="r.md")
    assert both.startswith(longer.rstrip())
    assert both.endswith("<!-- end of grid g beauty -->\n")
    assert between("", "table\n", mark="grid g demo", where="r.md").startswith("<!-- grid g demo -->")


@pytest.mark.parametrize("text", ["<!-- grid g -->\n", "<!-- end of grid g -->\n<!-- grid g -->\n", "<!-- grid g -->\n" * 2])
def test_marks_that_are_no_pair_are_refused(text):
    from conf.errors import UsageError

    with pytest.raises(UsageError, match="are not one pair in that order"):
        between(text, "table", mark="grid g", where="r.md")


# ---- the papers' tables ----------------------------------------------------------------------------------------------


def test_the_papers_numbers_fill_the_tables():
    for name, grid in GRIDS.items():
        for data, numbers in grid.published.items():
            assert set(numbers) == {(channel, cell.name) for channel in grid.channels for cell in grid.cells}, f"{name}, {data}"
            assert {len(row) for row in numbers.values()} == {len(grid.columns)}, f"{name}, {data}"


# gains as the papers print them: MIC table 2 (every channel, X and data set, Recall@20), MicRec's of MicRec (final) over ICAN, HIT@50
PRINTED = {
    "Amazon Books": {"u2i": (5.74, 19.48, 13.59), "i2i": (41.29, 8.38, 8.12), "u2u2i": (3.42, 7.77, 9.13)},
    "Taobao": {"u2i": (6.39, 4.10, 13.49), "i2i": (12.93, 12.68, 10.07), "u2u2i": (5.46, 10.74, 12.13)},
}


@pytest.mark.parametrize("data", sorted(PRINTED))
def test_numbers_of_mic_give_the_gains_that_it_prints(data):
    published = GRIDS["mic_table2"].published[data]
    for channel, printed in PRINTED[data].items():
        own = tuple(100 * (published[channel, f"{x}-mic"][0] / published[channel, x][0] - 1) for x in ("dnn", "comirec", "dssm"))
        assert own == pytest.approx(printed, abs=0.02)


def test_tables_that_share_cells_share_numbers():
    two, three = (GRIDS[name].published["Amazon Books"] for name in ("mic_table2", "mic_table3"))
    assert {key: two[key] for key in two if key in three} == {key: three[key] for key in two if key in three}
    two, four = (GRIDS[name].published["Video-636M"] for name in ("micrec_table2", "micrec_table4"))
    shared = [key for key in two if key in four]
    assert len(shared) == 3
    assert [(two[key][0], two[key][3]) for key in shared] == [four[key][:2] for key in shared]
