"""Which clicks train, which choose the model, which test it. The vocabulary and the events call this one function, so they agree.

production holds nothing out; with refit the last day is held out until it has chosen the epoch and said how good the model is.
Sources: last_k is usual; temporal follows MicRec 5.1, user follows ComiRec (Cen et al. 2020) and MIC 4.1.
"""

import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.errors import BadDataError, Fault, SettingsError
from conf.sections.data import Split
from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.ranking import with_rank

CLICK_ORDER = ("ts", "seq", "item_key", "event_type")  # total order of a user's clicks

MIN_USER_EVENTS = 5  # kind user: users with fewer are neither trained on nor tested; ComiRec
FIRST_TARGET = 4  # kind user: position of a train user's first target, from 0; ComiRec


def assign_split(clicks: DataFrame, *, split: Split, has_clock: bool, user: str = "user_key") -> DataFrame:
    """Add int8 column `split`: 0 train, 1 valid, 2 test, 3 context (history of a user who is never trained on).

    Held-out clicks of a user always come after its train or context clicks. user: the column that tells users apart: their key, or a
    number that is cheaper to sort by.

    Raises:
        SettingsError: days held out of a log without clock times, or a split that leaves nothing to train on.
    """
    if split.kind == "production" and not split.refit:
        assigned = clicks.withColumn("split", F.lit(TRAIN))
    elif split.kind == "last_k":
        assigned = _last_k(clicks, split.k, user)
    elif split.kind in ("temporal", "production"):
        assigned = _by_day(clicks, split, has_clock=has_clock)
    else:
        assigned = _by_user(clicks, split.seed, user)
    return assigned.withColumn("split", F.col("split").cast("tinyint"))


def _last_k(clicks: DataFrame, k: int, user: str) -> DataFrame:
    """Of users with at least 2k + 1 clicks: the last k test, the k before them valid."""
    from_end = F.row_number().over(Window.partitionBy(user).orderBy(*[F.col(name).desc() for name in CLICK_ORDER]))
    eligible = F.col("_n") >= 2 * k + 1
    stage = F.when(eligible & (F.col("_from_end") <= k), TEST).when(eligible & (F.col("_from_end") <= 2 * k), VALID).otherwise(TRAIN)
    counted = clicks.withColumn("_from_end", from_end).withColumn("_n", F.count(F.lit(1)).over(Window.partitionBy(user)))
    return counted.withColumn("split", stage).drop("_from_end", "_n")


def _by_day(clicks: DataFrame, split: Split, *, has_clock: bool) -> DataFrame:
    """temporal: the last `test_days` days of the log test, the day before them valid. production: the last day valid."""
    production = split.kind == "production"
    test_days, place = (0, "split.refit with split.kind: production") if production else (split.test_days, "split.kind: temporal")
    if not has_clock:
        fix = "set split.refit: false" if production else "set split.kind: last_k"
        raise SettingsError(place, [Fault("needs clock times", "this log has only an order of clicks", fix)])
    span = clicks.agg(F.min("day").alias("first"), F.max("day").alias("last")).first()
    if span is None or span["last"] is None:
        raise BadDataError("split.kind: temporal", ["there is no click"])
    test_from = datetime.date.fromisoformat(span["last"]) - datetime.timedelta(days=test_days - 1)
    valid_day = test_from - datetime.timedelta(days=1)
    if span["first"] >= valid_day.isoformat():
        fault = Fault(
            f"{test_days} days of test and one of valid leave no day to train on",
            f"the log goes from {span['first']} to {span['last']}",
            f"{'set split.refit: false' if production else 'set split.test_days lower'}, or read more days (source.train_days)",
        )
        raise SettingsError(place, [fault])
    day = F.col("day")
    return clicks.withColumn("split", F.when(day >= str(test_from), TEST).when(day >= str(valid_day), VALID).otherwise(TRAIN))


def _by_user(clicks: DataFrame, seed: int, user: str) -> DataFrame:
    """Users with at least 5 clicks go 8:1:1 to train, valid, test by the rank of a hash.

    A held-out user's first floor(0.8 n) clicks are context, the rest are what is to be found. Users with fewer than 5 clicks are
    context altogether: ComiRec drops them; here they can still be served, but nothing is learned from them.
    """
    of_user = Window.partitionBy(user)
    position = F.row_number().over(of_user.orderBy(*CLICK_ORDER)) - 1
    counted = clicks.withColumns({"_n": F.count(F.lit(1)).over(of_user), "_position": position})
    first_valid, first_test = _user_bounds(clicks, seed)
    place = F.struct(_user_hash(seed).alias("hash"), F.col("user_key"))
    prefix = F.col("_position") < F.floor(F.col("_n") * 8 / 10)
    held_out = F.when(place >= first_test, TEST).otherwise(VALID)
    few = F.col("_n") < MIN_USER_EVENTS
    stage = F.when(few, CONTEXT).when(place < first_valid, TRAIN).when(prefix, CONTEXT).otherwise(held_out)
    return counted.withColumn("split", stage).drop("_n", "_position")


def _user_hash(seed: int) -> Column:
    return F.xxhash64(F.lit(seed), F.col("user_key"))


def _user_bounds(clicks: DataFrame, seed: int) -> tuple[Column, Column]:
    """(hash, user_key) of the first valid and of the first test user."""
    users = clicks.groupBy("user_key").count().where(F.col("count") >= MIN_USER_EVENTS)
    users = users.select(_user_hash(seed).alias("hash"), "user_key")
    ranked = with_rank(users, [F.col("hash"), F.col("user_key")], "rank")
    num = ranked.count()
    if num == 0:
        fault = Fault(f"no user has {MIN_USER_EVENTS} clicks", fix="set split.kind: last_k or production")
        raise SettingsError("split.kind: user", [fault])
    rows = {row["rank"]: row for row in ranked.where(F.col("rank").isin(num * 8 // 10, num * 9 // 10)).collect()}
    first, second = (rows[num * tenths // 10] for tenths in (8, 9))
    return _place(first["hash"], first["user_key"]), _place(second["hash"], second["user_key"])


def _place(user_hash: int, user_key: str) -> Column:
    return F.struct(F.lit(user_hash).cast("long").alias("hash"), F.lit(user_key).alias("user_key"))
