import pytest
import torch
from torch import nn

from tests.trainer import tiny
from trainer.backends import SparseTable, is_sparse_table
from trainer.deferred import deferred_init, is_deferred, materialize_module, materialize_tensor
from trainer.encoders import ENCODERS, build_encoder
from trainer.encoders.layers import Dense, Table, tower


def test_deferred_modules_have_shapes_but_no_storage() -> None:
    # a table of 4 TB: it could not be built otherwise
    table = deferred_init(Table, 10**10, 100, init=0.05, sparse=True)
    assert is_deferred(table)
    assert table.weight.shape == (10**10, 100)


def test_weights_depend_on_names_and_seed_not_on_build_order() -> None:
    def build(seed: int, *, backwards: bool) -> dict[str, torch.Tensor]:
        parts = [("a", deferred_init(Dense, 4, 3)), ("b", deferred_init(Table, 20, 3, init=0.1, sparse=False))]
        module = nn.ModuleDict(dict(parts[::-1] if backwards else parts))
        torch.manual_seed(99 if backwards else 1)
        materialize_module(module, seed=seed)
        return dict(module.state_dict())

    one, other = build(7, backwards=False), build(7, backwards=True)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0)
    assert not torch.equal(build(8, backwards=False)["a.weight"], one["a.weight"])


def test_encoder_weights_come_from_the_seed_alone() -> None:
    given = tiny.settings()
    torch.manual_seed(1)
    one = tiny.encoder(given).state_dict()
    torch.manual_seed(2)
    torch.rand(5)
    for name, value in tiny.encoder(given).state_dict().items():
        torch.testing.assert_close(value, one[name], rtol=0, atol=0)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(4)
    want = torch.rand(3)
    torch.manual_seed(4)
    tiny.model(tiny.settings())
    torch.testing.assert_close(torch.rand(3), want)


def test_torch_modules_use_their_own_reset_seeded_by_name() -> None:
    modules = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = deferred_init(lambda: nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.BatchNorm1d(2)))
        materialize_module(module, seed=5)
        modules.append(module)
    assert not is_deferred(modules[0])
    torch.testing.assert_close(modules[0].state_dict(), modules[1].state_dict())
    assert modules[0][0].weight.abs().sum() > 0
    torch.testing.assert_close(modules[0][2].running_var, torch.ones(2))


def test_a_module_that_cannot_reset_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(2))

    with pytest.raises(TypeError, match=r"'0' \(Odd\) owns parameters but has no reset"):
        materialize_module(nn.Sequential(deferred_init(Odd)), seed=1)


def test_shared_parameters_stay_shared() -> None:
    def build() -> nn.Sequential:
        first, second = Dense(3, 3), Dense(3, 3)
        second.weight = first.weight
        return nn.Sequential(first, second)

    module = deferred_init(build)
    materialize_module(module, seed=1)
    assert module[0].weight is module[1].weight


def test_check_fn_and_buffers_only() -> None:
    module = deferred_init(lambda: nn.Sequential(Dense(3, 3), nn.BatchNorm1d(3)))
    materialize_module(module, seed=1, buffers_only=True)
    assert not module[1].running_mean.is_meta
    assert module[1].weight.is_meta
    materialize_module(module, seed=1, check_fn=lambda sub: isinstance(sub, Dense))
    assert not module[0].weight.is_meta
    assert module[1].weight.is_meta


def test_materialize_tensor_keeps_the_class() -> None:
    with torch.device("meta"):
        parameter, plain = SparseTable(torch.empty(3, 2)), torch.empty(2)
    real = materialize_tensor(parameter)
    assert is_sparse_table(real)
    assert real.shape == (3, 2)
    assert not materialize_tensor(plain).is_meta
    assert materialize_tensor(real) is real


def test_a_memory_estimate_needs_no_memory() -> None:
    given = tiny.settings()
    huge = dict(tiny.VOCAB, item_id=10**11)
    encoder = deferred_init(ENCODERS["dssm"], given, given.registry(), tiny.catalogue(given), huge)
    assert sum(p.numel() * p.element_size() for p in encoder.tables()) > 10**12


def test_tower_starts_as_glorot_and_bengio_say() -> None:
    module = deferred_init(tower, 300, [200], 100)
    materialize_module(module, seed=3)
    bound = (6 / 500) ** 0.5
    weight = module[0].weight
    assert weight.abs().max() <= bound
    assert abs(weight.std() - bound / 3**0.5) < 1e-3
    assert module[0].bias.abs().max() == 0


def test_unknown_encoder() -> None:
    given = tiny.settings()
    model = given.model.model_copy(update={"encoder": "dsm"})
    with pytest.raises(ValueError, match=r"unknown encoder 'dsm'; known: .*dssm"):
        build_encoder(given.model_copy(update={"model": model}), given.registry(), tiny.catalogue(given), tiny.VOCAB)
