import pytest
import torch

from tests.trainer import tiny
from trainer.backends.single import SingleBackend
from trainer.objectives import Step


def step(batch: dict[str, torch.Tensor] | None = None) -> Step:
    given = tiny.settings({"model.dropout": 0.3})
    return tiny.step(given, tiny.encoder(given), tiny.pairs([3, 5, 3, 1], [2, 2, 4, 2]) if batch is None else batch)


def test_the_row_with_the_smallest_number_stands_for_its_user() -> None:
    made = step()
    assert made.first_users[0].tolist() == [True, True, False, True]
    assert made.first_items[0].tolist() == [True, False, True, False]
    made = step({**made.batch, "row": torch.tensor([9, 4, 2, 7])})
    assert made.first_users[1].tolist() == [False, True, True, True]
    assert made.first_items[1].tolist() == [False, True, True, False]


def test_views_hold_only_the_rows_that_stand_for_their_entity() -> None:
    made, plain = step(tiny.batch()), step(tiny.batch())
    plain.encoder.drop = 0.0  # type: ignore[assignment]
    batch = made.batch
    for view, chosen, whole in (
        (plain.user_b_BKD, plain.first_users[0], plain.encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"])),
        (plain.item_b_BD, plain.first_items[0], plain.encoder.item(batch["item_idx"], vm=batch["vm_b"])),
    ):
        torch.testing.assert_close(view[chosen], whole[chosen])
        assert view[~chosen].abs().max() == 0
    # the two views of a row drop different elements
    assert not torch.equal(made.words(3, batch["row"]), made.words(4, batch["row"]))  # type: ignore[arg-type]


def test_gather_keeps_shapes_and_gradients() -> None:
    made = step()
    x, y = torch.randn(4, 2, 3, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    got = made.gather([x, y])
    torch.testing.assert_close(got, [x, y])
    (got[0].sum() + 2 * got[1].sum()).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad == 1).all()
    assert (y.grad == 2).all()


@pytest.mark.parametrize(("workers", "count", "want"), [(1, 4, 0.5), (3, 4, 1.5), (2, 0, 0.0)])
def test_share_of_mean(workers: int, count: int, want: float) -> None:
    made = step()
    made.backend = SingleBackend()
    made.backend.size = workers
    local = torch.tensor(2.0, requires_grad=True)
    share = made.share_of_mean(local, count)
    assert share.item() == want
    share.backward()
    assert local.grad == want / 2


def test_ids() -> None:
    made = step(tiny.batch())
    assert made.counts == [13]
    for name in ("row", "user_idx", "item_idx"):
        assert torch.equal(made.all_ids(name), made.batch[name])  # type: ignore[arg-type]
    assert torch.equal(made.all_known_NR, made.known_positives)
