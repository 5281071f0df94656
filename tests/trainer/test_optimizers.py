import copy
import math

import pytest
import torch
from torch import nn

from tests.trainer import tiny
from trainer.backends.single import SingleBackend
from trainer.diagnostics import gradient_norms
from trainer.encoders import Encoder, fields
from trainer.loop import poison
from trainer.optimizers import Optimizers, RowwiseAdagrad

ROWWISE = {"trainer.optimizer": {"tables": "rowwise_adagrad"}, "model.dropout": 0.2}
SPARSE_ADAM = {"trainer.optimizer": {"tables": "sparse_adam"}, "model.dropout": 0.2}


def test_rowwise_adagrad_by_hand() -> None:
    table = nn.Parameter(torch.ones(3, 2))
    optimizer = RowwiseAdagrad([table], lr=0.5)
    for rows, gradient in (([1], [[3.0, 4.0]]), ([1, 2], [[3.0, 4.0], [1.0, -1.0]])):
        table.grad = torch.sparse_coo_tensor([rows], gradient, (3, 2), check_invariants=True)
        optimizer.step()
    # row 1: mean square 12.5, then 25 in all
    want = torch.ones(3, 2)
    want[1] -= 0.5 * torch.tensor([3.0, 4.0]) * (1 / 12.5**0.5 + 1 / 25**0.5)
    want[2] -= 0.5 * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(table.detach(), want)
    assert optimizer.state[table]["sum"].tolist() == [0, 25, 1]


def test_sparse_repeats_are_added_up_and_equal_dense() -> None:
    sparse, dense = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(4, 2))
    sparse.grad = torch.sparse_coo_tensor([[2, 0, 2]], [[1.0, 2], [3, 4], [5, 6]], (4, 2), check_invariants=True)
    dense.grad = sparse.grad.to_dense()
    for parameter in (sparse, dense):
        RowwiseAdagrad([parameter], lr=0.1).step()
    torch.testing.assert_close(sparse, dense)


def trained(overrides: dict[str, object], steps: range, state: dict[str, object] | None = None) -> tuple[nn.ModuleList, Optimizers]:
    given = tiny.settings(overrides)
    encoder, criterion = tiny.model(given)
    modules = nn.ModuleList([encoder, criterion])
    optimizers = Optimizers(given, encoder, criterion)
    if state is not None:
        modules.load_state_dict(state["modules"])  # type: ignore[arg-type]
        optimizers.load_state_dict(state["optimizers"])  # type: ignore[arg-type]
    for number in steps:
        optimizers.zero_grad()
        total, _ = criterion(tiny.step(given, encoder, tiny.batch(seed=number), number=number))
        total.backward()
        SingleBackend().sync_gradients(optimizers.parameters)
        optimizers.step()
    return modules, optimizers


@pytest.mark.parametrize("overrides", [{"model.dropout": 0.2}, ROWWISE, SPARSE_ADAM], ids=["adam", "rowwise", "sparse"])
def test_a_restored_state_continues_bit_for_bit(overrides: dict[str, object], tmp_path: object) -> None:
    whole, _ = trained(overrides, range(6))
    modules, optimizers = trained(overrides, range(3))
    file = f"{tmp_path}/state.pt"
    torch.save({"modules": modules.state_dict(), "optimizers": optimizers.state_dict()}, file)
    resumed, _ = trained(overrides, range(3, 6), torch.load(file, weights_only=True))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_pad_rows_stay_zero_and_unused_rows_stay_put() -> None:
    for overrides in ({}, ROWWISE, SPARSE_ADAM):
        before, _ = trained(overrides, range(0))
        after, _ = trained(overrides, range(4))
        for name, value in after.state_dict().items():
            if ".embed." in name:
                assert value[0].abs().max() == 0
            if name.endswith("item_id.weight"):  # its last id, 11, is in no item
                torch.testing.assert_close(value[11], before.state_dict()[name][11], rtol=0, atol=0)
                assert not torch.equal(value[10], before.state_dict()[name][10])


def test_every_parameter_once_tables_last() -> None:
    given = tiny.settings(ROWWISE)
    encoder, criterion = tiny.model(given)
    optimizers = Optimizers(given, encoder, criterion)
    ids = [id(parameter) for parameter in optimizers.parameters]
    assert len(set(ids)) == len(ids) == len([*encoder.parameters(), *criterion.parameters()])
    assert ids[-len(tiny.VOCAB) :] == [id(table) for table in encoder.tables()]


def test_learning_rates() -> None:
    def rates(overrides: dict[str, object]) -> list[float]:
        given = tiny.settings(overrides)
        encoder, criterion = tiny.model(given)
        parts = Optimizers(given, encoder, criterion).parts.values()
        return [group["lr"] for part in parts for group in part.param_groups]

    assert rates({"trainer.optimizer": {"lr": 0.01}}) == [0.01, 0.01]
    assert rates({"trainer.optimizer": {"lr": 0.01, "tables_lr": 0.1}}) == [0.01, 0.1]
    assert rates(ROWWISE) == [0.001, 0.05]
    assert rates(SPARSE_ADAM) == [0.001, 0.001]


def test_each_table_has_the_optimiser_of_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "LARGE", 10)  # user_id and item_id have as many rows
    monkeypatch.setattr(fields, "FEW", 0)
    modules, optimizers = trained({"model.dropout": 0.2}, range(4))
    encoder = modules[0]
    assert isinstance(encoder, Encoder)
    by_rows = [encoder.get_parameter(f"embed.{name}.weight") for name in ("user_id", "item_id")]
    assert [id(table) for table in optimizers.parts["rowwise_adagrad"].param_groups[0]["params"]] == [id(table) for table in by_rows]
    adam = [id(parameter) for group in optimizers.parts["adam"].param_groups for parameter in group["params"]]
    assert sorted([*adam, *map(id, by_rows)]) == sorted(map(id, optimizers.parameters))
    before, _ = trained({"model.dropout": 0.2}, range(0))
    moved = [not torch.equal(new, old) for new, old in zip(modules.parameters(), before.parameters(), strict=True)]
    assert all(moved)


def test_sparse_adam_touches_the_rows_in_use_and_equals_adam_on_them() -> None:
    def steps(tables: str) -> list[torch.Tensor]:
        given = tiny.settings({"trainer.optimizer": {"tables": tables}, "objectives": {}})
        encoder, criterion = tiny.model(given)
        optimizers = Optimizers(given, encoder, criterion)
        seen = []
        for rows in ([4, 5], [5]):
            optimizers.zero_grad()
            (encoder.item(torch.tensor(rows)) * torch.linspace(1, 2, encoder.dim)).sum().backward()
            SingleBackend().sync_gradients(optimizers.parameters)
            optimizers.step()
            seen.append(encoder.get_parameter("embed.item_id.weight").detach().clone())
        return seen

    adam, sparse = steps("adam"), steps("sparse_adam")
    torch.testing.assert_close(sparse[0], adam[0])
    torch.testing.assert_close(sparse[1][8], adam[1][8])  # the id of item 5
    torch.testing.assert_close(sparse[1][7], sparse[0][7], rtol=0, atol=0)  # that of item 4, out of use in the second step
    assert not torch.equal(adam[1][7], adam[0][7])


def test_sparse_and_dense_tables_get_the_same_gradients() -> None:
    gradients = []
    for tables in ("adam", "rowwise_adagrad"):
        given = tiny.settings({"trainer.optimizer": {"tables": tables}})
        encoder, criterion = tiny.model(given)
        criterion(tiny.step(given, encoder, tiny.batch()))[0].backward()
        gradients.append({name: copy.copy(p.grad).to_dense() for name, p in encoder.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("tables", ["adam", "rowwise_adagrad"])
def test_large_gradients_are_scaled_down_together(tables: str) -> None:
    def gradients(clip: float | None) -> list[torch.Tensor]:
        given = tiny.settings({"trainer.optimizer": {"tables": tables, "clip": clip}, "trainer.sharded_tables": ["user_id"]})
        encoder, criterion = tiny.model(given, backend=SingleBackend())
        optimizers = Optimizers(given, encoder, criterion)
        criterion(tiny.step(given, encoder, tiny.batch()))[0].backward()
        SingleBackend().sync_gradients(optimizers.parameters)
        optimizers.clip(gradient_norms(optimizers.parameters, encoder.tables(), SingleBackend())["grad_norm"])
        return [parameter.grad.to_dense() for parameter in optimizers.parameters if parameter.grad is not None]

    whole = gradients(None)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in whole))
    assert all(gradient.any() for gradient in whole)
    torch.testing.assert_close(gradients(2 * norm), whole, rtol=0, atol=0)
    for small, large in zip(gradients(norm / 4), whole, strict=True):
        torch.testing.assert_close(small, large / 4)


def test_only_routed_interests_are_clipped_unless_asked() -> None:
    def clipped(overrides: dict[str, object]) -> float:
        given = tiny.settings(overrides)
        encoder, criterion = tiny.model(given)
        optimizers = Optimizers(given, encoder, criterion)
        optimizers.parameters[0].grad = torch.full_like(optimizers.parameters[0], 30.0)
        optimizers.clip(30.0)
        return float(optimizers.parameters[0].grad.flatten()[0])

    assert clipped({}) == clipped({"model.encoder": "comirec_sa"}) == 30
    assert clipped({"model.encoder": "comirec_dr"}) == pytest.approx(5)
    assert clipped({"model.encoder": "comirec_dr", "trainer.optimizer": {"clip": None}}) == 30
    assert clipped({"trainer.optimizer": {"clip": 2}}) == pytest.approx(2)


def test_a_model_of_tables_alone_trains_and_can_be_stopped() -> None:
    given = tiny.settings({**ROWWISE, "model.encoder": "fm", "base": {"loss": "sampled_softmax"}, "objectives": {}})
    encoder, criterion = tiny.model(given)
    optimizers = Optimizers(given, encoder, criterion)
    before = [table.detach().clone() for table in optimizers.parameters]
    criterion(tiny.step(given, encoder, tiny.batch()))[0].backward()
    optimizers.step()
    assert all(not torch.equal(table, old) for table, old in zip(optimizers.parameters, before, strict=True))
    poison(optimizers.parameters)
    SingleBackend().sync_gradients(optimizers.parameters)
    assert math.isnan(gradient_norms(optimizers.parameters, encoder.tables())["grad_norm"])
