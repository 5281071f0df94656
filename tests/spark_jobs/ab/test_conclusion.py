"""What a test says in words: who wins, why, and what makes it doubtful."""

import pytest

from spark_jobs.ab.conclusion import conclude


def line(lift: float, *, sure: bool, metric: str = "acc", arm: str = "new", primary: bool = True) -> dict:
    numbers = {"diff": lift, "lift": lift, "lo": lift - 0.01, "hi": lift + 0.01, "smallest": 0.02, "p_corrected": 0.01 if sure else 0.4}
    return {"arm": arm, "metric": metric, "label": metric.upper(), "primary": primary, "significant": sure, **numbers}


def found(*lines: dict, arms: tuple[str, ...] = ("old", "new"), broken: bool = False, num_days: int = 14, several: int = 0) -> dict:
    users, planned = dict.fromkeys(arms, 500), dict.fromkeys(arms, 1 / len(arms))
    split = {"users": users, "planned": planned, "chi2": 20.0, "p": 1e-5 if broken else 0.5, "broken": broken}
    return {
        "split": split,
        "effects": list(lines),
        "arms": list(arms),
        "num_days": num_days,
        "counters": {"users_in_several_arms": several},
    }


@pytest.mark.parametrize(
    ("lines", "winner", "headline"),
    [
        ((line(0.03, sure=True), line(0.01, sure=False, metric="adt")), "new", "new wins: ACC +3.00 % (+2.00 % to +4.00 %) against old."),
        ((line(-0.03, sure=True), line(0.01, sure=False, metric="adt")), "old", "old wins: new only loses."),
        ((line(-0.03, sure=True), line(0.02, sure=True, metric="adt")), None, "No winner: new gains in one primary metric and loses"),
        (
            (line(0.01, sure=False), line(0.01, sure=False, metric="adt")),
            None,
            "No winner: no gain is shown beyond chance; a lift of +2.00 %",
        ),
        (
            (line(0.01, sure=False), line(0.09, sure=True, metric="alr", primary=False)),
            None,
            "No winner",
        ),  # a secondary one decides nothing
    ],
)
def test_primary_metrics_decide(lines, winner, headline):
    said = conclude(found(*lines))
    assert said["winner"] == winner
    assert said["headline"].startswith(headline)
    assert said["valid"]
    assert said["doubts"] == []


def test_a_broken_split_has_no_winner_whatever_the_numbers():
    said = conclude(found(line(0.5, sure=True), broken=True))
    assert (said["valid"], said["winner"], said["headline"]) == (False, None, "No winner: the split is broken.")
    assert said["reasons"][0].startswith("old 500 users, planned 500; new 500 users, planned 500 (chi-square 20, p = 1e-05)")


def test_reasons_are_the_primary_metrics_and_what_else_is_beyond_chance():
    said = conclude(
        found(
            line(0.03, sure=True), line(-0.04, sure=True, metric="alr", primary=False), line(0.01, sure=False, metric="afr", primary=False)
        )
    )
    assert said["reasons"] == [
        "ACC of new: +3.00 % (+2.00 % to +4.00 %), beyond chance (p = 0.01 after Holm).",
        "ALR of new: -4.00 % (-5.00 % to -3.00 %), beyond chance (p = 0.01 after Benjamini-Hochberg).",
    ]
    assert said["doubts"] == ["Beware: ALR of new falls (-4.00 % (-5.00 % to -3.00 %))."]


def test_doubts_name_a_short_test_and_users_of_several_arms():
    said = conclude(found(line(0.03, sure=True), num_days=3, several=2))
    assert [doubt.split(":")[0] for doubt in said["doubts"]] == ["3 days are no whole week", "Users who saw several arms"]


def test_of_two_treatments_the_larger_lift_wins_and_nobody_says_they_differ():
    said = conclude(found(line(0.03, sure=True), line(0.05, sure=True, arm="newer"), arms=("old", "new", "newer")))
    assert said["winner"] == "newer"
    assert said["doubts"] == ["new, newer are each compared with old, not with one another."]
    assert conclude(found(line(-0.03, sure=True), line(0.0, sure=False, arm="newer"), arms=("old", "new", "newer")))["winner"] is None


def test_what_cannot_be_told_is_said():
    unknown = line(0.0, sure=False) | {"p_corrected": None, "lift": None, "lo": None, "diff": None, "smallest": None}
    said = conclude(found(unknown))
    assert said["headline"] == "No winner: no gain is shown beyond chance."
    assert said["reasons"] == ["ACC of new: too few users to say."]
