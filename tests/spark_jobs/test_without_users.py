"""Tables without some users, by hand: rows by key and by number, neighbours inside lists, names in raw text; row groups stay."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.tables import TABLES
from spark_jobs.without_users import BY_KEY, BY_NUMBER, USER_TABLES, clean_file, numbers_of, without

KEYS, NUMBERS = pa.array(["8", "ann"], pa.string()), pa.array([2, 5], pa.int32())


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"candidates_lists", "samples_sequences"}))
def test_every_table_with_a_column_of_users_is_known(name):
    columns = set(TABLES[name].names)
    if name in USER_TABLES:
        assert {BY_KEY.get(name) or BY_NUMBER.get(name, "raw")} <= columns
    else:
        assert not columns & {"user_key", "user_idx"}, f"{name} holds users: add it to spark_jobs/without_users.py"
        assert "user" not in TABLES[name].business_keys.values(), name
        assert not name.endswith("_user")


def test_rows_go_by_key_also_where_keys_are_integers():
    kept, num = without(pa.table({"user_key": ["7", "8", "ann", "88"], "rank": [1, 2, 3, 4]}), "candidates", KEYS)
    assert (kept["rank"].to_pylist(), num) == ([1, 4], 2)
    kept, num = without(pa.table({"user_key": pa.array([7, 8, 88], pa.int64())}), "candidates", KEYS)
    assert (kept["user_key"].to_pylist(), kept["user_key"].type, num) == ([7, 88], pa.int64(), 1)


def test_similar_users_lose_the_rows_of_users_and_those_that_name_one(tmp_path):
    table = pa.table({"key": ["7", "8", "9"], "rank": [1, 1, 1], "neighbour_key": ["9", "7", "ann"], "score": [0.5, 0.4, 0.3]})
    kept, num = without(table, "similar_users", KEYS)
    assert (kept["key"].to_pylist(), num) == (["7"], 2)
    pq.write_table(table, tmp_path / "similar")
    assert clean_file(str(tmp_path / "similar"), "similar_users", KEYS) == 2


def neighbours(rows: list[tuple[int, list[int], list[float], int]]) -> pa.Table:
    schema = pa.schema(
        {"idx": pa.int32(), "neighbours": pa.list_(pa.int32()), "similarities": pa.list_(pa.float32()), "cluster": pa.int32()}
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def test_users_go_from_the_lists_of_who_clicked_an_item():
    """In samples with item_users: rows of users 2 and 5 go, and where they clicked the item before others, they are no longer named."""
    lists = [[1, 3, 0], [2, 3, 0], [5, 2, 5], [4, 2, 4], [0, 0, 0]]
    table = pa.table({"user_idx": pa.array([1, 2, 3, 4, 6], pa.int32()), "item_users": pa.array(lists, pa.list_(pa.int32()))})
    for given in (table, pa.concat_tables([table.slice(0, 2), table.slice(2)])):
        kept, num = without(given, "samples", NUMBERS)
        assert kept["user_idx"].to_pylist() == [1, 3, 4, 6]
        assert kept["item_users"].to_pylist() == [[1, 3, 0], [0, 0, 0], [4, 4, 0], [0, 0, 0]]
        assert kept.schema == table.schema
        assert num == 3
    assert without(table.slice(1, 1), "samples", NUMBERS)[0].num_rows == 0


def test_a_file_of_samples_is_searched_for_users_in_lists(tmp_path):
    schema = pa.schema({"user_idx": pa.int32(), "item_users": pa.list_(pa.int32()), "weight": pa.float32()})
    pq.write_table(pa.table([[1, 3], [[2, 0], [3, 1]], [1.0, 1.0]], schema=schema), tmp_path / "lists")
    assert clean_file(str(tmp_path / "lists"), "samples", NUMBERS) == 1
    pq.write_table(pa.table({"user_idx": pa.array([1, 2], pa.int32())}), tmp_path / "plain")
    assert clean_file(str(tmp_path / "plain"), "samples", NUMBERS) == 1


def test_neighbours_go_from_lists_with_their_similarities():
    table = neighbours(
        [(1, [2, 3, 5], [0.5, 0.25, 0.125], 7), (2, [1], [0.5], 8), (3, [5], [1.0], 7), (4, [], [], -1), (6, [1, 3], [0.5, 0.5], 0)]
    )
    for given in (table, pa.concat_tables([table.slice(0, 2), table.slice(2)])):  # slices and chunks have offsets of their own
        kept, num = without(given, "neighbours_user", NUMBERS)
        assert kept.equals(neighbours([(1, [3], [0.25], 7), (3, [], [], 7), (4, [], [], -1), (6, [1, 3], [0.5, 0.5], 0)]))
        assert num == 3  # one row of a user, two lists that named one


def test_raw_text_goes_where_a_key_stands_in_it_as_a_word():
    raw = ["8,x", "18,x", '{"u": "ann"}', "joanna", "", "x;8"]
    kept, num = without(pa.table({"row": range(6), "raw": raw}), "rejects", KEYS)
    assert kept["raw"].to_pylist() == ["", "18,x", "", "joanna", "", ""]
    assert num == 3
    assert without(kept, "rejects", KEYS)[1] == 0
    many = pa.array([f"k{n}" for n in range(450)] + ["a.b", "c|d"])  # more than one pattern; nothing in a key is a pattern itself
    kept, _ = without(pa.table({"raw": ["k449", "axb", "a.b", "c", "c|d"]}), "rejects", many)
    assert kept["raw"].to_pylist() == ["", "axb", "", "c", ""]


def test_a_file_keeps_its_order_row_groups_and_schema(tmp_path):
    idx = np.repeat(np.arange(1, 9, dtype=np.int32), 3)
    schema = pa.schema([("user_idx", pa.int32()), ("n", pa.int16())], metadata={"made": "by us"})
    old = pa.table({"user_idx": idx, "n": np.arange(24, dtype=np.int16)}, schema=schema)
    pq.write_table(old, tmp_path / "old.parquet", row_group_size=6, compression="zstd")
    assert clean_file(f"{tmp_path}/old.parquet", "events", NUMBERS) == 6
    assert clean_file(f"{tmp_path}/old.parquet", "events", NUMBERS, f"{tmp_path}/new.parquet") == 6
    new = pq.ParquetFile(tmp_path / "new.parquet")
    assert new.read()["n"].to_pylist() == [n for n in range(24) if idx[n] not in (2, 5)]
    assert [new.metadata.row_group(n).num_rows for n in range(new.num_row_groups)] == [3, 6, 3, 6]
    assert new.metadata.row_group(0).column(0).compression == "ZSTD"
    assert new.schema_arrow.equals(schema, check_metadata=True)
    assert clean_file(f"{tmp_path}/new.parquet", "events", pa.array(range(9), pa.int32()), f"{tmp_path}/none.parquet") == 18
    assert pq.read_table(tmp_path / "none.parquet").schema.equals(schema)


def test_numbers_are_those_of_the_index(tmp_path):
    pq.write_table(pa.table({"key": ["ann", "bob", "8"], "idx": pa.array([4, 1, 9], pa.int32())}), tmp_path / "index.parquet")
    assert sorted(numbers_of(f"{tmp_path}/index.parquet", KEYS)) == [4, 9]
