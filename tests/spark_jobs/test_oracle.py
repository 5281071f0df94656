"""The oracle's lists against the planted probabilities themselves."""

import numpy as np
from pyspark.sql import SparkSession

from conf.settings import Settings
from spark_jobs.oracle import oracle_lists
from spark_jobs.sources import planted


def test_the_oracle_gives_the_likeliest_unseen_eligible_items(spark: SparkSession) -> None:
    settings = Settings.model_validate(
        {"source": {"kind": "synthetic", "synthetic": {"users": 12, "items": 80, "topics": 4, "clicks": 400}}}
    )
    world, rng = planted.world(settings.source.synthetic), np.random.default_rng(0)
    keys = planted.item_keys(world)
    idx_of = {key: idx for idx, key in enumerate(rng.permutation(keys).tolist(), start=1)}
    eligible = {idx_of[key] for key in keys} - {3, 7, 11, 20, 21, 22}
    seen = {user: rng.choice(80, user, replace=False).tolist() for user in range(12)}  # user 0 has seen nothing

    index = "key string, idx int"
    user_index = spark.createDataFrame([(planted.user_key(user), 100 + user) for user in seen], index)
    item_index = spark.createDataFrame(list(idx_of.items()), index)
    asked = spark.createDataFrame(
        [(100 + u, [idx_of[keys[i]] for i in items]) for u, items in seen.items()], "user_idx int, seen array<int>"
    )
    allowed = spark.createDataFrame([(idx,) for idx in eligible], "idx int")
    found = {row["user_idx"] - 100: row["items"] for row in oracle_lists(settings, asked, user_index, item_index, allowed, num=9).collect()}

    assert set(found) == set(seen)
    for user, items in seen.items():
        probability = planted.next_click(world, user, np.array(items, dtype=np.int64))
        order = [idx_of[keys[i]] for i in np.argsort(-probability, kind="stable")]
        hidden = {idx_of[keys[i]] for i in items}
        assert found[user] == [idx for idx in order if idx in eligible - hidden][:9]
