"""Results of a comparison from sums of users: a case worked by hand, parts against the whole, what the words say."""

import numpy as np
import pytest
from scipy import stats

from spark_jobs.paired import Sums, compare, number
from spark_jobs.verdicts import table_of, verdict

CELLS = [("recall", 20), ("hr", 20)]
USERS = {"both": 4, "only_a": 0, "only_b": 1, "in_part": 0, "other_truth": 0}


def of(a: list[list[float]], b: list[list[float]], cells=(("recall", 20),), **kwargs) -> list[dict]:
    """Results of one cell; a, b: one list of users' numbers a training."""
    values = np.stack([np.array(one)[:, None] for one in (*a, *b)], axis=1)
    units = np.arange(len(values), dtype=np.int64)
    return compare(Sums.of(units, values, len(a), seed=1, **kwargs), list(cells), len(a))


def test_a_case_worked_by_hand():
    (line,) = of([[0.0, 0.5, 0.5, 1.0]], [[0.5, 0.5, 1.0, 1.0]])
    # means 0.5 and 0.75; d = .5, 0, .5, 0: mean .25, sd .288675, se .144338, t sqrt(3) at 3 degrees of freedom
    assert (line["mean_a"], line["mean_b"], line["diff"], line["gain"]) == (0.5, 0.75, 0.25, 0.5)
    assert line["p"] == line["p_holm"] == line["p_bh"] == pytest.approx(0.18169, abs=1e-5)
    assert line["diff_lo"] == pytest.approx(0.25 - 3.1824463 * 0.1443376, abs=1e-6)
    assert line["delta_lo"] < 0.5 < line["delta_hi"]
    assert line["gain_lo"] is line["gain_hi"] is None  # of four users some replicates draw only the one whose A is 0: nothing to divide by
    assert line["trainings"]["means_a"] == [0.5]
    assert line["trainings"]["p"] is None
    # one training of both: Welch needs two
    assert verdict([line], USERS, 1, 1)[0].startswith("No difference shown: none of 1 numbers differs beyond chance; a gain of ")
    assert verdict([line], USERS, 1, 1)[2].startswith("One training of A and B")


def test_several_trainings_are_their_mean_for_a_user_and_a_test_of_their_own():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 50)), rng.random((2, 50)) + 0.1
    (line,) = of(list(a), list(b))
    assert line["p"] == pytest.approx(stats.ttest_rel(b.mean(axis=0), a.mean(axis=0)).pvalue, abs=1e-10)
    welch = stats.ttest_ind(b.mean(axis=1), a.mean(axis=1), equal_var=False)
    assert line["trainings"]["p"] == pytest.approx(welch.pvalue, abs=1e-10)
    assert line["trainings"]["means_b"] == pytest.approx(b.mean(axis=1))


def test_a_system_against_itself_does_not_differ():
    a = np.random.default_rng(1).random(60).tolist()
    (line,) = of([a], [a])
    for name in ("diff", "diff_lo", "diff_hi", "gain", "gain_lo", "gain_hi", "delta_lo", "delta_hi", "smallest_diff"):
        assert line[name] == 0, name
    assert (line["p"], line["p_holm"]) == (1.0, 1.0)
    assert verdict([line], USERS, 1, 1)[0] == "No difference: no user's numbers differ."


def test_the_two_intervals_of_the_gain_agree_for_many_users():
    rng = np.random.default_rng(2)
    skill = rng.beta(2, 5, 3_000)
    (line,) = of([rng.binomial(10, skill) / 10], [rng.binomial(10, np.minimum(skill * 1.2, 1)) / 10])
    width = line["gain_hi"] - line["gain_lo"]
    assert line["delta_lo"] == pytest.approx(line["gain_lo"], abs=0.08 * width)
    assert line["delta_hi"] == pytest.approx(line["gain_hi"], abs=0.08 * width)


def test_sums_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(3)
    units, values = np.arange(700, dtype=np.int64), rng.random((700, 3, 2))
    whole = compare(Sums.of(units, values, 1, seed=4, replicates=200), CELLS, 1)
    pieces = [Sums.of(units[part], values[part], 1, seed=4, replicates=200) for part in np.array_split(rng.permutation(700), 5)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total.plus(piece)
    assert [flat(line) for line in compare(total, CELLS, 1)] == [pytest.approx(flat(line), rel=1e-9) for line in whole]


def flat(line: dict) -> dict:
    numbers = {name: value for name, value in line.items() if isinstance(value, float)}
    return numbers | {f"trainings.{name}": value for name, value in line["trainings"].items() if isinstance(value, float)}


def test_numbers_that_are_none_are_null():
    assert number(float("nan")) is None
    assert number(float("inf")) is None
    assert number(1 / 3) == 0.333333333333


# ---- the words -----------------------------------------------------------------------------------------------------


def line_of(diff: float, p: float, *, metric: str = "recall", welch: float | None = None) -> dict:
    own = dict.fromkeys(("mean_a", "mean_b", "gain", "gain_lo", "gain_hi", "p", "p_bh", "smallest_gain"), 0.1)
    own |= {"metric": metric, "n": 20, "diff": diff, "diff_lo": diff - 1, "diff_hi": diff + 1, "p_holm": p}
    return own | {"trainings": {"means_a": [0.1], "means_b": [0.1], "p": welch, "p_holm": welch}}


@pytest.mark.parametrize(
    ("lines", "several", "said"),
    [
        ([line_of(0.1, 0.01), line_of(0.1, 0.2)], 1, "B is better than A: 1 of 2 numbers gain beyond chance"),
        ([line_of(-0.1, 0.01)], 1, "B is worse than A: 1 of 1 numbers lose beyond chance"),
        ([line_of(0.1, 0.01), line_of(-0.1, 0.01, metric="hr")], 1, "Mixed: recall@20 gain, hr@20 lose"),
        ([line_of(0.1, 0.06)], 1, "No difference shown: none of 1 numbers differs beyond chance; a gain of 10.000 % in recall@20"),
        ([line_of(0.1, 0.01, welch=0.3)], 2, "Not settled: by users recall@20 differ, but training again changes as much."),
        ([line_of(0.1, 0.01, welch=0.02)], 2, "B is better than A"),
    ],
)
def test_the_answer_is_what_the_corrected_tests_say(lines, several, said):
    assert verdict(lines, USERS, several, several)[0].startswith(said)


def test_users_who_were_asked_for_something_else_are_named():
    assert verdict([line_of(0.1, 0.01)], USERS | {"other_truth": 3}, 1, 1)[-1].startswith("Beware: 3 of 4 users")


def test_users_who_are_not_in_both_are_named():
    """Algorithms.md 8.6: pairs are of equal sets of users."""
    for left_out in ("only_a", "only_b", "in_part"):
        users = {**USERS, "only_b": 0, left_out: 2}
        said = verdict([line_of(0.1, 0.01)], users, 1, 1)
        assert said[-1] == "Beware: 2 of 6 users are not in both: the answer is about the other 4 alone."
        assert "evaluation.max_users" in verdict([line_of(0.1, 0.01)], users, 1, 1, own_numbers=True)[-1]
    assert not any(line.startswith("Beware") for line in verdict([line_of(0.1, 0.01)], USERS | {"only_b": 0}, 1, 1))


def test_the_table_has_a_line_a_number_and_says_who_was_left_out():
    lines = of([[0.0, 0.5, 0.5, 1.0], [0.1, 0.4, 0.5, 1.0]], [[0.5, 0.5, 1.0, 1.0], [0.5, 0.4, 1.0, 1.0]])
    side = {"name": "main/u2i@2026-01-31", "runs": {"main": "r1"}}
    other = {"name": "a,b/u2i@2026-01-31", "runs": {"a": "r2", "b": "r3"}}
    found = {"a": side, "b": other, "users": USERS, "lines": lines, "replicates": 2000, "verdict": ["Better."]}
    text = table_of(found).splitlines()
    assert text[0] == "A  main/u2i@2026-01-31   main run r1"
    assert text[1] == "B  a,b/u2i@2026-01-31   2 trainings: a run r2, b run r3"
    assert text[2] == "users: 4 under both; left out: 0 only under A, 1 only under B"
    assert text[4].split() == [
        "metric",
        "A",
        "B",
        "gain",
        "95",
        "%",
        "interval",
        "p",
        "Holm",
        "BH",
        "would",
        "show",
        "Welch",
        "p",
        "Welch",
        "Holm",
    ]
    assert text[5].startswith("recall@20  50.000 %  73.750 %  +47.50 %")
    assert text[-1] == "Better."
