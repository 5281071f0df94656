import pytest

from conf.fields import Field
from tests.trainer import tiny
from trainer.encoders.fields import LARGE, new_table

ITEM, USER, TAGS = Field("item_id", "item", "single"), Field("user_id", "user", "single"), Field("tags", "item", "multi", max_len=5)


@pytest.mark.parametrize(
    ("field", "num_rows", "batch", "by_rows"),
    [
        (USER, LARGE, 1024, True),
        (USER, LARGE - 1, 16, False),  # whole gradients of a small table cost little
        (USER, LARGE, 10_004, False),  # a batch uses more than a tenth of its rows
        (ITEM, 10 * 6 * 4096, 4096, True),  # five clicks of a history and the target
        (ITEM, 10 * 6 * 4096 - 1, 4096, False),
        (TAGS, 10 * 6 * 4096, 4096, False),  # five ids each
        (TAGS, 50 * 6 * 4096, 4096, True),
    ],
)
def test_large_tables_of_which_a_batch_uses_few_rows_get_gradients_by_rows(field: Field, num_rows: int, batch: int, by_rows: bool) -> None:
    for tables, sparse in (("auto", by_rows), ("adam", False), ("rowwise_adagrad", True), ("sparse_adam", True)):
        given = tiny.settings({"trainer.batch": batch, "trainer.optimizer": {"tables": tables}})
        assert given.model.history == 5
        assert new_table(given, field, num_rows, 1).sparse is sparse
