"""What one worker does in the tests with tables that are divided over the workers: train, cut and go on, validate, look up nothing."""

from pathlib import Path
from typing import Any

import torch
from pyarrow import fs as pafs
from torch import Tensor

from conf.settings import Settings
from tests.trainer import tiny
from trainer.backends import Backend, replicated, shards_of
from trainer.backends.single import SingleBackend
from trainer.checkpoints import Checkpoints
from trainer.encoders.sharded import ShardedTable
from trainer.loop import Model
from trainer.optimizers import Optimizers
from trainer.validation import Queries, recall

FIELDS = ["user_id", "item_id"]
OPTIMIZERS = ("adam", "rowwise_adagrad", "sparse_adam")
BEFORE, AFTER = 3, 2  # steps before and after a training is cut
USERS = (0, 1, 5)  # that are validated: fewer than workers, and not the same number on each


def settings(tables: str, seed: int = 5) -> Settings:
    return tiny.settings({"objectives.mic": None, "trainer": {"optimizer": {"tables": tables}, "sharded_tables": FIELDS, "seed": seed}})


def model(given: Settings, backend: Backend | None) -> Model:
    encoder, criterion = tiny.model(given, torch.float64, backend)
    return Model(encoder, criterion, Optimizers(given, encoder, criterion))


def train(given: Settings, made: Model, backend: Backend, numbers: range) -> dict[str, Tensor]:
    """The weights after these steps, whole."""
    for number in numbers:
        made.optimizers.zero_grad()
        rows = tiny.rows_of(tiny.batch(12, seed=number), list(range(backend.rank, 12, backend.size)))
        made.criterion(tiny.step(given, made.encoder, rows, backend, number))[0].backward()
        backend.sync_gradients(made.optimizers.parameters)
        made.optimizers.step()
    return weights(made, backend)


def weights(made: Model, backend: Backend) -> dict[str, Tensor]:
    return {name: tiny.whole(parameter, parameter.data, backend) for name, parameter in made.encoder.named_parameters()}


def checkpoints(folder: Path, backend: Backend) -> Checkpoints:
    return Checkpoints(pafs.LocalFileSystem(), str(folder), "same", backend)


def save(folder: Path, made: Model, backend: Backend) -> None:
    kept = checkpoints(folder, backend)
    kept.save_best(replicated(made.encoder), shards_of(made.encoder))
    kept.save(made.state_dict(), made.rows())


def go_on(folder: Path, tables: str, backend: Backend) -> dict[str, Tensor]:
    """The weights of a training that was cut, taken up by these workers, who would begin with other weights."""
    kept, made = checkpoints(folder, backend), model(settings(tables, seed=6), backend)
    state = kept.load(print)
    assert state is not None
    made.load_state_dict(state, kept.load_rows())
    return train(settings(tables), made, backend, range(BEFORE, BEFORE + AFTER))


def resumed(backend: Backend, folder: Path, tables: str) -> dict[str, Any]:
    """A whole training; the same one cut and taken up by as many workers, and from one worker's checkpoint."""
    given = settings(tables)
    own, one = folder / f"{tables}-{backend.size}", folder / f"{tables}-one-for-{backend.size}"
    made = model(given, backend)
    train(given, made, backend, range(BEFORE))
    save(own, made, backend)
    whole = train(given, made, backend, range(BEFORE, BEFORE + AFTER))
    if backend.rank == 0:
        alone = SingleBackend()
        begun = model(given, alone)
        train(given, begun, alone, range(BEFORE))
        save(one, begun, alone)
    backend.barrier(timeout_s=30)
    return {"whole": whole, "again": go_on(own, tables, backend), "from one": go_on(one, tables, backend)}


def recalled(backend: Backend, users: int) -> float:
    """The recall of so many users, shared out unequally."""
    encoder = model(settings("adam"), backend).encoder
    rows = tiny.rows_of(tiny.batch(max(users, 1)), list(range(users))[backend.rank :: backend.size])
    queries = Queries(rows, rows["item_idx"][:, None], rows["hist"][:, :0])
    return recall(encoder, queries, torch.arange(1, tiny.ITEMS + 1), at=3, backend=backend) if users else 0.0


def idle(backend: Backend) -> dict[str, Tensor]:
    """Vectors and gradient where only the last rank looks anything up, with an id in twice, and one that is PAD."""
    table = tiny.encoder(settings("rowwise_adagrad"), backend).get_submodule("embed.item_id")
    assert isinstance(table, ShardedTable)
    last = backend.rank == backend.size - 1
    vectors = table(torch.tensor([[3, 0], [7, 3]] if last else [], dtype=torch.int64).view(-1, 2))
    (vectors * torch.tensor([[1.0], [2.0]])).sum().backward()
    backend.sync_gradients([table.weight])
    return {"vectors": backend.gather_ids(vectors), "gradient": tiny.whole(table.weight, table.weight.grad, backend)}


def sharded(backend: Backend, folder: Path) -> dict[str, Any]:
    """All of it."""
    return {
        "resumed": {tables: resumed(backend, folder, tables) for tables in OPTIMIZERS},
        "recall": {users: recalled(backend, users) for users in USERS},
        "idle": idle(backend),
        "rows": [len(table.weight) for table in model(settings("adam"), backend).encoder.modules() if isinstance(table, ShardedTable)],
    }
