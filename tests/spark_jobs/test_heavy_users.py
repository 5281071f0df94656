"""Very many clicks of one user: what is left of them before they are moved together."""

from spark_jobs.heavy_users import heavy_users, thinned
from tests.spark_jobs.small_logs import Click, clicks_df


def test_the_most_recent_stay_and_nobody_else_loses_any(spark):
    heavy = [Click("heavy", f"i{n % 7}", ts=n // 3, seq=n) for n in range(100)]  # three at a time: seq decides
    others = [Click("u", f"i{n}", ts=n) for n in range(20)]
    clicks = clicks_df(spark, heavy + others).repartition(3)
    found = heavy_users(clicks, limit=20)
    assert found == {"heavy": 100}
    left = thinned(clicks, found, keep=6, limit=20)
    assert left.columns == clicks.columns
    kept = sorted((row["user_key"], row["ts"], row["seq"]) for row in left.collect())
    assert [row for row in kept if row[0] == "u"] == [("u", n, 0) for n in range(20)]
    mine = [(ts, seq) for user, ts, seq in kept if user == "heavy"]
    assert mine[-6:] == [(click.ts, click.seq) for click in heavy[-6:]]
    assert 6 < len(mine) <= 6 * 100 // 20
