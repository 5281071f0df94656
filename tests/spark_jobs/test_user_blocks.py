"""Blocks of a user's events against a builder that goes click by click: every target once, with what stands before it."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.tables import CONTEXT, TEST, TRAIN, VALID, resolve
from spark_jobs.task_files import arrow_schema
from spark_jobs.user_blocks import BLOCKS_PER_ROW_GROUP, blocks_of
from tests.spark_jobs.small_logs import settings_of

SETTINGS = settings_of(
    model={"history": 2, "fields": {"user": ["city", "hobbies"], "item": ["item_id", "tags"]}},
    samples={"layout": "sequences", "block": 3},
    trainer={"batches": "arrow"},
)
SCHEMA = arrow_schema(resolve("samples", SETTINGS.registry(), SETTINGS.shape()))


def built(rows, split, *, first_target=0, history=2, size=3):
    """rows: (user, item, split) in order; ts = the place, weight = 1 + half the place, city = user % 90 + 10."""
    user, item, stage = (np.array(column) for column in zip(*rows, strict=True))
    events = pa.table(
        {
            **{"user_idx": user.astype(np.int32), "item_idx": item.astype(np.int32), "split": stage.astype(np.int8)},
            **{"ts": np.arange(len(rows)), "weight": 1 + np.arange(len(rows), dtype=np.float32) / 2},
        }
    )
    cities = {"city": user.astype(np.int32) % 90 + 10}
    batches = blocks_of(events, cities, SCHEMA, split=split, first_target=first_target, history=history, size=size)
    return [row for batch in batches for row in batch.to_pylist()]


def slow_blocks(rows, split, *, first_target, history, size):
    """A click that is a target goes on with the block under way, or begins one."""
    made, clicks, under_way = [], {}, None
    for n, (user, item, stage) in enumerate(rows):
        mine = clicks.setdefault(user, [])
        if stage != split or (split == TRAIN and len(mine) < first_target):
            under_way = None
        else:
            if under_way is None or under_way["user_idx"] != user or under_way["num_targets"] == size:
                context = mine[-history:]
                under_way = {"sample_id": (user << 32) + len(mine), "user_idx": user, "split": stage, "city": user % 90 + 10}
                under_way |= {"num_context": len(context), "num_targets": 0, "items": list(context), "ts": [], "weight": []}
                made.append(under_way)
            under_way["num_targets"] += 1
            for name, value in (("items", item), ("ts", n), ("weight", 1 + n / 2)):
                under_way[name].append(value)
        mine.append(item)
    for block in made:
        for name, length in (("items", history + size), ("ts", size), ("weight", size)):
            block[name] += [0] * (length - len(block[name]))
    return made


@st.composite
def event_rows(draw):
    rows = []
    for user in draw(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=4, unique=True).map(sorted)):
        stages = draw(st.lists(st.sampled_from([TRAIN, VALID, TEST]), min_size=1, max_size=12))
        ordered = sorted(stages) if draw(st.booleans()) else stages  # a split never mixes them; a block would show it all the same
        rows += [(user, draw(st.integers(1, 50)), stage) for stage in ordered]
    return rows


@settings(max_examples=200, deadline=None)
@given(event_rows(), st.sampled_from([TRAIN, VALID]), st.sampled_from([0, 4]), st.integers(1, 3), st.integers(1, 4))
def test_equals_the_plain_builder(rows, split, first_target, history, size):
    shape = {"first_target": first_target, "history": history, "size": size}
    assert built(rows, split, **shape) == slow_blocks(rows, split, **shape)


def test_blocks_by_hand():
    # user 2: five train clicks are two blocks; valid ones see the last two before them; the test click is nowhere
    rows = [(1, 7, TRAIN), *((2, item, TRAIN) for item in (11, 12, 13, 14, 15)), (2, 16, VALID), (2, 17, VALID), (2, 18, TEST)]
    rows += [(3, 21, CONTEXT), (3, 22, VALID)]
    train = [(r["sample_id"], r["num_context"], r["num_targets"], r["items"]) for r in built(rows, TRAIN)]
    assert train == [
        (1 << 32, 0, 1, [7, 0, 0, 0, 0]),
        (2 << 32, 0, 3, [11, 12, 13, 0, 0]),
        ((2 << 32) + 3, 2, 2, [12, 13, 14, 15, 0]),
    ]
    valid = built(rows, VALID)
    assert [(r["sample_id"], r["num_context"], r["items"]) for r in valid] == [
        ((2 << 32) + 5, 2, [14, 15, 16, 17, 0]),
        ((3 << 32) + 1, 1, [21, 22, 0, 0, 0]),
    ]
    assert [(r["ts"], r["weight"], r["city"]) for r in valid] == [([6, 7, 0], [4.0, 4.5, 0.0], 12), ([10, 0, 0], [6.0, 0.0, 0.0], 13)]


def test_under_the_user_split_the_first_clicks_are_context_only():
    rows = [(5, item, TRAIN) for item in (1, 2, 3, 4, 5, 6)]
    assert [(r["sample_id"] & 7, r["items"]) for r in built(rows, TRAIN, first_target=4)] == [(4, [3, 4, 5, 6, 0])]


def test_no_target_is_no_block_and_row_groups_are_bounded():
    assert built([(1, 2, TEST)], TRAIN) == []
    users = np.arange(1, BLOCKS_PER_ROW_GROUP + 3, dtype=np.int32)
    events = pa.table(
        {
            **{"user_idx": users, "item_idx": users, "split": np.zeros(len(users), np.int8)},
            **{"ts": users.astype(np.int64), "weight": users.astype(np.float32)},
        }
    )
    batches = list(blocks_of(events, {"city": users}, SCHEMA, split=TRAIN, first_target=0, history=2, size=3))
    assert [batch.num_rows for batch in batches] == [BLOCKS_PER_ROW_GROUP, 2]
