"""Tables that are divided over the workers, as far as one process shows it; tests/contracts/test_workers.py shows the rest with several."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conf.fields import MASK, PAD
from tests.trainer import tiny
from trainer.backends import Shard, SparseTable, is_sparse_table, replicated, shards_of
from trainer.backends.single import SingleBackend
from trainer.deferred import deferred_init, materialize_module, reset_module
from trainer.diagnostics import gradient_norms
from trainer.encoders.layers import Table
from trainer.encoders.sharded import ShardedTable, own_rows, shard_tables
from trainer.loop import poison
from trainer.optimizers import Optimizers
from trainer.warm_start import Warm, begin

FIELDS = ["user_id", "item_id", "tags"]
SHARDED = {"trainer.sharded_tables": FIELDS}


@dataclass
class Rank(SingleBackend):
    """A worker of several, who talks to nobody."""

    rank: int
    size: int


def table(num: int, dim: int, backend: SingleBackend, *, sparse: bool = True) -> ShardedTable:
    def build() -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"item_id": Table(num, dim, init=0.5, sparse=sparse)})

    embed = deferred_init(build)
    shard_tables(embed, ["item_id"], backend)
    materialize_module(embed, seed=3)
    made = embed["item_id"]
    assert isinstance(made, ShardedTable)
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_shards_are_the_rows_of_the_whole(size: int) -> None:
    whole = torch.nn.ModuleDict({"item_id": Table(13, 4, init=0.5, sparse=False)})
    reset_module(whole["item_id"], seed=3, name="item_id")
    want = whole.get_parameter("item_id.weight").detach()
    assert not want[[PAD, MASK]].any()
    for rank in range(size):
        got = table(13, 4, Rank(rank, size)).weight
        torch.testing.assert_close(got.detach(), want[rank::size], rtol=0, atol=0)


class Largest(TorchDispatchMode):
    """The most elements that a tensor with storage had."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [
            x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if isinstance(x, torch.Tensor) and not x.is_meta
        ]
        self.most = max([self.most, *sizes])
        return out


def test_the_whole_is_never_held() -> None:
    num, dim = 2_000_000, 8
    with Largest() as seen:
        made = table(num, dim, Rank(1, 4))
    assert made.weight.numel() == num * dim // 4 == seen.most


@pytest.mark.parametrize("sparse", [True, False])
def test_the_gradient_by_finite_differences(sparse: bool) -> None:
    made = table(9, 3, SingleBackend(), sparse=sparse).double()
    ids = torch.tensor([[5, 2, 0], [2, 8, 5]])
    weight = torch.arange(1.0, 19, dtype=torch.float64).view(2, 3, 3)

    def loss() -> torch.Tensor:
        return ((made(ids) * weight).sum(dim=(1, 2)) ** 2 + (made.mean(ids) ** 3).sum(dim=1)).sum()

    loss().backward()
    SingleBackend().sync_gradients([made.weight])
    assert made.weight.grad is not None
    assert made.weight.grad.is_sparse is sparse
    got = made.weight.grad.to_dense()
    for row, column in [(r, c) for r in range(9) for c in range(3)]:
        values = []
        for nudge in (1e-5, -1e-5):
            with torch.no_grad():
                made.weight[row, column] += nudge
                values.append(float(loss()))
                made.weight[row, column] -= nudge
        want = 0.0 if row == PAD else (values[0] - values[1]) / 2e-5  # PAD is zero for good
        assert float(got[row, column]) == pytest.approx(want, abs=1e-6)


def test_a_gradient_counts_once() -> None:
    made, backend = table(9, 3, SingleBackend()), SingleBackend()
    made(torch.tensor([4])).sum().backward()
    backend.sync_gradients([made.weight])
    backend.sync_gradients([made.weight])
    assert made.weight.grad is not None
    assert not made.weight.grad.to_dense().any()


def test_forgotten_gradients_do_not_come_back() -> None:
    given = tiny.settings(SHARDED)
    encoder, criterion = tiny.model(given, backend=SingleBackend())
    optimizers = Optimizers(given, encoder, criterion)
    criterion(tiny.step(given, encoder, tiny.batch()))[0].backward()
    optimizers.zero_grad()
    SingleBackend().sync_gradients(optimizers.parameters)
    assert gradient_norms(optimizers.parameters, encoder.tables(), SingleBackend())["grad_norm"] == 0


def test_a_copy_is_a_shard_of_its_own() -> None:
    made = table(9, 3, Rank(1, 2))
    twin = copy.deepcopy(made)
    assert isinstance(twin.weight, Shard)
    assert is_sparse_table(twin.weight)
    assert not is_sparse_table(table(9, 3, Rank(1, 2), sparse=False).weight)
    assert not isinstance(SparseTable(torch.ones(1)), Shard)
    assert twin.weight.pending is not made.weight.pending


def test_all_tables_of_a_field_are_divided() -> None:
    given = tiny.settings({**tiny.by_encoder("fm"), **SHARDED})
    encoder = tiny.encoder(given, Rank(0, 2))
    assert set(shards_of(encoder)) == {f"{part}.{name}.weight" for part in ("embed", "linear") for name in FIELDS} - {
        "linear.user_id.weight"
    }
    assert not set(shards_of(encoder)) & set(replicated(encoder))
    assert {*shards_of(encoder), *replicated(encoder)} == set(encoder.state_dict())
    assert {id(p) for p in encoder.tables()} >= {id(p) for p in encoder.parameters() if isinstance(p, Shard)}


def test_an_earlier_model_gives_each_worker_its_rows() -> None:
    whole = tiny.encoder(tiny.settings({"trainer.seed": 8}))
    old = {name: values[:9] if name == "embed.item_id.weight" else values for name, values in whole.state_dict().items()}
    encoder = tiny.encoder(tiny.settings(SHARDED), Rank(1, 2))
    fresh = encoder.get_parameter("embed.item_id.weight").detach().clone()
    begin(encoder, Warm(old, "dssm-1", {}))
    got = encoder.get_parameter("embed.item_id.weight")
    torch.testing.assert_close(got[:4], old["embed.item_id.weight"][1::2])
    torch.testing.assert_close(got[4:], fresh[4:])  # rows 9 and 11 are new
    assert own_rows(encoder, "embed.gender.weight", old["embed.gender.weight"]) is old["embed.gender.weight"]


def test_a_bad_loss_is_known_though_all_that_learns_is_divided() -> None:
    backend, made = SingleBackend(), table(9, 3, SingleBackend())
    poison([made.weight])
    backend.sync_gradients([made.weight])
    assert math.isnan(gradient_norms([made.weight], [made.weight], backend)["grad_norm.tables"])
