"""Metrics of an exposure log by plain loops over its rows: what each arm's numbers must be."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd


def users_by_arm(log: pd.DataFrame, start: str, end: str) -> dict[str, str]:
    """user -> arm of those with an exposure in the test; who saw two arms is none of them."""
    shown = log[(log.exposed > 0) & (log.day >= start) & (log.day <= end)]
    return {user: arms.iloc[0] for user, arms in shown.groupby("user_id").arm if arms.nunique() == 1}


def slow_metrics(log: pd.DataFrame, start: str, end: str, *, cold_clicks: int = 5) -> dict[str, dict[str, Any]]:
    """arm -> metric -> per-user values (a list), or a ratio (a float). Nothing is winsorised."""
    arms = users_by_arm(log, start, end)
    rows = log[log.exposed > 0].to_dict("records")
    made: dict[str, dict[str, Any]] = {}
    for arm in sorted(set(arms.values())):
        mine = {user: [row for row in rows if row["user_id"] == user] for user, own in arms.items() if own == arm}
        test = {user: [row for row in own if start <= row["day"] <= end] for user, own in mine.items()}
        cold = {user for user, own in mine.items() if sum(row["click"] for row in own if row["day"] < start) < cold_clicks}
        made[arm] = _of_arm(test, cold, end)
    return made


def _of_arm(test: Mapping[str, list[dict[str, Any]]], cold: set[str], end: str) -> dict[str, Any]:
    def total(name: str, chosen: set[str] | None = None) -> list[float]:
        return [float(sum(row[name] for row in own)) for user, own in test.items() if chosen is None or user in chosen]

    days = {user: {row["day"] for row in own} for user, own in test.items()}
    nights = [(user, day) for user, own in days.items() for day in own if day < end]
    stays = sum(str(date.fromisoformat(day) + timedelta(days=1)) in days[user] for user, day in nights)
    plays = [row for own in test.values() for row in own if row["play_s"] > 0]
    lasting = [min(row["play_s"] / row["duration_s"], 1) for row in plays if row["duration_s"] > 0]
    return {
        "acc": total("click"), "adt": total("play_s"), "acc_c": total("click", cold), "adt_c": total("play_s", cold),
        "alr": total("like"), "afr": total("follow"), "play_time": total("play_s"),
        "videos": [float(sum(row["play_s"] > 0 for row in own)) for own in test.values()],
        "stay_rate": stays / len(nights), "play_share": sum(lasting) / len(lasting),
        "duration": sum(total("stay_s")) / sum(map(len, days.values())),
    }  # fmt: skip
