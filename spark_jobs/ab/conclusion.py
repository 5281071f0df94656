"""What an A/B test says, in words, with the reasons; a test whose split is broken says nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

Line = Mapping[str, Any]

WEEK: Final = 7


def conclude(found: Mapping[str, Any]) -> dict[str, Any]:
    """valid: the split is as planned. winner: the arm to keep, or None where nothing decides. headline, reasons, doubts: sentences.

    A treatment wins if a primary metric gains and none loses beyond chance; the control, if every treatment only loses. Of several
    winners it is the one with the largest lift of the first primary metric, and the doubts say that nothing tells them apart.
    """
    split, lines = found["split"], found["effects"]
    if split["broken"]:
        return {"valid": False, "winner": None, "headline": "No winner: the split is broken.", "reasons": _broken(split), "doubts": []}
    answers = {arm: _answer([line for line in lines if line["arm"] == arm and line["primary"]]) for arm in found["arms"][1:]}
    better = [arm for arm, answer in answers.items() if answer == "better"]
    winner = max(better, key=lambda arm: _first(lines, arm)["lift"]) if better else None
    if winner is None and all(answer == "worse" for answer in answers.values()):
        winner = found["arms"][0]
    told = [_sentence(line) for line in lines if line["primary"] or line["significant"]]
    return {
        "valid": True,
        "winner": winner,
        "headline": _headline(found, answers, winner),
        "reasons": told,
        "doubts": _doubts(found, better),
    }


def _answer(primary: Sequence[Line]) -> str:
    up = any(line["significant"] and line["diff"] > 0 for line in primary)
    down = any(line["significant"] and line["diff"] < 0 for line in primary)
    return {(True, False): "better", (False, True): "worse", (True, True): "mixed"}.get((up, down), "open")


def _headline(found: Mapping[str, Any], answers: Mapping[str, str], winner: str | None) -> str:
    control = found["arms"][0]
    if winner == control:
        return f"{control} wins: {' and '.join(answers)} only {'loses' if len(answers) == 1 else 'lose'}."
    if winner is not None:
        line = next(
            line for line in found["effects"] if line["arm"] == winner and line["primary"] and line["significant"] and line["diff"] > 0
        )
        return f"{winner} wins: {line['label']} {_lift(line)} against {control}."
    if "mixed" in answers.values():
        mixed = ", ".join(arm for arm, answer in answers.items() if answer == "mixed")
        return f"No winner: {mixed} gains in one primary metric and loses in another."
    first = _first(found["effects"], found["arms"][1])
    could = f"; a lift of {_percent(first['smallest'])} in {first['label']} would have been (power 80 %)" if first["smallest"] else ""
    return f"No winner: no gain is shown beyond chance{could}."


def _broken(split: Mapping[str, Any]) -> list[str]:
    total = sum(split["users"].values())
    parts = [f"{arm} {users} users, planned {split['planned'][arm] * total:.0f}" for arm, users in split["users"].items()]
    chance = "" if split["p"] is None else f" (chi-square {split['chi2']:.4g}, p = {split['p']:.2g})"
    return [
        f"{'; '.join(parts)}{chance}: who was lost, or came twice, may be just who would have differed.",
        "Find out where users went (assignment, logging, a redirect, bots), and run the test again; no number below counts.",
    ]


def _doubts(found: Mapping[str, Any], better: Sequence[str]) -> list[str]:
    said = []
    losing = [line for line in found["effects"] if not line["primary"] and line["significant"] and line["diff"] < 0]
    if losing:
        said.append("Beware: " + ", ".join(f"{line['label']} of {line['arm']} falls ({_lift(line)})" for line in losing) + ".")
    if len(better) > 1:
        said.append(f"{', '.join(better)} are each compared with {found['arms'][0]}, not with one another.")
    if found["num_days"] < WEEK:
        said.append(f"{found['num_days']} days are no whole week: weekends and newness may count for more than they will.")
    several = found["counters"]["users_in_several_arms"]
    if several:
        said.append(f"Users who saw several arms: {several}. They are in none; assignment should be by user.")
    return said


def _first(lines: Sequence[Line], arm: str) -> Line:
    return next(line for line in lines if line["arm"] == arm)


def _sentence(line: Line) -> str:
    if line["p_corrected"] is None:
        return f"{line['label']} of {line['arm']}: too few users to say."
    beyond = "beyond chance" if line["significant"] else "within chance"
    how = "Holm" if line["primary"] else "Benjamini-Hochberg"
    return f"{line['label']} of {line['arm']}: {_lift(line)}, {beyond} (p = {line['p_corrected']:.2g} after {how})."


def _lift(line: Line) -> str:
    if line["lift"] is None or line["lo"] is None:
        return "no lift that can be told"
    return f"{_percent(line['lift'])} ({_percent(line['lo'])} to {_percent(line['hi'])})"


def _percent(value: float) -> str:
    return f"{100 * value:+.2f} %"
