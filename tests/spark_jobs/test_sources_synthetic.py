"""The generated log: its shape, that partitions do not matter, and that the oracle's probabilities are the true ones."""

import datetime
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.sections.source import Synthetic
from conf.settings import Settings
from spark_jobs.sources import SOURCES, planted, synthetic
from spark_jobs.sources.raw import CLICKS

SMALL = Settings.model_validate({"source": {"synthetic": {"users": 60, "items": 240, "clicks": 1_800, "topics": 6, "days": 7}}})
DEFAULT = Settings().source.synthetic
SAMPLE = range(1_000)


@pytest.fixture(scope="module")
def logs() -> list[tuple[planted.I64, planted.I64]]:
    """The clicks of the first thousand users of the demo, from midnight 0."""
    return [planted.click_log(planted.world(DEFAULT), user, 0) for user in SAMPLE]


def test_demo_is_as_large_as_promised(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    assert DEFAULT.users >= 10_000
    assert DEFAULT.items >= 5_000
    mean = np.mean([len(items) for items, _ in logs])
    assert mean * DEFAULT.users > 500_000
    assert mean == pytest.approx(DEFAULT.clicks / DEFAULT.users, rel=0.1)


def test_sessions_are_bursts_with_long_pauses_between(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    for _, ts in logs:
        gaps = np.diff(ts)
        assert ts[0] >= 0
        assert ts[-1] < DEFAULT.days * planted.DAY_S
        assert ((gaps > 0) & (gaps <= 480) | (gaps > 3_600)).all()
    inside = np.mean(np.concatenate([np.diff(ts) for _, ts in logs]) <= 480)
    assert 0.7 < inside < 0.9  # sessions of about five clicks


def test_users_seldom_click_an_item_twice(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    repeats = sum(len(items) - len(set(items.tolist())) for items, _ in logs)
    assert 0 < repeats < 0.01 * sum(len(items) for items, _ in logs)


def test_activity_is_log_normal_and_popularity_zipf(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    activity = np.log([len(items) for items, _ in logs])
    assert np.std(activity) == pytest.approx(DEFAULT.activity_sigma, rel=0.1)
    counts = np.bincount(np.concatenate([items for items, _ in logs]), minlength=DEFAULT.items)
    by_rank = counts[: DEFAULT.items // DEFAULT.topics * DEFAULT.topics].reshape(-1, DEFAULT.topics).sum(axis=1)
    ranks = np.arange(len(by_rank)) + 1 + planted.HEAD_SHIFT
    slope = np.polyfit(np.log(ranks), np.log(by_rank + 1), 1)[0]
    # drawing without replacement flattens the head a little
    assert -DEFAULT.popularity_exponent - 0.15 < slope < -0.6


def test_probabilities_of_the_next_click_add_up_and_leave_out_what_was_seen() -> None:
    w = planted.world(SMALL.source.synthetic)
    assert planted.next_click(w, 3, np.array([], dtype=np.int64)).sum() == pytest.approx(1)
    seen = np.array([0, 5, 239])
    probability = planted.next_click(w, 3, seen)
    assert (probability[seen] == 0).all()
    assert probability.sum() <= 1


def test_the_oracle_is_calibrated(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    # It says how likely the next click is among its first 50; over many users it must be right as often as it says.
    w, said, hits = planted.world(DEFAULT), [], []
    for user, (items, _) in zip(SAMPLE, logs, strict=True):
        probability = planted.next_click(w, user, np.unique(items[:-1]))
        best = np.argsort(-probability)[:50]
        said.append(probability[best].sum())
        hits.append(items[-1] in best)
    four_sigma = 4 * np.sqrt(np.mean(np.multiply(said, np.subtract(1, said))) / len(said))
    # repeats, one click in two hundred, are the only thing it does not expect
    assert np.mean(hits) == pytest.approx(np.mean(said), abs=four_sigma + 0.01)


def test_there_is_something_to_learn(logs: list[tuple[planted.I64, planted.I64]]) -> None:
    w, oracle, popular = planted.world(DEFAULT), [], []
    counts = np.bincount(np.concatenate([items[:-10] for items, _ in logs if len(items) > 10]), minlength=DEFAULT.items)
    for user, (items, _) in zip(SAMPLE, logs, strict=True):
        if len(items) >= 11:  # last_k with k = 5
            seen, truth = np.unique(items[:-10]), set(items[-5:].tolist())
            fresh = np.ones(DEFAULT.items)
            fresh[seen] = 0
            for found, score in ((oracle, planted.next_click(w, user, seen)), (popular, counts * fresh)):
                found.append(len(truth & set(np.argsort(-score, kind="stable")[:50].tolist())) / len(truth))
    assert 0.25 < np.mean(oracle) < 0.5
    assert np.mean(popular) < np.mean(oracle) / 3


def test_oracle_top_speaks_in_business_keys() -> None:
    w = planted.world(SMALL.source.synthetic)
    best = synthetic.oracle_top(SMALL, ["u0000004", "u0000000"], 10)
    assert [len(items) for items in best.items] == [10, 10]
    assert all((np.diff(scores) <= 0).all() for scores in best.scores)
    probability = planted.next_click(w, 4, np.array([], dtype=np.int64))
    assert best.items[0][0] == planted.item_key(w, int(probability.argmax()))
    again = synthetic.oracle_top(SMALL, ["u0000004"], 9, [{best.items[0][0], "no such item"}])
    assert best.items[0][0] not in again.items[0]
    assert set(best.items[0][1:5]) <= set(again.items[0])


@pytest.mark.parametrize("key", ["u0000060", "x0000001", "u", "", "u-1"])
def test_oracle_refuses_users_it_never_made(key: str) -> None:
    with pytest.raises(ValueError, match="u0000000 to u0000059"):
        synthetic.oracle_top(SMALL, [key], 5)


def test_blocks_and_partitions_do_not_matter() -> None:
    config = SMALL.source.synthetic

    def made(sizes: list[int]) -> list[dict[str, object]]:
        batches = [pa.record_batch([pa.array(part)], names=["id"]) for part in np.split(np.arange(60), np.cumsum(sizes))]
        return [row for batch in synthetic._click_batches(config, 0, batches) for row in batch.to_pylist()]

    assert made([]) == made([1, 7, 20])


def test_raw_tables(spark: SparkSession) -> None:
    raw = SOURCES["synthetic"](spark, SMALL, "2026-01-31")
    assert raw.has_clock
    assert dict(raw.clicks.dtypes) == dict(CLICKS)
    clicks = raw.clicks.orderBy("user_key", "seq").collect()
    w, first = planted.world(SMALL.source.synthetic), synthetic.first_day(SMALL)
    assert first == datetime.datetime(2026, 1, 25, tzinfo=datetime.UTC).timestamp()
    expected = [
        (planted.user_key(user), planted.item_key(w, item), ts, seq)
        for user in range(60)
        for seq, (item, ts) in enumerate(zip(*planted.click_log(w, user, first), strict=True))
    ]
    assert [(c["user_key"], c["item_key"], c["ts"], c["seq"]) for c in clicks] == expected
    assert {c["problem"] for c in clicks} == {None}
    assert raw.users.count() == 60
    items = raw.items.collect()
    assert len({item["item_key"] for item in items}) == 240
    assert all(item["publish_ts"] < first and item["eligible"] for item in items)


def test_catalogue_tells_of_topic_and_style_with_gaps() -> None:
    w = planted.world(DEFAULT)
    described = [synthetic._describe(w, item, 0) for item in range(2_400)]
    right = np.mean([category == synthetic.topic_name(item % DEFAULT.topics) for item, (_, _, category, _, _) in enumerate(described)])
    assert 0.86 < right < 0.92
    assert 0.03 < np.mean([not tags for *_, tags, _ in described]) < 0.07
    mood = Counter(tags[0] for *_, tags, _ in described if tags)
    assert set(mood) == set(synthetic.MOODS)
    assert all(title.split()[0] in synthetic.MOODS for *_, title in described)


def test_topics_beyond_the_names_are_numbered() -> None:
    assert synthetic.topic_name(0) == "harbor"
    assert synthetic.topic_name(24) == "harbor-2"


def test_tiny_worlds_work() -> None:
    config = Synthetic(users=2, items=1, clicks=2, topics=24, days=1)
    items, ts = planted.click_log(planted.world(config), 1, 0)
    assert set(items.tolist()) == {0}
    assert (np.diff(ts) > 0).all()
