"""User states by hand: what is listed of whom, and who has nothing."""

import pyarrow as pa
import pyarrow.parquet as pq

from conf.tables import CONTEXT, TEST, TRAIN, VALID
from spark_jobs.user_states import _without_events, states_of, states_of_the_others

# user 1: two train, one valid, one test; 4: context and test; 6: only test; 7: train.
ROWS = [
    (1, 3, 10, TRAIN),
    (1, 2, 20, TRAIN),
    (1, 1, 20, VALID),
    (1, 3, 30, TEST),
    (4, 5, 5, CONTEXT),
    (4, 5, 6, TEST),
    (6, 1, 1, TEST),
    (7, 2, 9, TRAIN),
]


def events(rows=ROWS):
    user, item, ts, split = zip(*rows, strict=True)
    columns = {"user_idx": pa.array(user, pa.int32()), "item_idx": pa.array(item, pa.int32()), "ts": pa.array(ts, pa.int64())}
    return pa.table(columns | {"split": pa.array(split, pa.int8())})


def listed(batch):
    return {row["user_idx"]: (row["items"], row["ts"], row["num_train"]) for row in batch.to_pylist()}


def test_by_hand():
    assert listed(states_of(events(), refit=False)) == {
        1: ([3, 2], [10, 20], 2),
        4: ([5], [5], 0),  # context is history, not training
        6: ([], [], 0),
        7: ([2], [9], 1),
    }


def test_with_refit_valid_events_are_known():
    states = listed(states_of(events(), refit=True))
    assert states[1] == ([3, 2, 1], [10, 20, 20], 2)
    assert states[4] == ([5], [5], 0)


def test_users_without_events_have_empty_lists(tmp_path):
    index, log = str(tmp_path / "index.parquet"), str(tmp_path / "events.parquet")
    pq.write_table(pa.table({"idx": pa.array([7, 1, 2, 4, 6, 9], pa.int32())}), index)  # 3, 5, 8 were erased
    pq.write_table(events(), log)
    idx = _without_events([index], [log])
    assert listed(states_of_the_others(idx)) == {2: ([], [], 0), 9: ([], [], 0)}


def test_no_events_and_nobody(tmp_path):
    nothing = str(tmp_path / "index.parquet")
    pq.write_table(pa.table({"idx": pa.array([], pa.int32())}), nothing)
    assert states_of(events().slice(0, 0), refit=False).num_rows == 0
    assert states_of_the_others(_without_events([nothing], [])).num_rows == 0
