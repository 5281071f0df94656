"""The simulator, and by it the whole analysis: how often intervals hold a planted lift, and how often nothing is taken for something."""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.settings import Settings
from spark_jobs.ab import simulation
from spark_jobs.ab.analysis import METRICS, lines_of
from spark_jobs.ab.exposures import USED, Window, judge, open_exposures
from spark_jobs.ab.features import F64
from spark_jobs.ab.simulation import BUCKETS, EVEN, START, arm_of, bucket_of, exposure_log
from spark_jobs.ab.users import arms_of, caps_of, features_of, users_of

DAYS, BEFORE = 5, 4
LIFTED = ("acc", "adt", "play_time")
# the others that the simulator leaves alone; play_share is lifted, but no play fills more than its item
LEFT_ALONE = ("alr", "afr", "videos", "stay_rate", "duration")


def test_arms_are_ranges_of_buckets() -> None:
    arms = {"a": 1.0, "b": 2.0, "c": 1.0}
    assert arm_of(np.array([0, 2_499, 2_500, 7_499, 7_500, 9_999]), arms).tolist() == ["a", "a", "b", "b", "c", "c"]
    users = np.arange(40_000)
    bucket = bucket_of(users, "ab")
    assert (bucket.min(), bucket.max()) == (0, BUCKETS - 1)
    assert np.array_equal(bucket_of(users[::-1], "ab")[::-1], bucket)  # of the user alone, whoever else is there
    together = np.corrcoef(bucket, bucket_of(users, "another"))[0, 1]
    assert abs(together) < 0.02


def test_the_command_writes_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "log.csv"
    wanted = ["--users", "400", "--days", "3", "--before", "2", "--lift", "0.5", "--lost", "0.4"]
    monkeypatch.setattr(sys, "argv", ["simulation", "--out", str(out), *wanted])
    simulation.main()
    log = pd.read_csv(out, dtype={"item_id": str})
    pd.testing.assert_frame_equal(log, exposure_log(users=400, days=3, before=2, lift=0.5, lost=0.4))
    assert sorted(log.day.unique()) == [f"2026-02-{d}" for d in (28,)] + [f"2026-03-0{d}" for d in (1, 2, 3, 4)]
    assert f"ab.start={START}, --ds 2026-03-04" in capsys.readouterr().out
    clicks = log[log.day >= START].groupby("arm").click.mean()
    assert clicks["treatment"] / clicks["control"] == pytest.approx(1.5, abs=0.2)
    found = log.groupby("arm").user_id.nunique()
    assert found["treatment"] / found["control"] == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("wrong", [["--lift", "9"], ["--lost", "1"], ["--users", "0"], ["--out", "/nowhere/log.csv"]])
def test_what_cannot_be_made_is_refused(tmp_path: Path, monkeypatch, capsys, wrong) -> None:
    monkeypatch.setattr(sys, "argv", ["simulation", "--out", str(tmp_path / "log.csv"), "--users", "5", *wrong])
    with pytest.raises(SystemExit, match="2"):
        simulation.main()
    assert "want --lift" in (said := capsys.readouterr().err) or "cannot be written" in said


# ---- many experiments, by the path of the job --------------------------------------------------------------------------


@pytest.fixture
def analysed(spark: SparkSession, tmp_path: Path) -> Callable[[pd.DataFrame], tuple[pa.Table, F64]]:
    """analysed(log): the users of the test as the job finds them, and their numbers, seconds winsorised."""

    def users_and_numbers(log: pd.DataFrame) -> tuple[pa.Table, F64]:
        log.to_parquet(tmp_path / "log.parquet", index=False)
        chosen = Settings.model_validate(
            {"ab": {"path": str(tmp_path / "log.parquet"), "format": "parquet", "start": START, "pre_days": BEFORE}}
        ).ab
        start = chosen.first_day
        assert start is not None
        window = Window(start, start + timedelta(days=DAYS - 1), BEFORE)
        judged = judge(open_exposures(spark, chosen), window, chosen.arms).where(F.col("fate") == USED)
        users = users_of(judged, chosen, window, knows_clicks=True).where("not in_several").persist()
        caps = caps_of(users, chosen.winsorise)
        users.write.parquet(str(tmp_path / "users"))
        table = pq.read_table(tmp_path / "users").combine_chunks()
        (batch,) = table.to_batches()
        return table, features_of(batch, DAYS, caps)

    return users_and_numbers


@pytest.mark.slow
def test_intervals_hold_a_planted_lift_as_often_as_they_say(analysed: Callable[[pd.DataFrame], tuple[pa.Table, F64]]) -> None:
    tests = 400
    logs = [exposure_log(users=300, days=DAYS, before=BEFORE, lift=0.03, seed=n, salt=f"test {n}") for n in range(tests)]
    # one job for all of them: a user of one test is none of another
    users, values = analysed(pd.concat([log.assign(user_id=f"{n}/" + log.user_id) for n, log in enumerate(logs)], ignore_index=True))
    test = np.array([int(user.split("/")[0]) for user in users["user"].to_pylist()])
    arm, cold = np.array(users["arm"].to_pylist()), np.array(users["cold"])
    held = dict.fromkeys((*LIFTED, *LEFT_ALONE), 0)
    for n in range(tests):
        mine = test == n
        for line in lines_of(arms_of(values[mine], arm[mine], cold[mine]), list(EVEN), DAYS, list(held)):
            held[line["metric"]] += line["lo"] <= (0.03 if line["metric"] in LIFTED else 0) <= line["hi"]
    assert {name: count / tests for name, count in held.items()} == pytest.approx(dict.fromkeys(held, 0.95), abs=0.03)


@pytest.mark.slow
def test_a_thousand_new_splits_of_the_same_users_differ_in_five_percent(analysed: Callable[[pd.DataFrame], tuple[pa.Table, F64]]) -> None:
    users, values = analysed(exposure_log(users=2_000, days=DAYS, before=BEFORE))
    number = np.array([int(user[1:]) for user in users["user"].to_pylist()])
    cold = np.array(users["cold"])
    wolf = dict.fromkeys(METRICS, 0)
    for n in range(1_000):
        arms = arms_of(values, arm_of(bucket_of(number, f"salt {n}"), EVEN), cold)
        for line in lines_of(arms, list(EVEN), DAYS, list(METRICS)):
            wolf[line["metric"]] += line["p"] < 0.05
    assert {name: count / 1_000 for name, count in wolf.items()} == pytest.approx(dict.fromkeys(wolf, 0.05), abs=0.02)
