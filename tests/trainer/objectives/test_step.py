from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from tests.trainer import tiny
from trainer.backends.single import SingleBackend
from trainer.objectives import Step
from trainer.objectives.values import fewer_values
from trainer.related import Related


def step(batch: dict[str, torch.Tensor] | None = None, dropout: float = 0.3) -> Step:
    given = tiny.settings({"model.dropout": dropout})
    return tiny.step(given, tiny.encoder(given), tiny.pairs([3, 5, 3, 1], [2, 2, 4, 2]) if batch is None else batch)


def test_the_row_with_the_smallest_number_stands_for_its_user() -> None:
    made = step()
    assert made.first_users[0].tolist() == [True, True, False, True]
    assert made.first_items[0].tolist() == [True, False, True, False]
    made = step({**made.batch, "row": torch.tensor([9, 4, 2, 7])})
    assert made.first_users[1].tolist() == [False, True, True, True]
    assert made.first_items[1].tolist() == [False, True, True, False]


def test_negatives_are_no_item_of_the_history_and_not_the_target() -> None:
    made = step(tiny.batch())
    users, targets = made.batch["user_idx"].tolist(), made.batch["item_idx"].tolist()
    liked = [{*hist, target} for hist, target in zip(made.batch["hist"].tolist(), targets, strict=True)]
    assert len(set(targets)) < len(targets)  # of other users, too
    rows = list(zip(users, targets, strict=True))
    want = torch.tensor([[user != other and item not in own for other, item in rows] for user, own in zip(users, liked, strict=True)])
    assert torch.equal(made.negative_items_BN, want)
    assert torch.equal(made.negative_users_BN, want.T)


def test_negatives_are_no_train_items_of_the_user_where_these_are_known() -> None:
    items: list[list[int]] = [[7, 8], [], [1, 9, 3], [], [6], [], []]
    train = Related.of_users(pa.table({"user_idx": range(1, 8), "items": items}), tiny.USERS, tiny.ITEMS)
    towers = tiny.FreeVectors(dim=tiny.ITEMS + 1)
    with torch.no_grad():
        towers.items.copy_(torch.eye(tiny.ITEMS + 1))  # a vector says which item it is of
    made = tiny.step(tiny.settings(), towers, tiny.pairs([3, 5, 3, 1], [2, 2, 4, 2]))
    made.catalogue = replace(made.catalogue, related={"user_state": train})
    vectors_nD, which_BM, valid_BM = made.drawn_items(80)
    for row, user in enumerate(made.batch["user_idx"].tolist()):
        drawn = vectors_nD[which_BM[row][valid_BM[row]]].argmax(dim=1)
        known = {*items[user - 1], *made.known_positives[row].tolist()}
        assert set(drawn.tolist()) == set(range(1, tiny.ITEMS + 1)) - known


def test_views_hold_only_the_rows_that_stand_for_their_entity() -> None:
    made, plain = step(tiny.batch()), step(tiny.batch(), dropout=0.0)
    batch = made.batch
    for view, chosen, whole in (
        (plain.user_b_BKD, plain.first_users[0], plain.encoder.user(batch, um=batch["um_b"], uh=batch["uh_b"])),
        (plain.item_b_BD, plain.first_items[0], plain.encoder.item(batch["item_idx"], vm=batch["vm_b"])),
    ):
        torch.testing.assert_close(view[chosen], whole[chosen])
        assert view[~chosen].abs().max() == 0
    # the two views of a row drop different elements
    assert not torch.equal(made.words(3, batch["row"]), made.words(4, batch["row"]))  # type: ignore[arg-type]


def test_view_a_is_clean_where_it_has_no_masks() -> None:
    made = step(tiny.batch())
    assert made.user_a_BKD is made.user_BKD
    assert made.item_a_BD is made.item_BD


def test_view_a_has_masks_and_noise_of_its_own() -> None:
    batch = tiny.batch()
    masks = {f"{name}_a": batch[f"{name}_b"].flip(0) for name in ("um", "uh", "vm")}
    made, plain = step(batch | masks), step(batch | masks, dropout=0.0)
    for view, chosen, whole in (
        (plain.user_a_BKD, plain.first_users[0], plain.encoder.user(batch, um=masks["um_a"], uh=masks["uh_a"])),
        (plain.item_a_BD, plain.first_items[0], plain.encoder.item(batch["item_idx"], vm=masks["vm_a"])),
    ):
        torch.testing.assert_close(view[chosen], whole[chosen])
        assert view[~chosen].abs().max() == 0
    same = {f"{name}_a": batch[f"{name}_b"] for name in ("um", "uh", "vm")}
    made = step(batch | same)  # equal masks, and yet other elements dropped
    assert not torch.isclose(made.user_a_BKD, made.user_b_BKD).all()
    assert not torch.isclose(made.item_a_BD, made.item_b_BD).all()


def test_masked_views_drop_values_and_clean_ones_do_not() -> None:
    none = torch.zeros(13, dtype=torch.int64)
    batch = tiny.batch() | {"draw": none, "um_b": none, "vm_b": none, "item_idx": torch.arange(13) % tiny.ITEMS + 1}
    asked = tiny.settings({"samples.masks": {"p_val": 0.9}})
    encoder = tiny.encoder(asked)
    made, plain = tiny.step(asked, encoder, batch), tiny.step(tiny.settings(), encoder, batch)
    for name in ("user_BKD", "item_BD", "user_a_BKD", "item_a_BD"):
        assert torch.equal(getattr(made, name), getattr(plain, name))
    tags = {"tags": encoder.catalogue.multi["tags"][batch["item_idx"]]}  # type: ignore[union-attr, index]
    hobbies = fewer_values(asked, "user", "b", batch, {"hobbies": batch["user.hobbies"]})["hobbies"]
    users = encoder.user(batch | {"user.hobbies": hobbies}, um=batch["um_b"], uh=batch["uh_b"])
    items = encoder.item(batch["item_idx"], vm=batch["vm_b"], multi=fewer_values(asked, "item", "b", batch, tags))
    torch.testing.assert_close(made.user_b_BKD[made.first_users[0]], users[made.first_users[0]])
    torch.testing.assert_close(made.item_b_BD[made.first_items[0]], items[made.first_items[0]])
    assert not torch.isclose(made.user_b_BKD, plain.user_b_BKD).all()
    assert not torch.isclose(made.item_b_BD, plain.item_b_BD).all()


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
