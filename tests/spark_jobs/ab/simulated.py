"""An exposure log whose true lift is known: users who differ in activity, before the test and in it."""

import numpy as np
import pandas as pd

START = "2026-03-02"
COLUMNS = ["user_id", "day", "item_id", "exposed", "click", "like", "follow", "play_s", "duration_s", "stay_s", "arm"]


def exposure_log(*, users: int = 300, days: int = 8, before: int = 6, lift: float = 0.0, lost: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Rows of COLUMNS, one an exposure; the last day is START + days - 1.

    lift: of clicks and of seconds played under `treatment`. lost: share of treated users whose rows went missing.
    """
    rng = np.random.default_rng(seed)
    activity = rng.gamma(2.0, 1.2, users)
    treated = rng.random(users) < 0.5
    missing = treated & (rng.random(users) < lost)
    per_day = np.minimum(rng.poisson(np.repeat(activity[:, None], days + before, axis=1)), 12)
    user, day = (np.repeat(index, per_day.ravel()) for index in np.indices(per_day.shape).reshape(2, -1))
    factor = 1 + lift * (treated[user] & (day >= before))
    duration = rng.choice([15.0, 60.0, 0.0], len(user), p=[0.5, 0.4, 0.1])  # 0: not known
    rows = pd.DataFrame(
        {
            "user_id": np.char.add("u", user.astype(str)),
            "day": (pd.Timestamp(START) + pd.to_timedelta(day - before, unit="D")).strftime("%Y-%m-%d"),
            "item_id": rng.integers(0, 50, len(user)).astype(str),
            "exposed": (rng.random(len(user)) < 0.97).astype(int),
            "click": (rng.random(len(user)) < 0.3 * factor).astype(int),
            "like": (rng.random(len(user)) < 0.1).astype(int),
            "follow": (rng.random(len(user)) < 0.03).astype(int),
            "play_s": np.round(rng.gamma(1.2, 12.0, len(user)) * factor * (rng.random(len(user)) < 0.7), 1),
            "duration_s": duration,
            "stay_s": np.round(rng.gamma(2.0, 20.0, len(user)), 1),
            "arm": np.where(treated[user], "treatment", "control"),
        }
    )
    return rows[~missing[user]].reset_index(drop=True)
