"""Who reads how much of an epoch, counted from the batches themselves."""

from conf.settings import Settings
from conf.tables import TRAIN
from trainer.batches.balance import balance
from trainer.batches.order import RowGroup, plan_epoch


def test_it_says_what_the_batches_of_an_epoch_are_made_of() -> None:
    sizes = [7, 0, 7, 1, 7, 4]  # 26 train rows; the second row group holds validation rows only
    groups = [RowGroup("f", n, n, rows + 2, rows, (TRAIN,)) for n, rows in enumerate(sizes)]
    trainer = Settings.model_validate({"trainer": {"streams": 4, "workers": 2, "batch": 8}}).trainer
    found = balance(groups, trainer, workers=2)
    assert found["row_groups"] == {"num": 5, "least": 1, "median": 7, "most": 7}
    assert found["streams"] == [6, 7, 6, 7]  # 26 rows cut at 6, 13, 19
    # of streams of 6 rows three batches of 2 a stream are made, 3 x 8 / 2 workers rows each
    assert [(one["rows"], one["trained"]) for one in found["workers"]] == [(13, 12), (13, 12)]
    plan = plan_epoch(groups, seed=trainer.seed, epoch=0, streams=4, batch=8)
    opened = [[piece.group.number for pieces in plan.streams[start : start + 2] for piece in pieces] for start in (0, 2)]
    assert [one["row_groups"] for one in found["workers"]] == [len(numbers) for numbers in opened]
    assert set(opened[0]) | set(opened[1]) == {0, 2, 3, 4, 5}
    (alone,) = balance(groups, trainer, workers=1)["workers"]
    assert (alone["rows"], alone["trained"]) == (26, 24)
