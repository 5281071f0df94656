"""Exposure logs of A/B tests whose true lift is known, to try the analysis on: users who differ in activity, before the test and in it.

python -m spark_jobs.ab.simulation --lift 0.03 --out exposures.csv
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from conf.draws import seed_of, u01

I64 = npt.NDArray[np.int64]

START: Final = "2026-03-02"
COLUMNS: Final = ["user_id", "day", "item_id", "exposed", "click", "like", "follow", "play_s", "duration_s", "stay_s", "arm"]
EVEN: Final[Mapping[str, float]] = {"control": 0.5, "treatment": 0.5}
BUCKETS: Final = 10_000
CLICKED: Final = 0.3  # chance of a click on what is shown


def bucket_of(user: I64, salt: str) -> I64:
    """int64[N] in [0, BUCKETS): floor(u01(hash of the salt, user) * BUCKETS); another salt is another experiment."""
    return (u01(seed_of(salt), user) * BUCKETS).astype(np.int64)


def arm_of(bucket: I64, arms: Mapping[str, float]) -> npt.NDArray[np.str_]:
    """str[N]: the arm in whose range of buckets each lies; ranges follow one another in the order of arms, as wide as their shares."""
    ends = np.cumsum(list(arms.values()))
    return np.array(list(arms))[np.searchsorted(np.round(BUCKETS * ends / ends[-1]), bucket, side="right")]


def exposure_log(
    *, users: int = 300, days: int = 8, before: int = 6, lift: float = 0.0, lost: float = 0.0, seed: int = 0, salt: str = "ab"
) -> pd.DataFrame:
    """Rows of COLUMNS, one an exposure: `before` days, then those of the test from START on, arms EVEN.

    lift: of clicks and of seconds played under `treatment`, in (-1, 1 / CLICKED - 1]. lost: share of treated users whose rows went missing.
    """
    rng = np.random.default_rng(seed)
    activity = rng.gamma(2.0, 1.2, users)
    arm = arm_of(bucket_of(np.arange(users), salt), EVEN)
    treated = arm == "treatment"
    missing = treated & (rng.random(users) < lost)
    per_day = np.minimum(rng.poisson(np.repeat(activity[:, None], days + before, axis=1)), 12)
    user, day = (np.repeat(index, per_day.ravel()) for index in np.indices(per_day.shape).reshape(2, -1))
    factor = 1 + lift * (treated[user] & (day >= before))
    calendar = (pd.Timestamp(START) + pd.to_timedelta(np.arange(days + before) - before, unit="D")).strftime("%Y-%m-%d").to_numpy()
    rows = pd.DataFrame(
        {
            "user_id": np.char.add("u", np.arange(users).astype(str))[user],
            "day": calendar[day],
            "item_id": rng.integers(0, 50, len(user)).astype(str),
            "exposed": (rng.random(len(user)) < 0.97).astype(int),
            "click": (rng.random(len(user)) < CLICKED * factor).astype(int),
            "like": (rng.random(len(user)) < 0.1).astype(int),
            "follow": (rng.random(len(user)) < 0.03).astype(int),
            "play_s": np.round(rng.gamma(1.2, 12.0, len(user)) * factor * (rng.random(len(user)) < 0.7), 1),
            "duration_s": rng.choice([15.0, 60.0, 0.0], len(user), p=[0.5, 0.4, 0.1]),  # 0: not known
            "stay_s": np.round(rng.gamma(2.0, 20.0, len(user)), 1),
            "arm": arm[user],
        }
    )
    kept: pd.DataFrame = rows.loc[~missing[user]].reset_index(drop=True)
    return kept


def main() -> None:
    """Write a log as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--lift", type=float, default=0.0, help="true lift of clicks and seconds played under treatment: 0.03 = +3 %%")
    parser.add_argument("--lost", type=float, default=0.0, help="share of treated users whose rows went missing: 0.12 breaks the split")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=14, help="of the test")
    parser.add_argument("--before", type=int, default=14, help="days before it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--salt", default="ab", help="of the assignment: another one gives users other arms")
    a = parser.parse_args()
    if not (-1 < a.lift <= 1 / CLICKED - 1 and 0 <= a.lost < 1 and min(a.users, a.days) > 0 <= a.before):
        parser.error(f"want --lift above -1 and up to {1 / CLICKED - 1:.2f}, --lost from 0 to below 1, --users and --days above 0")
    log = exposure_log(users=a.users, days=a.days, before=a.before, lift=a.lift, lost=a.lost, seed=a.seed, salt=a.salt)
    try:
        log.to_csv(a.out, index=False)
    except OSError as error:
        parser.error(f"--out {a.out} cannot be written: {error}")
    last = pd.Timestamp(START) + pd.Timedelta(days=a.days - 1)
    print(f"wrote {a.out}: {len(log)} exposures of {log.user_id.nunique()} users; ab.start={START}, --ds {last:%Y-%m-%d}")


if __name__ == "__main__":
    main()
