"""Blocks in Spark SQL: the windows of layout windows can be cut from them, each once, and no block holds anything else."""

import pytest

from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.sql.user_blocks import cut_blocks
from tests.spark_jobs.sql.many_logs import Event, apart, events_of, log, many
from tests.spark_jobs.sql.test_samples import slow_samples, with_city

SCHEMA = "sample_id:bigint,user_idx:int,split:tinyint,num_context:smallint,num_targets:smallint,"
SCHEMA += "items:array<int>,ts:array<bigint>,weight:array<float>,city:int"
LOGS = apart(many(log(), num=100))


def found(events, **recipe):
    made = cut_blocks(with_city(events), user_columns=("city",), **recipe)
    assert made.schema.simpleString() == f"struct<{SCHEMA}>"
    return sorted((row.asDict() for row in made.collect()), key=lambda row: row["sample_id"])


def windows(blocks, *, split, history):
    """{sample_id: row} of the rows that layout windows would hold."""
    made = {}
    for block in blocks:
        context = block["num_context"]
        for n in range(block["num_targets"]):
            place, sample_id = context + n, block["sample_id"] + n
            hist = block["items"][max(0, place - history) : place]
            row = {"sample_id": sample_id, "user_idx": block["user_idx"], "item_idx": block["items"][place], "ts": block["ts"][n]}
            row |= {"split": split, "hist": hist + [0] * (history - len(hist)), "hist_len": len(hist)}
            assert sample_id not in made
            made[sample_id] = row | {"weight": block["weight"][n], "city": block["city"]}
    return made


def test_blocks_by_hand(spark):
    rows = [*((2, item, TRAIN) for item in (11, 12, 13, 14)), (2, 15, VALID), (2, 16, TEST), (3, 21, CONTEXT), (3, 22, VALID)]
    events = events_of(spark, [Event(user, item, n, 0, split) for n, (user, item, split) in enumerate(rows)])
    first, second = found(events, split=TRAIN, history=2, size=3, first_target=0)
    assert (first["sample_id"], first["num_context"], first["num_targets"], first["items"]) == (2 << 32, 0, 3, [11, 12, 13, 0, 0])
    assert (second["sample_id"], second["num_context"], second["items"]) == ((2 << 32) + 3, 2, [12, 13, 14, 0, 0])
    assert (second["ts"], second["weight"][1:], second["city"]) == ([3, 0, 0], [0.0, 0.0], 12)
    assert [row["items"] for row in found(events, split=VALID, history=2, size=3, first_target=0)] == [
        [13, 14, 15, 0, 0],
        [21, 22, 0, 0, 0],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "history", "first_target", "size"), [(TRAIN, 3, 0, 2), (TRAIN, 1, 4, 1), (TRAIN, 20, 2, 50), (VALID, 5, 4, 3)]
)
def test_the_windows_of_the_plain_builder_can_be_cut(spark, split, history, first_target, size):
    blocks = found(events_of(spark, LOGS), split=split, history=history, size=size, first_target=first_target)
    want = slow_samples(LOGS, split=split, history=history, first_target=first_target)
    assert windows(blocks, split=split, history=history) == want
    assert want
    for block in blocks:
        kept = block["num_context"] + block["num_targets"]
        assert len(block["items"]) == history + size
        assert 0 not in block["items"][:kept]
        assert not any(block["items"][kept:])
