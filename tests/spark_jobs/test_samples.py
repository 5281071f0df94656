"""Samples: windows and masks against a plain builder that goes bit by bit, and the layout of the files."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.masks import Masking, correlated
from conf.tables import CONTEXT, TEST, TRAIN, VALID, resolve
from spark_jobs.kernels.samples import dealt, permutation
from spark_jobs.samples import Recipe, columns_of_users, count_targets, exact_row_groups, row_group_rows, samples_of, shuffled
from spark_jobs.task_files import arrow_schema
from tests import slow_masks
from tests.spark_jobs.small_logs import settings_of, shuffle_partitions

MASKS = Masking(history=3, user_fields=3, item_fields=2, p_field=0.3, p_hist=0.4, draws=2, seed=17)
BELONG = np.array([[0.0, 0.1, 0.7], [0.1, 0.0, 0.2], [0.7, 0.2, 0.0]])  # of the user fields
OTHER_MASKS = (
    dataclasses.replace(MASKS, strategy="rfm"),
    dataclasses.replace(MASKS, strategy="rfm", complementary=False),
    dataclasses.replace(MASKS, strategy="cfm", user_patterns=correlated(BELONG), item_patterns=correlated(np.eye(2))),
)
RECIPE = Recipe(history=3, first_target=0, user_columns=("city",), masks=MASKS)
EVENTS = pa.schema(
    {
        **{"user_idx": pa.int32(), "item_idx": pa.int32(), "ts": pa.int64(), "seq": pa.int64(), "split": pa.int8()},
        **{"weight": pa.float32(), "session_key": pa.string(), "city": pa.int32()},
    }
)
FIELDS = {"user": ["user_id", "city", "hobbies"], "item": ["item_id", "tags"]}


def schema_of(strategy):
    shaped = settings_of(model={"history": 3, "fields": FIELDS}, samples={"masks": {"draws": 2, "strategy": strategy}})
    return arrow_schema(resolve("samples", shaped.registry(), shaped.shape()))


ARROW = {strategy: schema_of(strategy) for strategy in ("random_p", "rfm", "cfm")}


def arrow(rows):
    """rows: (user, item, split) in order; ts = the place, city = user % 90 + 10."""
    full = [(u, i, n, 0, split, 1.0 + n, None, u % 90 + 10) for n, (u, i, split) in enumerate(rows)]
    return pa.Table.from_pylist([dict(zip(EVENTS.names, row, strict=True)) for row in full], schema=EVENTS)


def slow_samples(rows, recipe, split):
    """The plain builder: user by user, click by click, bit by bit."""
    made, before = [], {}
    for n, (user, item, code) in enumerate(rows):
        mine = before.setdefault(user, [])
        if code == split and (split != TRAIN or len(mine) >= recipe.first_target):
            hist, sample_id = mine[-recipe.history :], (user << 32) + len(mine)
            row = {
                "sample_id": sample_id,
                "user_idx": user,
                "item_idx": item,
                "ts": n,
                "split": code,
                "weight": 1.0 + n,
                "city": user % 90 + 10,
            }
            row |= {"hist": hist + [0] * (recipe.history - len(hist)), "hist_len": len(hist), "user_id": user}
            made.append(row | slow_masks.masks(recipe.masks, sample_id, len(hist)))
        mine.append(item)
    return made


def built(rows, recipe, split, group=4):
    """The rows in order of sample_id."""
    users = np.array([user for user, *_ in rows], np.int32)
    schema, columns = ARROW[recipe.masks.strategy], {"user_id": users, "city": users % 90 + 10}
    batches = samples_of(arrow(rows).combine_chunks(), columns, schema, recipe, split=split, group=group)
    made = [batch.to_pylist() for batch in batches]
    assert all(len(batch) == group for batch in made[:-1])
    return sorted((row for batch in made for row in batch), key=lambda row: row["sample_id"])


@st.composite
def event_rows(draw):
    rows = []
    for user in draw(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=4, unique=True).map(sorted)):
        num = draw(st.integers(1, 9))
        stages = sorted(draw(st.lists(st.sampled_from([TRAIN, VALID, TEST]), min_size=num, max_size=num)))
        rows += [(user, draw(st.integers(1, 50)), stage) for stage in stages]
    return rows


@settings(max_examples=150, deadline=None)
@given(event_rows(), st.sampled_from([TRAIN, VALID]), st.sampled_from([0, 4]), st.sampled_from([MASKS, *OTHER_MASKS]))
def test_equals_the_plain_builder(rows, split, first_target, masks):  # P3.4, P1.2
    recipe = dataclasses.replace(RECIPE, first_target=first_target, masks=masks)
    assert built(rows, recipe, split) == slow_samples(rows, recipe, split)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_what_is_dealt_gives_the_order_back_hand_by_hand(num, hand, seed):
    order = permutation(num, seed)
    ascending, spot = dealt(order, hand)
    for at in range(0, num, hand):
        some, put = ascending[at : at + hand], np.empty(len(order[at : at + hand]), np.int64)
        assert (np.diff(some) > 0).all()
        put[spot[at : at + hand]] = some
        assert put.tolist() == order[at : at + hand].tolist()


def test_windows_by_hand():
    rows = [(1, 7, TRAIN), (2, 4, TRAIN), (2, 5, TRAIN), (2, 4, VALID), (2, 6, VALID), (2, 9, TEST), (3, 1, CONTEXT), (3, 2, VALID)]
    train = [(r["sample_id"], r["hist"], r["hist_len"]) for r in built(rows, RECIPE, TRAIN)]
    assert train == [(1 << 32, [0, 0, 0], 0), (2 << 32, [0, 0, 0], 0), ((2 << 32) + 1, [4, 0, 0], 1)]
    valid = [(r["sample_id"], r["item_idx"], r["hist"]) for r in built(rows, RECIPE, VALID)]
    assert valid == [((2 << 32) + 2, 4, [4, 5, 0]), ((2 << 32) + 3, 6, [4, 5, 4]), ((3 << 32) + 1, 2, [1, 0, 0])]


def test_masks_hide_some_but_never_all():
    rows = [(user, 1, TRAIN) for user in range(1, 400) for _ in range(4)]
    made = built(rows, RECIPE, TRAIN)
    for name, bits in (("um_b0", 3), ("vm_b0", 2)):
        assert {row[name] for row in made} == set(range(1, 2**bits - 1))
    assert {row["uh_b0"] for row in made if row["hist_len"] == 3} == {0, 1, 2, 3}  # bit 2, the most recent, is never dropped
    assert {row["uh_b0"] for row in made if row["hist_len"] < 2} == {0}
    share = np.mean([row["uh_b0"] & 1 for row in made if row["hist_len"] == 3])
    assert abs(share - MASKS.p_hist) < 4 * (0.4 * 0.6 / 399) ** 0.5
    assert any(row["um_b0"] != row["um_b1"] for row in made)
    single = built(rows, dataclasses.replace(RECIPE, masks=dataclasses.replace(MASKS, item_fields=1)), TRAIN)
    assert {row["vm_b0"] for row in single} == {0}  # hiding the only field would hide all


def test_row_groups_shrink_until_every_stream_has_two():
    assert row_group_rows(1_000_000, wanted=16_384, streams=4) == 16_384
    assert row_group_rows(1_000, wanted=16_384, streams=4) == 125
    assert row_group_rows(3, wanted=16_384, streams=4) == 1


def test_targets_are_counted(spark):
    rows = [(1, TRAIN)] * 6 + [(2, TRAIN)] * 3 + [(3, CONTEXT)] * 4 + [(3, VALID)] * 2 + [(4, TEST)]
    df = spark.createDataFrame(rows, "user_idx int, split byte")
    counted = {"train_events": 9, "valid_events": 2}
    assert count_targets(df, counted, RECIPE) == {"train_samples": 9, "valid_samples": 2, "train_events_only_history": 0}
    late = dataclasses.replace(RECIPE, first_target=4)
    assert count_targets(df, counted, late) == {"train_samples": 2, "valid_samples": 2, "train_events_only_history": 7}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=40).map(sorted), st.integers(1, 7), st.randoms(use_true_random=False))
def test_each_event_has_the_columns_of_its_user(users, files, shuffle):
    rows = [(idx, idx * 10, idx % 3) for idx in range(1, 31)]
    shuffle.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        for n in range(files):
            part = rows[n::files]
            pq.write_table(
                pa.table(
                    {name: pa.array(values, pa.int32()) for name, values in zip(("idx", "a", "b"), zip(*part, strict=True), strict=True)}
                ),
                f"{folder}/{n}.parquet",
                row_group_size=3,
            )
        found = columns_of_users(sorted(str(path) for path in Path(folder).glob("*")), ("a", "b"), np.array(users, np.int32))
    assert found["a"].tolist() == [user * 10 for user in users]
    assert found["b"].tolist() == [user % 3 for user in users]


def test_the_order_is_random_and_that_of_the_events():
    rows = [(user, 1, TRAIN) for user in range(1, 101) for _ in range(5)]
    users = np.array([user for user, *_ in rows], np.int32)

    def order(group):
        made = samples_of(
            arrow(rows).combine_chunks(), {"user_id": users, "city": users}, ARROW["random_p"], RECIPE, split=TRAIN, group=group
        )
        return [sample_id for batch in made for sample_id in batch.column("sample_id").to_pylist()]

    assert order(64) == order(500)
    assert len(set(order(64))) == 500
    steps = np.diff(order(64))
    assert abs((steps > 0).mean() - 0.5) < 0.15  # as many steps up as down: no trace of the users' order


def test_the_sql_engines_row_groups_are_exact_and_in_no_order(spark, tmp_path):
    rows = spark.range(1, 501).selectExpr("id << 32 as sample_id")
    layouts = []
    for name, partitions in (("one", 1), ("many", 5)):
        with shuffle_partitions(spark, partitions):
            shuffled(rows.repartition(partitions), 2).write.options(**exact_row_groups(64)).parquet(str(tmp_path / name))
        files = [pq.ParquetFile(path) for path in sorted((tmp_path / name).glob("*.parquet"))]
        sizes = [[file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)] for file in files]
        assert len(files) == 2
        assert all(set(of_file[:-1]) == {64} and of_file[-1] <= 64 for of_file in sizes)
        layouts.append([file.read()["sample_id"].to_pylist() for file in files])
    assert layouts[0] == layouts[1]
    assert sorted(layouts[0][0] + layouts[0][1]) == [n << 32 for n in range(1, 501)]
    steps = np.diff(layouts[0][0])
    assert abs((steps > 0).mean() - 0.5) < 0.15  # as many steps up as down: no trace of the users' order
