"""The numbers of an A/B test from the moments of its arms: one line a treatment and metric, and the curves day by day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from conf.sections.experiment import Ab
from spark_jobs.ab.effects import ALPHA, SRM_P, Estimate, Ratio, cuped, effect, ratio, sample_ratio
from spark_jobs.ab.features import CURVED, names_of
from spark_jobs.ab.users import Arms
from spark_jobs.paired import number
from spark_jobs.significance import benjamini_hochberg, holm

Line = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A sum over users by another one. role: of the column it needs. cold: of cold users alone. primary: the test is decided by it."""

    label: str
    about: str
    num: str
    role: str
    den: str = "one"
    cold: bool = False
    primary: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "acc": Metric("ACC", "clicks per user", "click", "click", primary=True),
    "adt": Metric("ADT", "seconds on items per user", "dwell_s", "dwell_s", primary=True),
    "acc_c": Metric("ACC-c", "clicks per cold user", "click", "click", cold=True),
    "adt_c": Metric("ADT-c", "seconds on items per cold user", "dwell_s", "dwell_s", cold=True),
    "alr": Metric("ALR", "likes per user", "like", "like"),
    "afr": Metric("AFR", "follows per user", "follow", "follow"),
    "stay_rate": Metric("Next-day stay", "share of a user's days with another one right after", "stays", "day", den="stayable"),
    "play_time": Metric("Play time", "seconds played per user", "play_s", "play_s"),
    "videos": Metric("Videos viewed", "plays per user", "plays", "play_s"),
    "play_share": Metric("Play percentage", "share of the item that a play fills", "watched", "duration_s", den="watchable"),
    "duration": Metric("Duration", "seconds in the app per user and day", "stay_s", "stay_s", den="days"),
}


def left_out(chosen: Ab, *, knows_cold: bool) -> dict[str, str]:
    """The metrics that the log cannot give, and why."""
    columns, why = chosen.columns, dict[str, str]()
    for name, metric in METRICS.items():
        has = getattr(columns, metric.role) is not None or (metric.role == "dwell_s" and columns.play_s is not None)
        if not has or (metric.role == "duration_s" and columns.play_s is None):
            why[name] = f"ab.columns.{'play_s' if has else metric.role} is null"
        elif metric.cold and not knows_cold:
            why[name] = "nothing says who was cold: neither ab.columns.registered nor clicks before ab.start"
    return why


def split_of(users: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, Any]:
    """users by arm, chi-square and p of the planned shares, and whether the split is broken."""
    found = [users.get(arm, 0) for arm in shares]
    chi2, p = sample_ratio(found, list(shares.values())) if sum(found) else (float("nan"), float("nan"))
    planned = {arm: number(share / sum(shares.values())) for arm, share in shares.items()}
    broken = not all(found) or p < SRM_P
    return {"users": dict(zip(shares, found, strict=True)), "planned": planned, "chi2": number(chi2), "p": number(p), "broken": broken}


# ---- one line a treatment and metric ---------------------------------------------------------------------------------


def lines_of(arms: Arms, order: Sequence[str], num_days: int, metrics: Sequence[str]) -> list[Line]:
    """Lines by treatment and metric; order: the arms, the control first.

    p_corrected: of primary metrics by Holm, of all others by Benjamini and Hochberg, over all treatments together. plain: the lift and p
    without CUPED. foretold: the share of variance that CUPED took away.
    """
    found = [_line(arms, order[0], arm, name, num_days) for arm in order[1:] for name in metrics]
    for primary, correct in ((True, holm), (False, benjamini_hochberg)):
        family = [line for line in found if line["primary"] == primary]
        p = np.array([np.nan if line["p"] is None else line["p"] for line in family])
        for line, corrected in zip(family, correct(p), strict=True):
            line["p_corrected"] = number(corrected)
            line["significant"] = bool(corrected < ALPHA)
    return found


def _line(arms: Arms, control: str, treatment: str, name: str, num_days: int) -> Line:
    metric = METRICS[name]
    line: Line = {"arm": treatment, "metric": name, "label": metric.label, "primary": metric.primary}
    sides = [arms.get((arm, metric.cold)) for arm in (control, treatment)]
    users = [0 if side is None else side.num for side in sides]
    nobody = Estimate(0, float("nan"), float("nan"))
    plain, adjusted, foretold = [nobody] * 2, [nobody] * 2, 0.0
    if sides[0] is not None and sides[1] is not None:
        columns = ratio_of(metric.num, metric.den, num_days)
        plain = [ratio(side, columns) for side in sides if side]
        adjusted, foretold = cuped([side for side in sides if side], columns)
    best, without = effect(*adjusted), effect(*plain)
    line |= {"users_control": users[0], "users": users[1], "control": number(plain[0].value), "value": number(plain[1].value)}
    line |= {part: number(getattr(best, part)) for part in ("diff", "p", "lift", "lo", "hi", "smallest")}
    line |= {"plain": {part: number(getattr(without, part)) for part in ("lift", "lo", "hi", "p")}, "foretold": number(foretold)}
    return line


def ratio_of(num: str, den: str, num_days: int) -> Ratio:
    """The columns of a metric, and of the same one before the start."""
    at = {name: place for place, name in enumerate(names_of(num_days))}
    return Ratio(at[num], at[den], at[f"before.{num}"], at[f"before.{den}"])


# ---- day by day ------------------------------------------------------------------------------------------------------


def curves_of(arms: Arms, order: Sequence[str], num_days: int, metrics: Sequence[str]) -> list[Line]:
    """Of each treatment and primary metric, one line a day: the values of the day, and the lift of all days until it with its interval.

    A day's value is by the users seen on it, that until a day by those seen until it. Nothing is winsorised or foretold here.
    """
    at = {name: place for place, name in enumerate(names_of(num_days))}
    found = []
    for arm in order[1:]:
        if not all((side, False) in arms for side in (order[0], arm)):
            continue
        sides = arms[order[0], False], arms[arm, False]
        for name in (name for name in metrics if METRICS[name].primary and METRICS[name].num in CURVED):
            for day in range(num_days):
                daily, until = (
                    [ratio(side, Ratio(at[f"{kind}{day}.{METRICS[name].num}"], at[f"{kind}{day}.one"], 0, 0)) for side in sides]
                    for kind in ("day", "until")
                )
                lift = effect(*until)
                line = {"arm": arm, "metric": name, "day": day, "control": number(daily[0].value), "value": number(daily[1].value)}
                found.append(line | {part: number(getattr(lift, part)) for part in ("lift", "lo", "hi")})
    return found
