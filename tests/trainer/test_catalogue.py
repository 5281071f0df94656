import pyarrow as pa
import pytest
import torch

from conf.errors import BadDataError
from tests.trainer import tiny
from trainer.catalogue import MAX_VALUES, Catalogue, UserTable, padded


def test_rows_stand_at_their_idx_and_row_0_is_pad() -> None:
    catalogue = tiny.catalogue(tiny.settings())
    assert catalogue.num_items == 9
    assert catalogue.single["item_id"].tolist() == [0, 4, 5, 6, 7, 8, 9, 10, 2, 2]
    assert catalogue.multi["tags"].tolist()[:5] == [[0, 0, 0], [4, 0, 0], [4, 5, 0], [0, 0, 0], [5, 6, 7]]
    assert "title" not in catalogue.single  # text is not embedded


def test_row_order_does_not_matter() -> None:
    table = tiny.item_feat()
    shuffled = table.take([4, 2, 8, 0, 1, 7, 6, 5, 3])
    registry = tiny.settings().registry()
    want, got = Catalogue.from_arrow(table, registry), Catalogue.from_arrow(shuffled, registry)
    for name, column in {**want.single, **want.multi}.items():
        torch.testing.assert_close({**got.single, **got.multi}[name], column)


def test_users() -> None:
    users = UserTable.from_arrow(tiny.user_feat(), tiny.settings().registry())
    assert users.single["user_id"].tolist() == [0, 4, 5, 6, 7, 8, 9, 2]
    assert users.multi["hobbies"].tolist()[1:3] == [[4, 5, 0], [0, 0, 0]]


@pytest.mark.parametrize("idx", [[1, 2, 4], [0, 1, 2], [1, 2, 2], []])
def test_idx_must_be_dense(idx: list[int]) -> None:
    table = tiny.item_feat().slice(0, len(idx)).set_column(0, "idx", pa.array(idx, pa.int32()))
    if not idx:
        assert Catalogue.from_arrow(table, tiny.settings().registry()).num_items == 0
        return
    with pytest.raises(BadDataError, match="each once"):
        Catalogue.from_arrow(table, tiny.settings().registry())


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadDataError, match="'tags' is missing"):
        Catalogue.from_arrow(tiny.item_feat().drop_columns(["tags"]), tiny.settings().registry())


def test_padded_honours_slices_chunks_nulls_and_the_cap() -> None:
    chunks = pa.chunked_array([pa.array([[1, 2], [], None], pa.list_(pa.int32())), pa.array([list(range(1, 14))], pa.list_(pa.int32()))])
    assert padded(chunks).tolist() == [[1, 2, *[0] * 8], [0] * 10, [0] * 10, list(range(1, MAX_VALUES + 1))]
    assert padded(chunks.slice(1, 3), width=3).tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]
    assert padded(pa.array([], pa.list_(pa.int32()))).shape == (0, 1)
