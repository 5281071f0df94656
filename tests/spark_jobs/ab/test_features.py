"""A user's days as numbers, against a loop over plain rows."""

import numpy as np
import pytest

from spark_jobs.ab.features import CURVED, QUANTITIES, TOTALS, UserDays, features, names_of


def user_days(rows: list[tuple[int, int, float]]) -> UserDays:
    """Rows (user, day, amount): the amount in every quantity."""
    row, day, amount = (np.array(column) for column in zip(*rows, strict=True))
    return UserDays(row.astype(np.int64), day.astype(np.int64), np.repeat(amount[:, None].astype(float), len(QUANTITIES), axis=1))


def named(rows: list[tuple[int, int, float]], num_users: int, num_days: int, caps=None) -> dict[str, list[float]]:
    values = features(user_days(rows), num_users, num_days, caps=caps or {})
    return dict(zip(names_of(num_days), values.T.tolist(), strict=True))


def test_a_case_by_hand():
    # user 0: days -3, -2, 0, 1, 3 of a test of 4 days; user 1: day 2 alone
    found = named([(0, -3, 5), (0, -2, 1), (0, 0, 2), (0, 1, 4), (0, 3, 8), (1, 2, 16)], 2, 4, caps={"play_s": 15.0})
    assert (found["one"], found["before.one"]) == ([1, 1], [1, 0])
    assert (found["click"], found["before.click"]) == ([14, 16], [6, 0])
    assert (found["play_s"], found["before.play_s"]) == ([14, 15], [6, 0])
    assert found["days"] == [3, 1]
    # of days 0, 1 and (not the last) 3: only 0 is followed by another; of day 2 nothing follows
    assert (found["stays"], found["stayable"]) == ([1, 0], [2, 1])
    assert (found["before.stays"], found["before.stayable"]) == ([1, 0], [2, 0])  # of -3 and -2: -3 by -2; -1 would be the last
    assert (found["day1.click"], found["until1.click"], found["until3.dwell_s"]) == ([4, 0], [6, 0], [14, 16])
    assert (found["day2.one"], found["until2.one"], found["until3.one"]) == ([0, 1], [1, 1], [1, 1])


def test_random_days_agree_with_a_loop():
    rng = np.random.default_rng(0)
    places = sorted({(int(u), int(d)) for u, d in zip(rng.integers(0, 20, 150), rng.integers(-5, 6, 150), strict=True)})
    rows = [(u, d, float(rng.random())) for u, d in places]
    found = named(rows, 20, 6)
    for user in range(20):
        test, before = ({d: a for u, d, a in rows if u == user and (d >= 0) == late} for late in (True, False))
        assert found["click"][user] == pytest.approx(sum(test.values()))
        assert found["stays"][user] == sum(d + 1 in test for d in test if d < 5)
        assert found["before.stays"][user] == sum(d + 1 in before for d in before if d < -1)
        for day in range(6):
            assert found[f"until{day}.click"][user] == pytest.approx(sum(a for d, a in test.items() if d <= day))
            assert found[f"day{day}.one"][user] == (day in test)
            assert found[f"until{day}.one"][user] == any(d <= day for d in test)


def test_every_column_has_its_name_once():
    names = names_of(3)
    assert len(set(names)) == len(names) == 2 * len(TOTALS) + 3 * 2 * (1 + len(CURVED))
