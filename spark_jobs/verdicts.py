"""A comparison in words, and as a table of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from spark_jobs.significance import ALPHA

Line = Mapping[str, Any]

COLUMNS: Final = ("metric", "A", "B", "gain", "95 % interval", "p", "Holm", "BH", "would show")


# ---- the verdict ---------------------------------------------------------------------------------------------------


def verdict(lines: Sequence[Line], users: Mapping[str, int], num_a: int, num_b: int, *, own_numbers: bool = False) -> list[str]:
    """What the numbers say, the answer first; then what stands behind it, and what makes it doubtful.

    An answer is by users after Holm's correction; with two or more trainings of both it also has to outlast the chance of training.
    own_numbers: a user may have another number under A than under B.
    """
    several = num_a > 1 and num_b > 1
    said = [_answer(lines, several), _largest(lines)]
    said.append(_trainings(lines, num_a, num_b) if several else _one_training(num_a, num_b))
    if others := users["only_a"] + users["only_b"] + users["in_part"]:
        said.append(_not_in_both(others, users["both"], own_numbers))
    if users["other_truth"]:
        said.append(f"Beware: {users['other_truth']} of {users['both']} users had another number of clicks to find under A than under B.")
    return said


def _not_in_both(others: int, both: int, own_numbers: bool) -> str:
    """Pairs are of equal sets of users; what is left of others may be another kind of user."""
    sampled = (
        " The two number their users differently, so each has scored a sample of its own where it has more than evaluation.max_users: "
        "raise that above their number."
    )
    text = f"Beware: {others} of {both + others} users are not in both: the answer is about the other {both} alone."
    return text + (sampled if own_numbers else "")


def significant(line: Line) -> bool:
    """Whether the users' numbers differ beyond chance, all lines together in mind."""
    return line["p_holm"] is not None and line["p_holm"] < ALPHA


def outlasts(line: Line) -> bool:
    """Whether the means of trainings differ beyond what training again changes, all lines together in mind."""
    p = line["trainings"]["p_holm"]
    return p is not None and p < ALPHA


def _answer(lines: Sequence[Line], several: bool) -> str:
    up = [line for line in lines if significant(line) and line["diff"] > 0]
    down = [line for line in lines if significant(line) and line["diff"] < 0]
    if not up and not down:
        return _no_difference(lines)
    if several and not any(map(outlasts, [*up, *down])):
        return f"Not settled: by users {_names([*up, *down])} differ, but training again changes as much."
    if up and down:
        return f"Mixed: {_names(up)} gain, {_names(down)} lose, beyond chance."
    better, do = ("better", "gain") if up else ("worse", "lose")
    return f"B is {better} than A: {len(up or down)} of {len(lines)} numbers {do} beyond chance, none goes the other way."


def _no_difference(lines: Sequence[Line]) -> str:
    if all(line["diff_lo"] == line["diff_hi"] == 0 for line in lines):
        return "No difference: no user's numbers differ."
    first = lines[0]
    could = f"; a gain of {_percent(first['smallest_gain'])} in {_name(first)} would have been shown" if first["smallest_gain"] else ""
    return f"No difference shown: none of {len(lines)} numbers differs beyond chance{could} (power 80 %)."


def _largest(lines: Sequence[Line]) -> str:
    """The first metric in full."""
    line = lines[0]
    return f"{_name(line)}: {_percent(line['mean_a'])} under A, {_percent(line['mean_b'])} under B; gain {_gain(line)}."


def _trainings(lines: Sequence[Line], num_a: int, num_b: int) -> str:
    own = _names([line for line in lines if outlasts(line)])
    return f"Over {num_a} and {num_b} trainings (Welch, Holm): {own or 'nothing'} differs beyond what training again changes."


def _one_training(num_a: int, num_b: int) -> str:
    few = " and ".join(side for side, num in (("A", num_a), ("B", num_b)) if num == 1)
    return f"One training of {few}: none of these intervals holds what training again would change; name several (a,b,c or 'name-s*')."


def _names(lines: Sequence[Line]) -> str:
    return ", ".join(map(_name, lines))


def _name(line: Line) -> str:
    return f"{line['metric']}@{line['n']}"


# ---- the table -----------------------------------------------------------------------------------------------------


def table_of(found: Mapping[str, Any]) -> str:
    """The comparison as text: who, on whom, one line a number, the verdict."""
    users, lines = found["users"], found["lines"]
    several = lines[0]["trainings"]["p"] is not None
    rows = [[*COLUMNS, *(["Welch p", "Welch Holm"] if several else [])], *(_row(line, several) for line in lines)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    told = [f"{side.upper()}  {found[side]['name']}   {_runs(found[side]['runs'])}" for side in ("a", "b")]
    body = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]) for row in rows]
    return "\n".join([*told, *_users(users), "", *body, "", *_notes(found), "", *found["verdict"]])


def _runs(runs: Mapping[str, str]) -> str:
    shown = ", ".join(f"{variant} run {run}" for variant, run in runs.items())
    return shown if len(runs) == 1 else f"{len(runs)} trainings: {shown}"


def _users(users: Mapping[str, int]) -> Iterator[str]:
    left_out = f"{users['only_a']} only under A, {users['only_b']} only under B"
    part = f", {users['in_part']} not in every training" if users["in_part"] else ""
    yield f"users: {users['both']} under both; left out: {left_out}{part}"


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"gain: B / A - 1; its interval: bootstrap by user, {found['replicates']} replicates; p: paired t-test over users;"
    yield "Holm, BH: p corrected for all lines; would show: the smallest gain that 80 % of such comparisons find at 5 %."


def _row(line: Line, several: bool) -> list[str]:
    row = [_name(line), _percent(line["mean_a"]), _percent(line["mean_b"]), _signed(line["gain"])]
    row += [_interval(line), *(_p(line[name]) for name in ("p", "p_holm", "p_bh")), _signed(line["smallest_gain"])]
    return [*row, *(_p(line["trainings"][name]) for name in ("p", "p_holm"))] if several else row


def _gain(line: Line) -> str:
    return f"{_signed(line['gain'])} ({_interval(line)})"


def _interval(line: Line) -> str:
    return f"{_signed(line['gain_lo'])} to {_signed(line['gain_hi'])}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.3f} %"


def _signed(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:+.2f} %"


def _p(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"
